"""JSON Lines of a batch, made straight from its columns: to the byte what `--json` writes for each trace.

Values of the model for every probe, and `json.dumps` of them, take twenty times as long. Here a line is a sequence of
pieces of text: its head, and those of its probes (hop_texts.py). Most of them were made before, by the readers of
`records.py`, and are found again by what they depend on (remembered.py). This file knows no clock.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from allhops.core.ledger import ANSWERED
from allhops.enrich.clean import clean_text
from allhops.output.fragments import cut
from allhops.output.hop_texts import PIECES, probe_pieces, unasked_texts
from allhops.output.json import compact, line
from allhops.output.records import SCHEMA, TRACE, timestamp
from allhops.output.remembered import Remembered, address_texts
from allhops.output.rounding import milliseconds_texts
from allhops.wire.classify import DESTINATION

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from numpy.typing import NDArray

    from allhops.core.harvest import Harvest, Hops, Rows
    from allhops.model import Trace

MOST_AT_ONCE = 2_560
"""Probes and heads: 2 ms, 1.1 MB of text. From 1.3 MB on, the allocator takes the memory from the kernel anew each
time, which costs more than longer arrays save."""

_SCHEMA, _DESTINATION, _ADDRESS, _ORIGIN, _STARTED, _DURATION, _REACHED, _OUTCOME, _HOPS = cut(
    TRACE,
    ("schema",),
    ("destination",),
    ("address",),
    ("source", "protocol"),
    ("started_at",),
    ("duration_ms",),
    ("reached",),
    ("stop_reason", "error", "flow", "backend", "flow_constant", "path_mtu"),
    ("hops",),
)
_END = "]}\n"
_BEGIN = f'{_END}{{{_SCHEMA.name}{compact(SCHEMA)},{_DESTINATION.name}"'
_PLAIN = re.compile(r"[ !#-\[\]-~]*")
"""What neither the sanitiser nor JSON changes."""
_ORIGINS: dict[Hashable, str] = {}
_OUTCOMES: defaultdict[Hashable, Remembered] = defaultdict(Remembered)
_SECONDS = Remembered()
_BELOW_SECOND = len("000000Z")
_DIGITS = np.array([f"{number:03d}" for number in range(1_000)], object)
_TRUTH = {False: "false", True: "true"}


class JsonLines:
    """Writes one line for each trace; `write` is given whole lines."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def harvest(self, harvest: Harvest) -> None:
        """One line for each course; of many, hand in one of the `parts` at a time."""
        if len(harvest):
            self._write("".join(_pieces(harvest)).encode("ascii"))

    def trace(self, trace: Trace) -> None:
        """The line of a destination that the batch did not trace itself."""
        self._write(line(trace).encode("ascii"))


def parts(harvest: Harvest) -> Iterator[Harvest]:
    """A harvest in parts of one size, which arrays and memory like and an event loop can wait for."""
    hops = int((harvest.last_ttl + 1 - harvest.plan.options.first_ttl).sum())
    count = -(-(hops * harvest.plan.options.attempts + len(harvest)) // MOST_AT_ONCE)
    return harvest.split(-(-len(harvest) // max(count, 1)))


def _pieces(harvest: Harvest) -> list[str]:
    """The text of all lines, in pieces."""
    rows = harvest.shown()
    hops = harvest.hops(rows)
    packed = harvest.destinations()
    addresses = address_texts(packed)
    pieces = [*probe_pieces(harvest, rows, hops, packed, addresses), ""]
    places, texts = _between(harvest, rows, hops, addresses)
    for place, text in zip(reversed(places), reversed(texts), strict=True):
        pieces[place] = text + pieces[place]
    return pieces


def _between(harvest: Harvest, rows: Rows, hops: Hops, addresses: list[str]) -> tuple[list[int], list[str]]:
    """What stands between the pieces of the probes, in order: how many of them stand before it; its text.

    These are the heads, what ends the last line, and the hops without probes.
    """
    heads = np.arange(len(harvest) + 1)
    unasked = np.flatnonzero(hops.begin == hops.end)
    place = hops.place[unasked]
    at_heads, at_unasked = heads + np.searchsorted(place, heads), place + 1 + np.arange(len(place))
    probes = np.empty(len(heads) + len(unasked), np.int64)
    probes[at_heads], probes[at_unasked] = np.searchsorted(rows.place, heads), hops.begin[unasked]
    texts = np.empty(len(probes), object)
    texts[at_heads], texts[at_unasked] = (
        [*_heads(harvest, rows, addresses), _END],
        unasked_texts(harvest, hops, unasked),
    )
    return (PIECES * probes).tolist(), texts.tolist()


def _heads(harvest: Harvest, rows: Rows, addresses: list[str]) -> list[str]:
    """Each trace up to its hops, with what ends the line before it."""
    plan, options = harvest.plan, harvest.plan.options
    common = (plan.source, options.protocol, options.destination_port, harvest.backend)
    origin = _ORIGINS.get(common) or _ORIGINS.setdefault(common, _ORIGIN.text(harvest.trace(0)))
    reached = _reached(harvest, rows)
    says = np.stack((reached, harvest.stop, harvest.errors, harvest.source_ports()), axis=1)

    def make(place: int) -> str:
        return f"{_REACHED.name}{_TRUTH[bool(reached[place])]},{_OUTCOME.text(harvest.trace(place))},{_HOPS.name}["

    seconds, micro = np.divmod(harvest.started_ns // 1_000, 1_000_000)
    begun, duration = f'",{_ADDRESS.name}', f'Z",{_DURATION.name}'
    origin = f',{origin},{_STARTED.name}"'
    heads = [
        f"{_BEGIN}{name}{begun}{address}{origin}{second}{high}{low}{duration}{took},{outcome}"
        for name, address, second, high, low, took, outcome in zip(
            _names([harvest.names[course] for course in harvest.courses.tolist()]),
            addresses,
            _SECONDS.texts(
                seconds.view(np.uint64), lambda at: timestamp(int(harvest.started_ns[at]))[:-_BELOW_SECOND]
            ).tolist(),
            _DIGITS[micro // 1_000].tolist(),
            _DIGITS[micro % 1_000].tolist(),
            milliseconds_texts(harvest.duration_ns),
            _OUTCOMES[common].texts(says.view(np.uint64), make).tolist(),
            strict=True,
        )
    ]
    heads[0] = heads[0].removeprefix(_END)
    return heads


def _names(names: list[str]) -> list[str]:
    """Each destination as it was asked for, without its quotes."""
    return names if _PLAIN.fullmatch("".join(names)) else [compact(clean_text(name))[1:-1] for name in names]


def _reached(harvest: Harvest, rows: Rows) -> NDArray[np.bool_]:
    """(n,): whether the last hop of each course shows the destination's own answer."""
    arrived = (harvest.column("kind", rows.slot) == DESTINATION) & (harvest.column("state", rows.slot) == ANSWERED)
    reached = np.zeros(len(harvest), np.bool_)
    reached[rows.place[arrived & (rows.ttl == harvest.last_ttl[rows.place])]] = True
    return reached
