"""What became of every slot: columns, filled as probes leave and replies come.

Columns are stdlib buffers, so that an array library can view them without copying. Two clocks
stand side by side and are never subtracted from each other: `*_ns` is the wall clock that the
kernel stamps packets with, `sent_at` the monotonic one that deadlines are counted in. This file
knows no packet and reads no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from allhops.model import ProbeState

if TYPE_CHECKING:
    from allhops.model import Extension

UNSENT, IN_FLIGHT, ANSWERED, TIMED_OUT, LOCAL_ERROR, CANCELLED = range(6)

STATES: tuple[ProbeState | None, ...] = (
    None,
    None,
    ProbeState.ANSWERED,
    ProbeState.TIMED_OUT,
    ProbeState.LOCAL_ERROR,
    ProbeState.CANCELLED,
)
"""Column value to public state; None while a probe has not ended."""

ADDRESS_BYTES = 16
"""Room for one address of either family."""

ANSWER: dict[str, tuple[Literal["B", "H", "q"], int]] = {
    "received_ns": ("q", 16),
    "matched": ("H", 24),
    "mtu": ("H", 26),
    "duplicates": ("H", 28),
    "kind": ("B", 30),
    "icmp_type": ("B", 31),
    "icmp_code": ("B", 32),
    "reply_ttl": ("B", 33),
    "quoted_ttl": ("B", 34),
    "quoted_tos": ("B", 35),
    "port_state": ("B", 36),
    "flags": ("B", 37),
    "hearsay": ("B", 38),
}
"""What is known of a slot's first reply, behind the address of who sent it: (struct format, offset in bytes) of each
field. They stand side by side because a reply fills all of them at once, and slots answer in no order: a column each
would be a miss of the cache each."""
ANSWER_SIZE = 40
"""Bytes."""

MAX_GUESSES = 64
"""Replies for each course that may be wrong in what proves them before anything less than the cookie is doubted: more
than the few routers of one path that falsify what they quote make in one trace."""
MAX_DUPLICATES = 0xFFFF


@dataclass(slots=True)
class Counters:
    """How many packets of which sort. Fixed size, whatever the network sends."""

    sent: int = 0
    matched: int = 0
    duplicate: int = 0
    late: int = 0
    forged: int = 0
    """Named a probe of ours, but cookie, checksum or check bits are wrong, or the responder cannot exist."""
    foreign: int = 0
    """Well-formed answers to other people's packets."""
    unnamed: int = 0
    """Ours, but showing too little of the probe to say which it was."""
    malformed: int = 0
    extension_error: int = 0
    """Replies that were matched and whose ICMP extensions are broken: those are left out."""
    bare: int = 0
    """Foreign echo replies without payload (also counted as foreign): a forger's guesses look like this."""
    kernel_drops: int = 0
    """Packets that the kernel dropped because our receive buffer was full. Error queues do not count theirs: there it
    is how often one was found full, a lower bound.
    """


class Ledger:
    """Columns indexed by slot; see the module for the clocks.

    `state` is a byte. `error`: errno of a probe that could not be sent. `late_ns`: stamp of the first reply to a probe
    that had been given up, 0 for none. Columns of the answer are views of `answers`, which has `ANSWER_SIZE` bytes a
    slot: `received_ns`; 16 bits of `matched` (see `evidence`), `mtu` and `duplicates`; a byte of `kind`, `icmp_type`,
    `icmp_code`, `reply_ttl`, `quoted_ttl`, `quoted_tos`, `port_state`, `flags` (see `classify` and `evidence`) and
    `hearsay` (see `lanes.hearsay`); and, through `responder_of`, who answered.
    `extensions`: only the slots that have some. `nameless`: courses that had a reply which names none of their probes.
    """

    def __init__(self, slots: int, counters: Counters | None = None, courses: int = 1) -> None:
        self.state = bytearray(slots)
        self.error = memoryview(bytearray(2 * slots)).cast("H")
        self.sent_ns = memoryview(bytearray(8 * slots)).cast("q")
        self.late_ns = memoryview(bytearray(8 * slots)).cast("q")
        self.answers = bytearray(ANSWER_SIZE * slots)
        self.received_ns = self._column("received_ns")
        self.matched = self._column("matched")
        self.mtu = self._column("mtu")
        self.duplicates = self._column("duplicates")
        self.kind = self._column("kind")
        self.icmp_type = self._column("icmp_type")
        self.icmp_code = self._column("icmp_code")
        self.reply_ttl = self._column("reply_ttl")
        self.quoted_ttl = self._column("quoted_ttl")
        self.quoted_tos = self._column("quoted_tos")
        self.port_state = self._column("port_state")
        self.flags = self._column("flags")
        self.hearsay = self._column("hearsay")
        self.extensions: dict[int, tuple[Extension, ...]] = {}
        self.nameless: set[int] = set()
        self.counters = counters if counters is not None else Counters()
        self.guesses = 0
        self._most_guesses = MAX_GUESSES * courses
        self._bare_before = self.counters.bare

    @cached_property
    def sent_at(self) -> memoryview[float]:
        """Seconds of the monotonic clock; made for who asks: a batch does not."""
        return memoryview(bytearray(8 * len(self.state))).cast("d")

    @property
    def is_under_attack(self) -> bool:
        """Whether so many replies were wrong in what only this session knows that somebody may be guessing it.

        Then only the cookie counts. What proves less has at least 16 secret bits, and `MAX_GUESSES` tries at those for
        each course succeed once in a thousand traces, however fast they come.
        """
        return self.guesses_left < 0

    @property
    def guesses_left(self) -> int:
        """How many more of them it takes at least, less one; below 0 when there were enough."""
        return self._most_guesses - (self.guesses + self.counters.bare - self._bare_before)

    def responder_of(self, slot: int, size: int) -> bytes:
        """Packed address (`size` bytes) that answered a slot."""
        start = slot * ANSWER_SIZE
        return bytes(self.answers[start : start + size])

    def note_responder(self, slot: int, packed: bytes) -> None:
        """This address answered it."""
        start = slot * ANSWER_SIZE
        self.answers[start : start + len(packed)] = packed

    def late_rtt_ns(self, slot: int) -> int | None:
        """RTT of a reply that came too late to count; None for none."""
        rtt = self.late_ns[slot] - self.sent_ns[slot]
        return rtt if self.late_ns[slot] and rtt >= 0 else None

    def rtt_ns(self, slot: int) -> int | None:
        """Kernel receive stamp minus send stamp; None when the wall clock was stepped back in between."""
        rtt = self.received_ns[slot] - self.sent_ns[slot]
        return rtt if rtt >= 0 else None

    def _column(self, name: str) -> memoryview[int]:
        code, offset = ANSWER[name]
        view = memoryview(self.answers).cast(code)
        return view[offset // view.itemsize :: ANSWER_SIZE // view.itemsize]

    def __repr__(self) -> str:
        state = self.state
        return (
            f"<Ledger [{len(state) - state.count(UNSENT)} probes: {state.count(ANSWERED)} answered, "
            f"{state.count(IN_FLIGHT)} in flight, {state.count(TIMED_OUT)} timed out, "
            f"{state.count(LOCAL_ERROR)} local errors, {state.count(CANCELLED)} cancelled]>"
        )
