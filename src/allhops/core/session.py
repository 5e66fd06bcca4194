"""One session: a plan of slots turned into probes, replies and paths. The net drives it by six calls.

    probes_to_send -> (the net sends) -> probes_sent ... replies_received ... next_deadline, next_event, snapshot

This file knows no packet (the lane does) and reads no clock (time is an argument, in seconds
of a monotonic clock).
"""

from __future__ import annotations

from collections import deque
from errno import ENOBUFS
from typing import TYPE_CHECKING, Generic, TypeVar

from allhops.core.course import Course
from allhops.core.events import Event, HopCertain, ResponderHeard, TraceEnded
from allhops.core.ledger import IN_FLIGHT, LOCAL_ERROR, Ledger
from allhops.core.paths import address_from
from allhops.core.run import Run
from allhops.core.strategies import STRATEGIES
from allhops.errors import NETWORK_IS_DOWN, explain_errno
from allhops.model import Flow, StopReason, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from allhops.core.lanes import Block, Lane
    from allhops.core.ledger import Counters
    from allhops.core.pacer import Pacer
    from allhops.core.plan import Plan

Replies = TypeVar("Replies")

BLOCK_PROBES = 16
"""Probes built and sent between two looks at what has arrived: on a short path the first replies spare the rest."""
FULL_QUEUE_PAUSE_S = 0.002
"""How long to let a full kernel queue drain before the same probe is tried again."""
NO_ROOM_PAUSE_S = 0.01
"""How long to let probes under way give up their places."""
FULL_QUEUE_TRIES = 10
"""Times in a row that the queue may be full before its probe counts as a local error."""
NETWORK_DOWN_PAUSE_S = 1.0
"""Between two probes that ask whether the network is back."""
NETWORK_DOWN_TRIES = 5
"""Of these in a row; after that all that is left is tried at once, and ends as what it is."""


class Session(Generic[Replies]):
    """All courses of one plan.

    `counters` are shared with whoever else counts packets. `names` are the destinations as the caller wrote them;
    `now` is the monotonic time at the start, `started_at_ns` the wall clock's. `slowest_ns` is the slowest RTT that was
    heard on these paths before, 0 for none.
    """

    def __init__(
        self,
        plan: Plan,
        lane: Lane[Replies],
        pacer: Pacer,
        *,
        counters: Counters,
        names: Sequence[str],
        now: float,
        started_at_ns: int,
        strategy: str = "parallel",
        slowest_ns: int = 0,
    ) -> None:
        self.plan = plan
        self.ledger = Ledger(plan.slots, counters, plan.courses)
        self._lane = lane
        self._pacer = pacer
        self._names = names
        self._started_at = now
        self._started_at_ns = started_at_ns
        self._now = now
        self._blocked_until = now
        self._full_queue_tries = 0
        self._network_down_tries = 0
        self._events: deque[Event] = deque()
        steps = STRATEGIES[strategy]
        self.courses = [Course(plan, self.ledger, index, slowest_ns) for index in range(plan.courses)]
        self._runs = [Run(course, steps(course)) for course in self.courses]
        self._open = self.plan.courses

    @property
    def ended(self) -> bool:
        """Whether every course has ended."""
        return self._open == 0

    # The six calls

    def probes_to_send(self, now: float) -> Block | None:
        """The next probes, at most `BLOCK_PROBES` and what the pacer grants; None when none may leave now."""
        self._advance(now)
        if now < self._blocked_until:
            return None
        wanted = self._next_slots(now)
        granted = self._pacer.grant(now, len(wanted))
        if not granted:
            return None
        return self._lane.launch(self.plan, wanted[:granted])

    def probes_sent(self, block: Block, now: float) -> None:
        """Record what the net did with a block; what the kernel had no room for waits for its next turn."""
        ledger = self.ledger
        for position in range(block.handed):
            slot = block.slots[position]
            ledger.sent_ns[slot] = block.sent_ns[position]
            ledger.sent_at[slot] = now
            ledger.error[slot] = block.errors[position]
            ledger.state[slot] = LOCAL_ERROR if block.errors[position] else IN_FLIGHT
            self._run_of(slot).course.note_sent(slot)
        ledger.counters.sent += block.handed
        self._pacer.give_back(len(block) - block.handed)
        self._remove_pending(block.slots[: block.handed], now)
        if block.handed and block.errors[block.handed - 1] in NETWORK_IS_DOWN:
            self._network_was_down(block, now)
        elif block.handed < len(block):
            self._queue_was_full(block, now)
        else:
            self._full_queue_tries = self._network_down_tries = 0
        self._advance(now)

    def replies_received(self, replies: Replies, now: float) -> None:
        """Fill the ledger with replies that the port lease brought here."""
        for slot in self._lane.record(self.plan, self.ledger, replies):
            run = self._run_of(slot)
            run.course.note_answered(slot)
            self._note_responder(run, slot)
        self._advance(now)

    def next_deadline(self) -> float | None:
        """When to call again even if nothing arrives; None when every course has ended."""
        if self.ended:
            return None
        times = [at for at in (run.next_action() for run in self._runs if not run.ended) if at is not None]
        earliest = min(times, default=self._now)
        if earliest > self._now:
            return earliest
        return max(earliest, self._blocked_until, self._pacer.ready_at(self._now))

    def next_event(self) -> Event | None:
        """The oldest thing that has become certain and was not asked for yet."""
        return self._events.popleft() if self._events else None

    def snapshot(self) -> Iterator[Trace]:
        """Every course as it is known now, ended or not."""
        for run in self._runs:
            yield self._trace(run, StopReason.INTERRUPTED)

    def interrupt(self, now: float) -> None:
        """End every open course with what is known."""
        for run in self._runs:
            if not run.ended:
                self._end(run, now, StopReason.INTERRUPTED)

    # How

    def _advance(self, now: float) -> None:
        """Give up what has waited long enough, tell what became certain, end what is complete."""
        self._now = now
        for run in self._runs:
            if run.ended:
                continue
            run.next_expiry = run.course.expire(now)
            run.proceed(now)
            if run.course.unsendable or (run.course.is_complete() and not run.holds):
                self._end(run, now, run.course.stop_reason())
                continue
            while run.course.row_is_certain(run.next_ttl) and not run.may_ask_again(run.next_ttl):
                self._tell_hop(run)

    def _next_slots(self, now: float) -> list[int]:
        """The next useful slots of all open courses, at most a block of them."""
        slots: list[int] = []
        for run in self._runs:
            slots += run.wanted(now, BLOCK_PROBES - len(slots))
        return slots

    def _remove_pending(self, slots: Sequence[int], now: float) -> None:
        """Take what was sent off its course's list."""
        sent = set(slots)
        for run in {id(run): run for run in map(self._run_of, slots)}.values():
            run.sent(sent, now)

    def _queue_was_full(self, block: Block, now: float) -> None:
        """Wait for the kernel's queue; after too many times in a row the probe at its head is a local error."""
        if block.waits_for_room:
            self._blocked_until = now + NO_ROOM_PAUSE_S
            return
        self._blocked_until = now + FULL_QUEUE_PAUSE_S
        self._full_queue_tries = 1 if block.handed else self._full_queue_tries + 1
        if self._full_queue_tries < FULL_QUEUE_TRIES:
            return
        self._full_queue_tries = 0
        slot = block.slots[block.handed]
        self.ledger.state[slot] = LOCAL_ERROR
        self.ledger.error[slot] = ENOBUFS
        self.ledger.counters.sent += 1
        self._run_of(slot).course.note_sent(slot)
        self._remove_pending([slot], now)

    def _network_was_down(self, block: Block, now: float) -> None:
        """Ask again later whether it is back; what was out meanwhile could not be heard."""
        self._run_of(block.slots[block.handed - 1]).course.network_was_down(now)
        self._network_down_tries += 1
        if self._network_down_tries <= NETWORK_DOWN_TRIES:
            self._blocked_until = now + NETWORK_DOWN_PAUSE_S

    def _run_of(self, slot: int) -> Run:
        return self._runs[self.plan.course_of(slot)]

    def _note_responder(self, run: Run, slot: int) -> None:
        responder = run.course.responder_of(slot)
        if responder not in run.heard:
            run.heard.add(responder)
            self._events.append(ResponderHeard(run.course.index, address_from(responder)))

    def _tell_hop(self, run: Run) -> None:
        self._events.append(HopCertain(run.course.index, run.course.hop(run.next_ttl)))
        run.next_ttl += 1

    def _end(self, run: Run, now: float, reason: StopReason) -> None:
        run.course.cancel()
        trace = self._trace(run, reason)
        while run.next_ttl <= self._last_ttl(run, reason):
            self._tell_hop(run)
        self._events.append(TraceEnded(run.course.index, trace))
        run.ended = True
        run.next_expiry = None
        self._open -= 1

    def _last_ttl(self, run: Run, reason: StopReason) -> int:
        """TTL of the last row to show: silence that nobody waited for to the end is not shown."""
        if reason is StopReason.LOCAL_ERROR:
            return self.plan.options.first_ttl - 1
        if reason is StopReason.INTERRUPTED:
            return run.course.end_ttl or run.course.highest_heard
        return run.course.last_ttl()

    def _trace(self, run: Run, reason: StopReason) -> Trace:
        plan, course = self.plan, run.course
        destination = course.index // len(plan.source_ports)
        return Trace(
            destination=self._names[destination],
            address=address_from(plan.destinations[destination]),
            source=address_from(plan.source),
            protocol=plan.options.protocol,
            flow=Flow(source_port=plan.source_port_of(course.index), destination_port=plan.options.destination_port),
            started_at_ns=self._started_at_ns,
            duration_ns=round((self._now - self._started_at) * 1e9),
            stop_reason=reason,
            hops=tuple(course.hop(ttl) for ttl in range(plan.options.first_ttl, self._last_ttl(run, reason) + 1)),
            error=explain_errno(course.last_error) if reason is StopReason.LOCAL_ERROR else None,
        )

    def __repr__(self) -> str:
        return f"<Session [{self._open} of {self.plan.courses} courses open | {self.ledger!r}]>"
