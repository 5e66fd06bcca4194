"""Rounds of path MTU discovery as sessions, behind the six calls of one.

Each size of a round is a session of its own: same flow, same cookie, its own key, by which the lane tells whose
probe a reply is about. A row is told when it is settled, with its MTU. This file knows no packet and reads no clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

from allhops.core.events import HopCertain, ResponderHeard, TraceEnded
from allhops.core.mtu.discovery import Discovery, Ending
from allhops.core.session import Session
from allhops.model import StopReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from allhops.core.events import Event
    from allhops.core.lanes import Block, Lane
    from allhops.core.ledger import Counters
    from allhops.core.pacer import Pacer
    from allhops.core.plan import Plan
    from allhops.model import Address, Hop, Trace

Replies = TypeVar("Replies")

KEY_STEP = 0x9E37
"""2**16 divided by the golden ratio: from one session's key to the next one's."""


class PathMtuSession(Generic[Replies]):
    """One course whose path MTU is wanted; arguments as those of `Session`. `plan.size` is the size to begin with."""

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
    ) -> None:
        self.plan = plan
        self._lane = lane
        self._pacer = pacer
        self._counters = counters
        self._names = names
        self._started_at = now
        self._started_at_ns = started_at_ns
        self._events: deque[Event] = deque()
        self._heard: set[Address] = set()
        self._slowest_ns = 0
        self._last_sent: Session[Replies] | None = None
        self._sessions: list[Session[Replies]] = []
        self._open: dict[int, Session[Replies]] = {}
        self._waiting: deque[tuple[float, int]] = deque()
        self._endings: dict[int, Ending] = {}
        self._trace: Trace | None = None
        self._discovery = Discovery(plan)
        self._found = self._discovery.found
        self._rounds = self._discovery.rounds()
        self._round = next(self._rounds)
        self._begin(now)

    @property
    def ended(self) -> bool:
        """Whether the trace is complete."""
        return self._trace is not None

    # The six calls

    def probes_to_send(self, now: float) -> Block | None:
        """The next probes of whichever size has some, larger sizes first; None when none may leave now."""
        while not self.ended:
            self._open_due(now)
            for session in tuple(self._open.values()):
                block = session.probes_to_send(now)
                if block is not None:
                    self._last_sent = session
                    return block
            if not self._advance(now):
                break
        return None

    def probes_sent(self, block: Block, now: float) -> None:
        """Record what the net did with the block that it was given last."""
        assert self._last_sent is not None  # a block was given
        self._last_sent.probes_sent(block, now)
        self._advance(now)

    def replies_received(self, replies: Replies, now: float) -> None:
        """Give each reply to the session whose probe it is about, those that have ended included: there it is late."""
        shares = self._lane.share([session.plan for session in self._sessions], replies)
        for session, share in zip(self._sessions, shares, strict=True):
            session.replies_received(share, now)
        self._advance(now)

    def next_deadline(self) -> float | None:
        """When to call again even if nothing arrives; None when the trace is complete."""
        deadlines = [session.next_deadline() for session in self._open.values()]
        deadlines += [at for at, _ in islice(self._waiting, 1)]
        return min((at for at in deadlines if at is not None), default=None)

    def next_event(self) -> Event | None:
        """The oldest thing that has become certain and was not asked for yet."""
        return self._events.popleft() if self._events else None

    def interrupt(self, now: float) -> None:
        """End with what is known."""
        if self.ended:
            return
        self._waiting.clear()
        for session in self._open.values():
            session.interrupt(now)
        for size in tuple(self._open):
            self._collect(size, now)
        ending = next(iter(self._endings.values())).trace
        if self._round.until_heard:
            ending = replace(ending, hops=())  # only some rows, asked once
        self._end(replace(ending, stop_reason=StopReason.INTERRUPTED), now)

    # How

    def _begin(self, now: float) -> None:
        """Start a round: its first session now, the others when their time comes."""
        self._endings = {}
        if self._round.tells:
            self._found.begin_round()
        spacing_s = self._round.spacing_s
        self._waiting.extend((now + position * spacing_s, size) for position, size in enumerate(self._round.sizes))
        self._open_due(now)

    def _open_due(self, now: float) -> None:
        """Start the sessions whose time has come."""
        while self._waiting and self._waiting[0][0] <= now:
            _, size = self._waiting.popleft()
            session = self._open[size] = self._session(size, now)
            self._sessions.append(session)

    def _session(self, size: int, now: float) -> Session[Replies]:
        key = self.plan.key + KEY_STEP * len(self._sessions) & 0xFFFF
        return Session(
            replace(self.plan, options=self._round.options, size=size, key=key),
            self._lane,
            self._pacer,
            counters=self._counters,
            names=self._names,
            now=now,
            started_at_ns=self._started_at_ns,
            strategy=self._round.strategy,
            slowest_ns=self._slowest_ns,
        )

    def _advance(self, now: float) -> bool:
        """Take in what the open sessions tell; whether another round has begun."""
        if self.ended:
            return False
        for size in tuple(self._open):
            if size in self._open:  # a larger one may have made it useless meanwhile
                self._collect(size, now)
        if self._open or self._waiting:
            return False
        try:
            self._round = self._rounds.send(self._endings)
        except StopIteration as stop:
            self._end(stop.value, now)
            return False
        self._begin(now)
        return True

    def _collect(self, size: int, now: float) -> None:
        """Everything that one session has to tell."""
        session = self._open[size]
        while (event := session.next_event()) is not None:
            if isinstance(event, ResponderHeard):
                self._hear(event.address)
                if self._round.until_heard and self._found.take_evidence(next(iter(session.snapshot())), size):
                    self._drop_up_to(size, now)
            elif isinstance(event, HopCertain):
                if self._round.tells:
                    self._tell(self._found.take_row(event.hop, size))
            else:
                self._take_ending(size, event.trace)

    def _hear(self, address: Address) -> None:
        if address not in self._heard:
            self._heard.add(address)
            self._events.append(ResponderHeard(0, address))

    def _drop_up_to(self, size: int, now: float) -> None:
        """A size got through: it need not wait for more, and smaller ones get through as well."""
        self._waiting.clear()
        for smaller in [other for other in self._open if other <= size]:
            self._open[smaller].interrupt(now)
            if smaller != size:
                del self._open[smaller]

    def _take_ending(self, size: int, trace: Trace) -> None:
        session = self._open.pop(size)
        (course,) = session.courses
        self._slowest_ns = max(self._slowest_ns, course.slowest_ns)
        self._discovery.slowest_rtt = self._slowest_ns / 1e9
        if self._round.tells:
            self._discovery.near_wait = course.near_wait
        self._endings[size] = Ending(trace, course.last_error)
        if self._round.tells:
            self._tell(self._found.take_round(trace, size))
        elif self._round.until_heard:
            self._found.take_evidence(trace, size)

    def _tell(self, hops: Iterable[Hop]) -> None:
        self._events.extend(HopCertain(0, hop) for hop in hops)

    def _end(self, last: Trace, now: float) -> None:
        """The whole path, as far as all rounds together know it."""
        found = self._found
        self._tell(found.rest(last))
        hops = found.hops()
        self._trace = replace(
            last,
            hops=hops,
            stop_reason=StopReason.REACHED if found.is_reached else last.stop_reason,
            error=None if found.is_reached else last.error,
            duration_ns=round((now - self._started_at) * 1e9),
            path_mtu=found.mtu(hops[-1].ttl) if found.is_reached else None,
        )
        self._events.append(TraceEnded(0, self._trace))

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self._round.sizes))
        return f"<PathMtuSession [asking {sizes} bytes from TTL {self._round.options.first_ttl}]>"
