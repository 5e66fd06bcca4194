"""One flow to one destination as it unfolds: where the path ends, and what is still worth waiting for.

The path ends at the lowest TTL that reached the destination. When rows right below it stayed silent and the quoted
TTL says that probes with those TTLs would have arrived as well, it ends at the lowest of them: their probes were lost.
Failing a destination, it ends at the lowest TTL that somebody called unreachable; failing that, where a loop closes.
Rows below that end matter, and so does the end's own row until it has all its samples; nothing else can change the
result.

**Waiting.** Nobody can tell a slow hop from a silent one except by waiting, so a probe is given up late enough for
the slow ones and early enough that silence does not cost what it costs elsewhere. What this trace has heard sets
the wait, within the caller's timeout:

* Something beyond this TTL answered, or another attempt at it: `NEAR_FACTOR` times the slowest RTT so far, and
  at least `NEAR_SHARE` of the timeout (0.4 s by default): the path is known to go on, only this row may be slow. A
  first hop of 300 ms before a destination of 30 ms is seen.
* Nothing beyond it answered, but something before did: `TAIL_FACTOR` times the slowest RTT, at least `TAIL_SHARE`
  of the timeout (0.8 s): the destination itself may be among these.
* Nothing has answered at all: the whole timeout.
* A probe that asks a row again, alone: half of that. It leaves when half of the wait is over, so it costs no time.

This file reads no clock.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from allhops.core.doubt import verdict
from allhops.core.evidence import DIRECT
from allhops.core.ledger import ANSWERED, CANCELLED, IN_FLIGHT, LOCAL_ERROR, TIMED_OUT, UNSENT
from allhops.core.paths import hop_from
from allhops.model import StopReason
from allhops.wire.classify import DESTINATION, UNREACHABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allhops.core.ledger import Ledger
    from allhops.core.plan import Plan
    from allhops.model import Hop

NEAR_FACTOR = 3
TAIL_FACTOR = 5
NEAR_SHARE = 0.2
"""Of the timeout: the shortest wait for a hop that the path is known to pass."""
TAIL_SHARE = 0.4
"""Of the timeout: the shortest wait for what lies beyond the last answer."""
SPARE_SHARE = 0.5
"""Of the wait: what is left of it when a row is asked again."""
LOOP_VISITS = 3
"""TTLs at which one responder must have been met, with another in between, to call it a loop."""


class Course:
    """The state of one course; columns stay in the ledger, here is only what the stop rules need.

    `slowest_ns` is the slowest RTT heard so far, 0 for none.
    """

    def __init__(self, plan: Plan, ledger: Ledger, index: int, slowest_ns: int = 0) -> None:
        self.plan = plan
        self.ledger = ledger
        self.index = index
        self.reached_ttl: int | None = None
        self.unreachable_ttl: int | None = None
        self.loop_ttl: int | None = None
        self.highest_heard = plan.options.first_ttl - 1
        self.highest_transit = plan.options.first_ttl - 1
        self.slowest_ns = slowest_ns
        self.sent = 0
        self.failed = 0
        self.last_error = 0
        self._down_at = -inf
        self.looping: frozenset[bytes] = frozenset()
        self._patient_until = inf
        self._quoted_distance: int | None = None
        self._met: dict[int, set[bytes]] = {}

    # What happened

    def note_sent(self, slot: int) -> None:
        """A probe left, or failed to: the ledger's state says which."""
        self.sent += 1
        self._patient_until = min(self._patient_until, self.ledger.sent_at[slot] + SPARE_SHARE * self.near_wait)
        if self.ledger.state[slot] == LOCAL_ERROR:
            self.failed += 1
            self.last_error = self.ledger.error[slot]

    def network_was_down(self, now: float) -> None:
        """The network was found down: the silence of what is out by now says nothing about the path."""
        self._down_at = now

    def note_answered(self, slot: int) -> None:
        """A probe was answered; the ledger holds the reply."""
        ttl = self.plan.ttl_of(slot)
        kind = self.ledger.kind[slot]
        self.slowest_ns = max(self.slowest_ns, self.ledger.rtt_ns(slot) or 0)
        self.highest_heard = max(self.highest_heard, ttl)
        if kind == DESTINATION:
            self.reached_ttl = min(self.reached_ttl or ttl, ttl)
            self._note_quoted_distance(slot)
        elif kind == UNREACHABLE:
            self.unreachable_ttl = min(self.unreachable_ttl or ttl, ttl)
        else:
            self.highest_transit = max(self.highest_transit, ttl)
            self._note_router(ttl, self.responder_of(slot))

    def expire(self, now: float) -> float | None:
        """Give up the probes whose wait is over; when to look again, if any is in flight.

        Nothing is given up before the shortest wait there can be is over, so a burst of replies costs no search.
        """
        if now < self._patient_until:
            return self._patient_until if self._patient_until < inf else None
        state, sent_at, plan = self.ledger.state, self.ledger.sent_at, self.plan
        ttls, near_wait, tail_wait = self._ttls(), self.near_wait, self.tail_wait
        known = plan.slot(self.index, (self.end_ttl or self.highest_heard) + 1, 0)
        beyond = plan.slot(self.index, ttls.stop, 0)
        every = plan.course_slots(self.index)
        earliest, self._patient_until = inf, inf
        slot = state.find(IN_FLIGHT, every.start, every.stop)
        while slot >= 0:
            share = SPARE_SHARE if plan.is_spare(slot) else 1.0
            expiry = sent_at[slot] + share * (near_wait if slot < known else tail_wait)
            if expiry <= now and slot < beyond:
                self._give_up(slot)
            else:
                earliest = min(earliest, expiry) if slot < beyond else earliest
                self._patient_until = min(self._patient_until, sent_at[slot] + share * near_wait)
            slot = state.find(IN_FLIGHT, slot + 1, every.stop)
        return earliest if earliest < inf else None

    def _give_up(self, slot: int) -> None:
        if self.ledger.sent_at[slot] > self._down_at:
            self.ledger.state[slot] = TIMED_OUT
        else:
            self.ledger.state[slot], self.ledger.error[slot] = LOCAL_ERROR, self.last_error

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
        if self.reached_ttl is not None:
            return self._lowest_arrival(self.reached_ttl)
        return self.unreachable_ttl or self.loop_ttl

    @property
    def has_nameless_replies(self) -> bool:
        """Whether somebody replied without saying to which probe."""
        return self.index in self.ledger.nameless

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
        return self._has_ended(ttl)

    def any_in_flight(self, slots: Sequence[int]) -> bool:
        """Whether one of these probes may still be answered."""
        return any(self.ledger.state[slot] == IN_FLIGHT for slot in slots)

    def is_silent(self, ttl: int) -> bool:
        """Whether nothing has answered at a TTL so far."""
        row = self.plan.row(self.index, ttl)
        return ANSWERED not in self.ledger.state[row.start : row.stop]

    def was_asked_again(self, ttl: int) -> bool:
        """Whether a row was asked more often than the caller wished."""
        row = self.plan.row(self.index, ttl)
        spares = self.ledger.state[row.start + self.plan.options.attempts : row.stop]
        return spares.count(UNSENT) < len(spares)

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
        state, attempts = self.ledger.state, self.plan.options.attempts
        row = [slot for slot in self.plan.row(self.index, ttl) if state[slot] != UNSENT]
        answered = [slot for slot in row if state[slot] == ANSWERED]
        further = self._further_samples(ttl) if ttl == self.end_ttl else []
        silent = [slot for slot in row if state[slot] != ANSWERED]
        chosen = (answered + further + silent)[:attempts]
        return hop_from(self.plan, self.ledger, ttl, sorted(chosen), verdict(self, ttl))

    # How

    def _ttls(self) -> range:
        """TTLs whose rows matter."""
        return range(self.plan.options.first_ttl, (self.end_ttl or self.plan.options.max_ttl) + 1)

    @property
    def near_wait(self) -> float:
        """Seconds that a probe is waited for at whose TTL, or beyond, something has answered."""
        timeout = self.plan.options.timeout
        return min(timeout, max(NEAR_FACTOR * self.slowest_ns / 1e9, NEAR_SHARE * timeout))

    @property
    def tail_wait(self) -> float:
        """Seconds that a probe is waited for beyond the last answer."""
        timeout = self.plan.options.timeout
        if not self.slowest_ns:
            return timeout
        return min(timeout, max(TAIL_FACTOR * self.slowest_ns / 1e9, TAIL_SHARE * timeout))

    def _has_ended(self, ttl: int) -> bool:
        """Whether every probe of a row has ended that was sent, or as many were answered as the caller asked for."""
        row, attempts = self.plan.row(self.index, ttl), self.plan.options.attempts
        states = self.ledger.state[row.start : row.stop]
        if states.count(ANSWERED) >= attempts:
            return True
        return IN_FLIGHT not in states and UNSENT not in states[:attempts]

    def _lowest_arrival(self, reached_ttl: int) -> int:
        """`reached_ttl`, or less when the quoted TTL says so and all rows in between ended in silence."""
        distance = self._quoted_distance
        if distance is None or not self.highest_transit < distance < reached_ttl:
            return reached_ttl
        silent = all(map(self._has_ended, range(distance, reached_ttl)))
        return distance if silent else reached_ttl

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

    def routers_at(self, ttl: int) -> set[bytes]:
        """Packed addresses of the routers that were met at a TTL."""
        return self._met.get(ttl, set())

    def visits(self, router: bytes) -> int:
        """At how many TTLs a router was met."""
        return sum(router in met for met in self._met.values())

    def _note_router(self, ttl: int, router: bytes) -> None:
        """A loop is closed at the third TTL with one router, if another one was met in between."""
        self._met.setdefault(ttl, set()).add(router)
        visited = sorted(at for at, met in self._met.items() if router in met)[:LOOP_VISITS]
        if len(visited) < LOOP_VISITS:
            return
        between = [met for at, met in self._met.items() if visited[0] < at < visited[-1]]
        if any(router not in met for met in between):
            self.loop_ttl = min(self.loop_ttl or visited[-1], visited[-1])
            self.looping |= {router}.union(*between)

    def _note_quoted_distance(self, slot: int) -> None:
        """How far away the destination is by the TTL that was left of the probe: a probe with that TTL just arrives."""
        left, ttl = self.ledger.quoted_ttl[slot], self.plan.ttl_of(slot)
        if self.ledger.flags[slot] & DIRECT or not 1 <= left <= ttl:
            return
        distance = max(ttl - left + 1, self.plan.options.first_ttl)
        self._quoted_distance = min(self._quoted_distance or distance, distance)
