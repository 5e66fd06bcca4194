"""One flow to one destination as it unfolds: where the path ends, and what is still worth waiting for.

The path ends at the lowest TTL that reached the destination; failing that, at the lowest that somebody
called unreachable; failing that, where a loop closes. Rows below that end matter, and so does the end's own
row until it has all its samples; nothing else can change the result.

**Waiting.** Nobody can tell a slow hop from a silent one except by waiting, so a probe is given up late enough for
the slow ones and early enough that silence does not cost what it costs elsewhere. What this trace has heard sets
the wait, within the caller's timeout:

* Something beyond this TTL answered, or another attempt at it: `NEAR_FACTOR` times the slowest RTT so far, and
  at least a quarter of the timeout (0.5 s by default): the path is known to go on, only this row may be slow. A
  first hop of 300 ms before a destination of 30 ms is seen.
* Nothing beyond it answered, but something before did: `TAIL_FACTOR` times the slowest RTT, at least half of
  the timeout (1 s): the destination itself may be among these.
* Nothing has answered at all: the whole timeout.

This file reads no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allhops.core.ledger import ANSWERED, CANCELLED, IN_FLIGHT, LOCAL_ERROR, TIMED_OUT
from allhops.core.paths import hop_from
from allhops.model import StopReason
from allhops.wire.classify import DESTINATION, UNREACHABLE

if TYPE_CHECKING:
    from allhops.core.ledger import Ledger
    from allhops.core.plan import Plan
    from allhops.model import Hop

NEAR_FACTOR = 4
TAIL_FACTOR = 6
NEAR_SHARE = 0.25
"""Of the timeout: the shortest wait for a hop that the path is known to pass."""
TAIL_SHARE = 0.5
"""Of the timeout: the shortest wait for what lies beyond the last answer."""
LOOP_VISITS = 3
"""TTLs at which one responder must have been met, with another in between, to call it a loop."""
_FINAL = (ANSWERED, TIMED_OUT, LOCAL_ERROR, CANCELLED)


class Course:
    """The state of one course; columns stay in the ledger, here is only what the stop rules need."""

    def __init__(self, plan: Plan, ledger: Ledger, index: int) -> None:
        self.plan = plan
        self.ledger = ledger
        self.index = index
        self.reached_ttl: int | None = None
        self.unreachable_ttl: int | None = None
        self.loop_ttl: int | None = None
        self.highest_heard = plan.options.first_ttl - 1
        self.slowest_ns = 0
        self.sent = 0
        self.failed = 0
        self.last_error = 0
        self._met: dict[int, set[bytes]] = {}

    # What happened

    def note_sent(self, slot: int) -> None:
        """A probe left, or failed to: the ledger's state says which."""
        self.sent += 1
        if self.ledger.state[slot] == LOCAL_ERROR:
            self.failed += 1
            self.last_error = self.ledger.error[slot]

    def note_answered(self, slot: int) -> None:
        """A probe was answered; the ledger holds the reply."""
        ttl = self.plan.ttl_of(slot)
        kind = self.ledger.kind[slot]
        self.slowest_ns = max(self.slowest_ns, self.ledger.rtt_ns(slot) or 0)
        self.highest_heard = max(self.highest_heard, ttl)
        if kind == DESTINATION:
            self.reached_ttl = min(self.reached_ttl or ttl, ttl)
        elif kind == UNREACHABLE:
            self.unreachable_ttl = min(self.unreachable_ttl or ttl, ttl)
        elif self.loop_ttl is None:
            self.loop_ttl = self._loop_closes_at(ttl, self.responder_of(slot))

    def expire(self, now: float) -> float | None:
        """Give up the probes whose wait is over; when the next one's will be, if any is in flight."""
        state, sent_at = self.ledger.state, self.ledger.sent_at
        earliest: float | None = None
        for ttl in self._ttls():
            wait = self._wait(ttl)
            for slot in self.plan.row(self.index, ttl):
                if state[slot] != IN_FLIGHT:
                    continue
                expiry = sent_at[slot] + wait
                if expiry <= now:
                    state[slot] = TIMED_OUT
                elif earliest is None or expiry < earliest:
                    earliest = expiry
        return earliest

    def cancel(self) -> None:
        """Nothing that is still out can change the result."""
        state = self.ledger.state
        for slot in self.plan.course_slots(self.index):
            if state[slot] == IN_FLIGHT:
                state[slot] = CANCELLED

    def responder_of(self, slot: int) -> bytes:
        """Packed address that answered a slot."""
        return self.ledger.responder_of(slot, self.plan.layout.family.address_size)

    # What it means

    @property
    def end_ttl(self) -> int | None:
        """TTL of the path's last row, as far as is known; None while it may go on."""
        return self.reached_ttl or self.unreachable_ttl or self.loop_ttl

    @property
    def unsendable(self) -> bool:
        """Whether this machine refused every probe so far."""
        return self.sent > 0 and self.failed == self.sent

    def is_useful(self, slot: int) -> bool:
        """Whether sending this probe can still change the result."""
        end = self.end_ttl
        ttl = self.plan.ttl_of(slot)
        return end is None or ttl < end or (ttl == end and not self._end_row_is_full(end))

    def is_complete(self) -> bool:
        """Whether nothing that is out, or still to be sent, can change the result."""
        return all(map(self.row_is_complete, self._ttls()))

    def row_is_complete(self, ttl: int) -> bool:
        """Whether every probe of a row has ended, or the end's row has all its samples."""
        if ttl == self.end_ttl and self._end_row_is_full(ttl):
            return True
        state = self.ledger.state
        return all(state[slot] in _FINAL for slot in self.plan.row(self.index, ttl))

    def row_is_certain(self, ttl: int) -> bool:
        """Whether a complete row can be shown before the trace ends: the path is known to pass it."""
        end = self.end_ttl
        if end is not None:
            return ttl <= end and self.row_is_complete(ttl)
        return ttl <= self.highest_heard and self.row_is_complete(ttl)

    def stop_reason(self) -> StopReason:
        """Why a complete course ended."""
        if self.unsendable:
            return StopReason.LOCAL_ERROR
        if self.reached_ttl is not None:
            return StopReason.REACHED
        if self.unreachable_ttl is not None:
            return StopReason.UNREACHABLE
        if self.loop_ttl is not None:
            return StopReason.LOOP
        silent = self.plan.options.max_ttl - self.highest_heard
        return StopReason.GAP_LIMIT if silent >= self.plan.options.gap_limit else StopReason.MAX_TTL

    def last_ttl(self) -> int:
        """TTL of the last row to show: past the last answer, no more silent rows than the gap limit."""
        return self.end_ttl or min(self.highest_heard + self.plan.options.gap_limit, self.plan.options.max_ttl)

    def hop(self, ttl: int) -> Hop:
        """The row at one TTL. The end's row takes later arrivals at the same end as further samples."""
        row = list(self.plan.row(self.index, ttl))
        if ttl == self.end_ttl:
            state = self.ledger.state
            answered = [slot for slot in row if state[slot] == ANSWERED]
            silent = [slot for slot in row if state[slot] != ANSWERED]
            row = (answered + self._further_samples(ttl) + silent)[: len(row)]
        return hop_from(self.plan, self.ledger, ttl, row)

    # How

    def _ttls(self) -> range:
        """TTLs whose rows matter."""
        return range(self.plan.options.first_ttl, (self.end_ttl or self.plan.options.max_ttl) + 1)

    def _wait(self, ttl: int) -> float:
        """Seconds that a probe with this TTL is waited for; see the module."""
        timeout = self.plan.options.timeout
        slowest = self.slowest_ns / 1e9
        if ttl <= (self.end_ttl or self.highest_heard):
            return min(timeout, max(NEAR_FACTOR * slowest, NEAR_SHARE * timeout))
        if self.slowest_ns:
            return min(timeout, max(TAIL_FACTOR * slowest, TAIL_SHARE * timeout))
        return timeout

    def _end_row_is_full(self, end: int) -> bool:
        state = self.ledger.state
        attempts = self.plan.options.attempts
        own = sum(state[slot] == ANSWERED for slot in self.plan.row(self.index, end))
        return own + len(self._further_samples(end)) >= attempts

    def _further_samples(self, end: int) -> list[int]:
        """Slots with a larger TTL than the end's that ended there too, nearest first."""
        kind, state = self.ledger.kind, self.ledger.state
        wanted = DESTINATION if self.reached_ttl is not None else UNREACHABLE
        above = range(self.plan.slot(self.index, end + 1, 0), self.plan.course_slots(self.index).stop)
        return [slot for slot in above if state[slot] == ANSWERED and kind[slot] == wanted]

    def _loop_closes_at(self, ttl: int, responder: bytes) -> int | None:
        """TTL of the third visit, if this responder was met at three TTLs with another one in between."""
        self._met.setdefault(ttl, set()).add(responder)
        visits = sorted(visited for visited, met in self._met.items() if responder in met)[:LOOP_VISITS]
        if len(visits) < LOOP_VISITS:
            return None
        between = (met for visited, met in self._met.items() if visits[0] < visited < visits[-1])
        return visits[-1] if any(responder not in met for met in between) else None
