"""A window: some thousand destinations of a batch under way together. The net drives it by the calls of a session.

    probes_to_send -> (the net sends) -> probes_sent ... replies_received ... advance -> harvest

A course whose probes have all been answered or given up is surveyed and handed to the strategy, which asks on or ends
it. This file knows no packet (the lane does) and reads no clock (time is an argument, seconds of a monotonic clock).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from allhops.core.batch.ends import Ends
from allhops.core.batch.flight import Flight
from allhops.core.batch.leaving import Leaving
from allhops.core.batch.sent import NEVER, Sent
from allhops.core.batch.survey import survey
from allhops.core.batch.waiting import SPACING_S, Turn
from allhops.core.ledger import CANCELLED, IN_FLIGHT, LOCAL_ERROR, TIMED_OUT, Ledger
from allhops.errors import NETWORK_IS_DOWN
from allhops.wire.classify import DESTINATION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from allhops.core.batch.strategies import Strategy
    from allhops.core.batch.survey import Survey
    from allhops.core.harvest import Harvest
    from allhops.core.lanes import Block
    from allhops.core.ledger import Counters
    from allhops.core.plan import Plan

Replies = TypeVar("Replies")
Replies_contra = TypeVar("Replies_contra", contravariant=True)

BLOCK_PROBES = 1024
"""Probes built together at most: arrays pay by then, and what a block holds is not too old when it leaves."""
FULL_QUEUE_PAUSE_S = 0.002
"""How long to let a full kernel queue drain before the same probe is tried again."""
NETWORK_DOWN_PAUSE_S = 1.0
"""Between two probes that ask whether the network is back."""
NETWORK_DOWN_TRIES = 5
"""Of these in a row; after that all that is left is tried at once, and ends as what it is."""


@dataclass(slots=True)
class Tally:
    """What became of probes: `sent` is the sum of the others once nothing is in flight."""

    sent: int = 0
    answered: int = 0
    timed_out: int = 0
    local_error: int = 0
    cancelled: int = 0


class ArrayLane(Protocol[Replies_contra]):
    """What a window needs of a lane (`allhops.core.lanes.Lane`), which may answer in arrays."""

    def launch(self, plan: Plan, slots: array[int]) -> Block:
        """Build the probes of these slots."""
        ...

    def record(self, plan: Plan, ledger: Ledger, replies: Replies_contra) -> ArrayLike:
        """Fill the ledger; the slots that were answered now."""
        ...


class Window(Generic[Replies]):
    """All courses of one plan, which has one flow.

    `names` and `positions` tell what the caller called each destination and where it stood in the list. `counters` and
    `tally` are shared with whoever else counts. `random` decides the order in which probes leave. `now_ns` is the wall
    clock: when a course began that never sends a probe.
    """

    def __init__(
        self,
        plan: Plan,
        lane: ArrayLane[Replies],
        strategy: Strategy,
        *,
        counters: Counters,
        tally: Tally,
        names: Sequence[str],
        positions: ArrayLike,
        now: float,
        now_ns: int,
        random: np.random.Generator,
        backend: str,
    ) -> None:
        self.plan = plan
        self.ledger = Ledger(plan.slots, counters, plan.courses)
        self.tally = tally
        self._lane = lane
        self._strategy = strategy
        self._state = np.frombuffer(self.ledger.state, np.uint8)
        self._sent = Sent(plan, self.ledger, now_ns)
        self._leaving = Leaving(random)
        self._flight = Flight(plan, self.ledger)
        self._ends = Ends(strategy, self._sent, names, np.asarray(positions, np.int64), backend)
        self._blocked_until = now
        self._network_down_tries = 0
        self._stopping = False
        self._is_open = np.ones(plan.courses, bool)
        # What is added to with `np.add.at` is int64: where it has to cast, that takes 30 times as long.
        self._outstanding = np.zeros(plan.courses, np.int64)
        self._is_touched = np.zeros(plan.courses, bool)
        self._any_touched = False
        self._useless = np.full(plan.courses, plan.slots)
        """The first slot of each that is beyond its destination."""
        self.open_courses = plan.courses
        first = strategy.begin(plan)
        self._is_awaited = strategy.awaited(plan)
        self._ask(first, now)

    @property
    def ended(self) -> bool:
        """Whether every course has ended and its harvest was taken."""
        return self.open_courses == 0 and self._ends.is_empty

    @property
    def waiting(self) -> int:
        """Probes that wait to be sent, due or not."""
        return self._leaving.slots

    def turn(self, now: float) -> Turn:
        """Of what is to be sent next: of several windows the lowest goes first."""
        return self._leaving.turn(now)

    @property
    def in_flight(self) -> int:
        """Probes that are out."""
        return self._flight.slots

    # The calls

    def probes_to_send(self, now: float, most: int = BLOCK_PROBES, rate_pps: float = inf) -> Block | None:
        """A block of which some probes were not handed over yet; None when none may leave now.

        A new one has at most so many probes, in an order that is for those who send them at this rate.
        """
        if now < self._blocked_until:
            return None
        return self._leaving.block(now, min(most, BLOCK_PROBES), rate_pps, self._build)

    def probes_left(self, now: float) -> None:
        """What the net has handed over of the block since the last time left now.

        Costs next to nothing: `probes_sent` records many of them at once.
        """
        self._leaving.look(now)

    def probes_sent(self, now: float, place: Callable[[int], int] | None = None) -> None:
        """Record what has left since the last time.

        Must be called before replies to these probes are handed in; until then `advance` takes them for waiting.
        `place` puts a stamp where it belongs on the scale of the replies' stamps; None when it is there.
        """
        self._leaving.look(now)
        departed = self._leaving.departed()
        if departed is None:
            return
        slots, errors, sent_ns, sent_at = departed
        courses = self._courses_of(slots)
        if place is not None:
            sent_ns = np.array([place(stamp) for stamp in sent_ns.tolist()], np.int64)
        np.frombuffer(self.ledger.sent_ns, np.int64)[slots] = sent_ns
        self._state[slots] = IN_FLIGHT
        self.ledger.counters.sent += len(slots)
        self.tally.sent += len(slots)
        self._sent.note(courses, sent_at, sent_ns)
        if errors.any():
            failed = errors != 0
            self._note_failed(slots[failed], errors[failed], now)
            slots, sent_at = slots[~failed], sent_at[~failed]
        else:
            self._network_down_tries = 0
        self._flight.left(slots, sent_at)

    def queue_was_full(self, now: float) -> None:
        """Let the kernel's queue drain before the rest of the block is tried again."""
        self._blocked_until = now + FULL_QUEUE_PAUSE_S

    def replies_received(self, replies: Replies) -> None:
        """Fill the ledger with replies that the port lease brought here."""
        slots = np.asarray(self._lane.record(self.plan, self.ledger, replies), np.int64)
        if not len(slots):
            return
        courses = self._courses_of(slots)
        beyond = (slots // self.plan.slots_per_row + 1) * self.plan.slots_per_row
        arrived = np.flatnonzero(np.asarray(self.ledger.kind)[slots] == DESTINATION)
        np.minimum.at(self._useless, courses[arrived], beyond[arrived])
        self._flight.heard(slots, courses, beyond)
        self.tally.answered += len(slots)
        self._settle(courses)

    def advance(self, now: float, most: int | None = None) -> bool:
        """Give up what has waited long enough, ask the strategy, end what is complete.

        At most so many courses: whether more of them wait, for a caller who has other things to do in between.
        """
        expired = self._flight.expired(now)
        if len(expired):
            self._state[expired] = TIMED_OUT
            self.tally.timed_out += len(expired)
            self._settle(self._courses_of(expired))
        courses = self._settled()
        if not len(courses) and self._leaving.is_empty and not self._flight.slots:
            courses = np.flatnonzero(self._is_open)  # held back by the strategy, and nobody is left to wait for
        is_more = most is not None and most < len(courses)
        if is_more:
            self._touch(courses[most:])
        if len(courses):
            self._proceed(courses[:most], now)
        return is_more or self._any_touched

    def harvest(self) -> Harvest | None:
        """The courses that have ended since the last time; None for none."""
        return self._ends.take()

    def stop_sending(self, now: float) -> None:
        """Nothing leaves any more; what is out is waited for, then every course ends as it is."""
        self._stopping = True
        self.probes_sent(now)
        self._leaving.clear()
        self._outstanding[:] = 0
        out = np.flatnonzero(self._state == IN_FLIGHT)
        np.add.at(self._outstanding, self._courses_of(out), 1)
        idle = np.flatnonzero(self._is_open & (self._outstanding == 0))
        if len(idle):
            self._proceed(idle, now)

    def interrupt(self, now: float) -> None:
        """End every open course with what is known."""
        self.stop_sending(now)
        out = self._flight.clear()
        self._state[out] = CANCELLED
        self.tally.cancelled += len(out)
        courses = np.flatnonzero(self._is_open)
        if len(courses):
            self._end(survey(self.plan, self.ledger, courses), now, interrupted=True)

    # How

    def _proceed(self, courses: NDArray[np.int64], now: float) -> None:
        """Go on with courses that have nothing out and nothing to send."""
        unsendable = self._sent.nothing_left(courses)
        if unsendable.any():
            self._end(survey(self.plan, self.ledger, courses[unsendable]), now)
            courses = courses[~unsendable]
            if not len(courses):
                return
        known = survey(self.plan, self.ledger, courses)
        asked = self._strategy.proceed(self.plan, known)
        if self._stopping:
            has_ended = asked.done if asked.may_end is None else asked.may_end
            if has_ended.any():
                self._end(known.part(has_ended), now)
            if not has_ended.all():
                self._end(known.part(~has_ended), now, interrupted=True)
            return
        if asked.again is not None:
            self._touch(asked.again)
        if len(asked.slots):
            self._ask(asked.slots, now)
        if asked.done.any():
            self._end(known if asked.done.all() else known.part(asked.done), now)

    def _ask(self, slots: NDArray[np.int64], now: float) -> None:
        courses = self._courses_of(slots)
        np.add.at(self._outstanding, courses, 1)
        sent_at = self._sent.at[courses]
        others_first, is_new, is_early = ~self._is_awaited[courses], sent_at == NEVER, now < sent_at + SPACING_S
        kinds = others_first.view(np.uint8) << 2 | is_new.view(np.uint8) << 1 | is_early.view(np.uint8)
        for kind in np.flatnonzero(np.bincount(kinds)).tolist():
            part = kinds == kind
            turn = Turn(others_first=bool(kind & 4), is_new=bool(kind & 2), since=now)
            self._leaving.waiting.add(slots[part], courses[part], turn, now + SPACING_S if kind & 1 else now)

    def _build(self, slots: NDArray[np.int64]) -> Block | None:
        """Probes of those that can still change the result: not beyond the destination."""
        courses = self._courses_of(slots)
        useful = slots < self._useless[courses]
        if not useful.all():
            self._settle(courses[~useful])
            slots = slots[useful]
        return self._lane.launch(self.plan, array("q", slots.tobytes())) if len(slots) else None

    def _settle(self, courses: NDArray[np.int64]) -> None:
        """One probe of each of these (a course may be there twice) is no longer waited for."""
        np.subtract.at(self._outstanding, courses, 1)
        self._touch(courses)

    def _touch(self, courses: NDArray[np.int64]) -> None:
        self._is_touched[courses] = True
        self._any_touched = True

    def _settled(self) -> NDArray[np.int64]:
        """Open courses that have become free of outstanding probes since the last time."""
        if not self._any_touched:
            return np.empty(0, np.int64)
        touched = np.flatnonzero(self._is_touched)
        self._is_touched[touched], self._any_touched = False, False
        free: NDArray[np.int64] = touched[self._is_open[touched] & (self._outstanding[touched] == 0)]
        return free

    def _note_failed(self, slots: NDArray[np.int64], errors: NDArray[np.uint16], now: float) -> None:
        courses = self._courses_of(slots)
        np.frombuffer(self.ledger.error, np.uint16)[slots] = errors
        self._state[slots] = LOCAL_ERROR
        self._sent.note_failed(courses, errors)
        self.tally.local_error += len(courses)
        self._settle(courses)
        if int(errors[-1]) in NETWORK_IS_DOWN:
            self._network_down_tries += 1
            if self._network_down_tries <= NETWORK_DOWN_TRIES:
                self._blocked_until = now + NETWORK_DOWN_PAUSE_S

    def _end(self, known: Survey, now: float, *, interrupted: bool = False) -> None:
        """These courses have ended; their harvest waits."""
        self._ends.add(known, now, interrupted=interrupted)
        self._is_open[known.courses] = False
        self.open_courses -= len(known.courses)

    def _courses_of(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        return slots // self.plan.slots_per_course

    def __repr__(self) -> str:
        return (
            f"<Window [{self.open_courses} of {self.plan.courses} courses open | {self.waiting} probes waiting, "
            f"{self.in_flight} in flight]>"
        )
