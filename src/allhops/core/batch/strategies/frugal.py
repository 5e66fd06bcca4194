"""Whole paths of many destinations with as few probes as there can be: ask only what neighbours have not told.

* **Start near the end.** The first probe of a course has the TTL right after the distance of its nearest neighbour
  that has been traced (neighbours.py, distances.py).
* **Backward to the stop set.** From there row by row nearer, until a router answers that another course has met at this
  TTL (stop_set.py). What lies before it is inherited from there, and says so.
* **Forward while it pays.** Rows beyond the last answer are asked up to the gap limit at most; fewer where experience
  says that nobody will answer (odds.py). One course in `SCOUTS` asks them all, so that experience is not only of what
  was expected.
* **A look behind the stop.** Where the donor's flow met one router, another flow may meet another one: a load balancer.
  So the row of the stop's parent is asked as well while experience says that this finds branches.

A row below the last answer that stays silent is asked as often as the caller wishes; one beyond it once.

Nothing is kept of a course but its neighbours: all else is read from the survey each time. What is kept over all
windows is bounded: for each family 28 MB of stop set and 9 MB of distances. To that come some 50 bytes a course of the
windows that are under way. This file knows no packet and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from allhops.core.batch.strategies import Asked, Inheritance
from allhops.core.batch.strategies.distances import UNKNOWN, Distances, keys_of
from allhops.core.batch.strategies.neighbours import Neighbours
from allhops.core.batch.strategies.odds import INNER_ROUTER, LAST_ROUTER, NEW_ROUTER, Odds, beyond_case
from allhops.core.batch.strategies.stop_set import NOBODY, Met, StopSet, bytes_of, words_of
from allhops.core.batch.survey import NONE
from allhops.wire.classify import TIME_EXCEEDED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.core.batch.strategies.odds import Case
    from allhops.core.batch.strategies.stop_set import Words
    from allhops.core.batch.survey import Survey
    from allhops.core.plan import Plan

BLIND_TTL = 12
"""Where to start as long as nothing is known at all: most paths are longer, few are half as long."""
BEYOND_EXPECTED = 1
"""Rows past the neighbour's last router at which to start. A start too far away tests rows for silence that have to be
tested anyway, and finds a destination that answers at once."""
SCOUTS = 64
_SCATTER = np.uint64(0x9E3779B97F4A7C15)


class Frugal:
    """See the module."""

    spare_attempts = 0

    def __init__(self) -> None:
        self._odds = Odds()
        self._families: dict[int, tuple[StopSet, Distances]] = {}
        self._windows: dict[int, _Window] = {}

    def begin(self, plan: Plan) -> NDArray[np.int64]:
        """The first probe of every course that has nobody to wait for."""
        size = plan.layout.family.address_size
        if size not in self._families:
            self._families[size] = (StopSet(size), Distances())
        stops, distances = self._families[size]
        window = self._windows[id(plan)] = _Window(plan, stops, distances, self._odds)
        return window.begin()

    def proceed(self, plan: Plan, survey: Survey) -> Asked:
        """Rows below the last answer, rows beyond it while they pay, and first ones of courses whose wait is over."""
        return self._windows[id(plan)].proceed(survey)

    def inherited(self, plan: Plan, survey: Survey) -> Inheritance | None:
        """What the stop set says of the rows below the last stop."""
        window = self._windows[id(plan)]
        inherited = window.inherited(survey)
        window.end(survey.courses)
        if window.neighbours.all_ended:
            window.tell()
            del self._windows[id(plan)]
        return inherited


@dataclass(frozen=True, slots=True)
class _Footing:
    """Where n courses stand. All columns are TTLs, `NONE` for none, but for the matrices."""

    asked: NDArray[np.bool_]
    """(n, T)"""
    routers: NDArray[np.bool_]
    """(n, T): routers that answered, below the path's end."""
    top: NDArray[np.int16]
    """Of the first row that is not below the last answer, or of the path's end."""
    gap: NDArray[np.int16]
    """Of the farthest row below `top` that was not asked."""
    stand: NDArray[np.int16]
    """Of the nearest router with no such row between it and `top`."""


class _Window:
    """The courses of one plan, and what is shared with those of others."""

    def __init__(self, plan: Plan, stops: StopSet, distances: Distances, odds: Odds) -> None:
        self._plan = plan
        self._stops = stops
        self._distances = distances
        self._odds = odds
        self._first = plan.options.first_ttl
        self._ttls = np.arange(self._first, plan.options.max_ttl + 1, dtype=np.int16)
        flows, size = len(plan.source_ports), plan.layout.family.address_size
        packed = np.frombuffer(b"".join(plan.destinations), np.uint8).reshape(-1, size)
        words = words_of(packed, size)
        self._words: Words = words[np.repeat(np.arange(len(words)), flows)]
        keys = np.repeat(keys_of(plan.destinations), flows)
        self._is_scout = (keys * _SCATTER >> np.uint64(40)) % np.uint64(SCOUTS) == 0
        self.neighbours = Neighbours(keys, distances)

    def begin(self) -> NDArray[np.int64]:
        """First slots of those that are not held back. Who starts blind meets nobody's stop: all its rows are asked."""
        courses = np.flatnonzero(~self.neighbours.is_held)
        blind = courses[self.neighbours.expected_ttl[courses] == UNKNOWN]
        below = np.arange(self._first, self._start_ttl(blind[:1])[0] if len(blind) else self._first, dtype=np.int16)
        rows = self._slots(np.repeat(blind, len(below)), np.tile(below, len(blind)))
        return np.concatenate([self._starts(courses), rows])

    def end(self, courses: NDArray[np.int64]) -> None:
        """These have ended, whoever decided it."""
        self.neighbours.end(courses)

    def tell(self) -> None:
        """Leave what was learned of distances to later windows."""
        known = self.neighbours.last_ttl != UNKNOWN
        self._distances.learn(self.neighbours.keys[known], self.neighbours.last_ttl[known])

    def proceed(self, survey: Survey) -> Asked:
        """As the strategy's."""
        self._stops.make_room(int(survey.heard.sum()))
        footing = self._footing(survey)
        below = self._below(survey, footing)
        beyond, goes_on = self._all_beyond(survey, footing)
        below = np.where(footing.asked.any(axis=1), below, self._start_ttl(survey.courses))
        self.neighbours.let_go(survey.courses[self.neighbours.is_held[survey.courses]])
        again = self._asked_again(survey, footing)
        done = (below == NONE) & ~goes_on & ~again.any(axis=1)
        index, row = np.nonzero(again)
        slots = [
            self._slots(survey.courses[index], self._ttls[row], survey.tries[index, row]),
            self._slots(survey.courses[below != NONE], below[below != NONE]),
            *beyond,
        ]
        if done.any():
            self._learn(survey, footing, np.flatnonzero(done))
            slots.append(self._starts(self.neighbours.release()))
        return Asked(np.concatenate(slots), done)

    def inherited(self, survey: Survey) -> Inheritance | None:
        """As the strategy's."""
        footing, stops = self._footing(survey), self._stops
        index = np.flatnonzero((footing.stand != NONE) & (footing.gap >= self._first))
        entry = self._entries(survey, index, footing.stand[index])
        courses, entries = [], []
        while len(index):
            known = entry != NOBODY
            index, entry = index[known], stops.parent[entry[known]]
            known = entry != NOBODY
            index, entry = index[known], entry[known]
            inside = stops.ttl[entry] >= self._first
            index, entry = index[inside], entry[inside]
            row = stops.ttl[entry].astype(np.int64) - self._first
            unasked = ~footing.asked[index, row]
            courses.append(survey.courses[index[unasked]])
            entries.append(entry[unasked])
            own = footing.routers[index, row]
            entry[own] = self._entries(survey, index[own], self._ttls[row[own]])
        if not sum(map(len, courses)):
            return None
        entry = np.concatenate(entries)
        return Inheritance(
            course=np.concatenate(courses),
            ttl=stops.ttl[entry],
            responder=bytes_of(stops.address[entry]),
            donor=bytes_of(stops.donor[entry]),
        )

    # What to ask

    def _below(self, survey: Survey, footing: _Footing) -> NDArray[np.int16]:
        """(n,): TTL of the next row to ask on the way to the stop set."""
        stops = self._stops
        open_below = footing.gap >= self._first
        stands = footing.stand != NONE
        below = np.where(open_below & ~stands & (footing.top > self._first), footing.gap, NONE)
        below = np.where(self._is_lost(survey), self._nearer(footing.asked), below)
        index = np.flatnonzero(open_below & stands)
        entry = self._entries(survey, index, footing.stand[index])
        while len(index):
            known = self._is_others(entry, survey.courses[index])
            below[index[~known]] = footing.gap[index[~known]]
            index, entry = index[known], stops.parent[entry[known]]
            inside = (entry != NOBODY) & (stops.ttl[entry] >= self._first)
            index, entry = index[inside], entry[inside]
            ttl = stops.ttl[entry].astype(np.int16)
            row = ttl - self._first
            check = ~footing.asked[index, row] & self._odds.is_worth_checking(
                stops.is_branch[entry], stops.flows[entry]
            )
            below[index[check]] = ttl[check]
            answered = footing.routers[index, row]
            index = index[answered]
            entry = self._entries(survey, index, ttl[answered])
        return below.astype(np.int16)

    def _all_beyond(
        self, survey: Survey, footing: _Footing
    ) -> tuple[list[NDArray[np.int64]], NDArray[np.bool_]]:
        """Slots beyond the last answer, and (n,) whether a course has any.

        All rows that would be asked if those before them stayed silent are asked at once. One by one they would save
        next to nothing, for who answers is seldom the last; and silence, row after row, is what takes the time.
        """
        asked, slots = footing.asked.copy(), []
        goes_on = np.zeros(len(asked), np.bool_)
        for _ in range(self._plan.options.gap_limit):
            ttl = self._beyond(survey, asked)
            index = np.flatnonzero(ttl != NONE)
            if not len(index):
                break
            slots.append(self._slots(survey.courses[index], ttl[index]))
            asked[index, ttl[index] - self._first] = True
            goes_on[index] = True
        return slots, goes_on

    def _beyond(self, survey: Survey, asked: NDArray[np.bool_]) -> NDArray[np.int16]:
        """(n,): TTL of the next row to ask beyond the last answer, `asked` being those that are asked already."""
        options = self._plan.options
        ahead = ~asked & (self._ttls > survey.highest_heard[:, None])
        ttl = np.where(ahead.any(axis=1), self._ttls[ahead.argmax(axis=1)], NONE)
        silent = ttl - survey.highest_heard
        may = (survey.end_ttl == NONE) & (ttl != NONE) & (silent <= options.gap_limit)
        index = np.flatnonzero(may & (survey.highest_heard >= self._first))
        last = survey.highest_heard[index]
        standing = self._standing(self._entries(survey, index, last))
        case = self._case(survey.courses[index], standing, silent[index], ttl[index])
        worth = self._odds.is_worth_asking(case, options.gap_limit) | self._is_scout[survey.courses[index]]
        chosen = may & (survey.highest_heard < self._first) & ~self._is_lost(survey)
        chosen[index] = worth
        return np.where(chosen, ttl, NONE).astype(np.int16)

    def _asked_again(self, survey: Survey, footing: _Footing) -> NDArray[np.bool_]:
        """(n, T): silent rows below the last answer that have attempts left."""
        left = footing.asked & ~survey.heard & (survey.tries < self._plan.options.attempts)
        again: NDArray[np.bool_] = left & (self._ttls < footing.top[:, None])
        return again

    def _is_lost(self, survey: Survey) -> NDArray[np.bool_]:
        """(n,): nobody has answered, and there are rows nearer than those asked."""
        lost: NDArray[np.bool_] = (survey.highest_heard < self._first) & (survey.tries[:, 0] == 0)
        return lost

    def _nearer(self, asked: NDArray[np.bool_]) -> NDArray[np.int16]:
        """(n,): where to look for the first answer: right below at first, then in steps that double."""
        step = 1 << np.clip(asked.sum(axis=1) - 2, 0, 8)
        nearer: NDArray[np.int16] = np.maximum(self._ttls[asked.argmax(axis=1)] - step, self._first).astype(np.int16)
        return nearer

    def _starts(self, courses: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._slots(courses, self._start_ttl(courses))

    def _start_ttl(self, courses: NDArray[np.int64]) -> NDArray[np.int16]:
        expected = self.neighbours.expected_ttl[courses]
        ttl = np.where(expected == UNKNOWN, BLIND_TTL, expected + BEYOND_EXPECTED)
        return np.clip(ttl, self._first, self._plan.options.max_ttl).astype(np.int16)

    def _slots(
        self, courses: NDArray[np.int64], ttl: NDArray[np.int16], attempt: NDArray[np.uint8] | int = 0
    ) -> NDArray[np.int64]:
        plan = self._plan
        return (courses * plan.ttls + ttl - self._first) * plan.slots_per_row + attempt

    # What is known

    def _footing(self, survey: Survey) -> _Footing:
        ttls = self._ttls
        asked = survey.tries > 0
        top = np.where(survey.end_ttl != NONE, survey.end_ttl, survey.highest_heard + 1).astype(np.int16)
        below = ttls < top[:, None]
        routers = below & survey.heard & (survey.kind == TIME_EXCEEDED)
        unasked = below & ~asked
        farthest = ttls[len(ttls) - 1 - unasked[:, ::-1].argmax(axis=1)]
        gap = np.where(unasked.any(axis=1), farthest, NONE).astype(np.int16)
        reached = routers & (ttls > gap[:, None])
        stand = np.where(reached.any(axis=1), ttls[reached.argmax(axis=1)], NONE).astype(np.int16)
        return _Footing(asked, routers, top, gap, stand)

    def _entries(self, survey: Survey, index: NDArray[np.int64], ttl: NDArray[np.int16]) -> NDArray[np.int32]:
        """Entries of whoever answered these courses of the survey at these TTLs."""
        return self._stops.find(self._met(survey, index, ttl))

    def _met(self, survey: Survey, index: NDArray[np.int64], ttl: NDArray[np.int16]) -> Met:
        packed = survey.packed[index, ttl - self._first]
        return Met(words_of(packed, self._plan.layout.family.address_size), ttl.astype(np.uint8))

    def _is_others(self, entry: NDArray[np.int32], courses: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether an entry is known from another destination: two flows to one are measured both."""
        theirs: NDArray[np.bool_] = (entry != NOBODY) & (self._stops.donor[entry] != self._words[courses]).any(axis=1)
        return theirs

    def _standing(self, entry: NDArray[np.int32]) -> NDArray[np.int64]:
        known = np.where(self._stops.reach[entry] > 0, INNER_ROUTER, LAST_ROUTER)
        return np.where(entry == NOBODY, NEW_ROUTER, known)

    def _case(
        self,
        courses: NDArray[np.int64],
        standing: NDArray[np.int64],
        silent: NDArray[np.int16],
        ttl: NDArray[np.int16],
    ) -> Case:
        neighbours = self.neighbours
        expected = neighbours.expected_ttl[courses]
        offset = ttl - np.where(expected == UNKNOWN, BLIND_TTL, expected)
        return beyond_case(standing, neighbours.usual_bits - neighbours.bits[courses], silent, offset)

    # What to remember

    def _learn(self, survey: Survey, footing: _Footing, done: NDArray[np.int64]) -> None:
        """Remember what courses that end now have measured; `done` are their places in the survey."""
        end, heard = survey.end_ttl[done], survey.highest_heard[done]
        last = np.where(end != NONE, end - 1, np.where(heard < self._first, UNKNOWN, heard))
        self._learn_beyond(survey, footing, done)
        self._learn_routers(survey, footing, done, last)
        self.neighbours.last_ttl[survey.courses[done]] = last
        self.neighbours.end(survey.courses[done])

    def _learn_beyond(self, survey: Survey, footing: _Footing, done: NDArray[np.int64]) -> None:
        """Count each row that has an answer below it: how many rows lie between, and whether it was heard from."""
        ttls, end = self._ttls, survey.end_ttl[done, None]
        heard = survey.heard[done] | (ttls == end)
        asked = (footing.asked[done] | heard) & ((ttls <= end) | (end == NONE))
        latest = np.maximum.accumulate(np.where(heard, ttls, NONE), axis=1)
        before = np.concatenate([np.full((len(done), 1), NONE, np.int16), latest[:, :-1]], axis=1)
        index, row = np.nonzero(asked & (before != NONE))
        before = before[index, row]
        is_router = footing.routers[done[index], before - self._first]
        index, row, before = index[is_router], row[is_router], before[is_router]
        standing = self._standing(self._entries(survey, done[index], before))
        case = self._case(survey.courses[done[index]], standing, ttls[row] - before, ttls[row])
        self._odds.learn_beyond(case, heard[index, row])

    def _learn_routers(
        self, survey: Survey, footing: _Footing, done: NDArray[np.int64], last: NDArray[np.int16]
    ) -> None:
        stops = self._stops
        index, row = np.nonzero(footing.routers[done])
        ttl = self._ttls[row]
        met = self._met(survey, done[index], ttl)
        parent = stops.find(met)
        parent = np.where(parent == NOBODY, NOBODY, stops.parent[parent])
        is_branch, flows = stops.is_branch[parent], stops.flows[parent]
        entry, was_unknown = stops.enter(met, index, self._words[survey.courses[done[index]]])
        stops.count(entry[entry != NOBODY], (last[index] - ttl)[entry != NOBODY])
        # Below an entry that was known, its parent's row says whether this flow has met the same router there.
        entries = np.full((len(done), len(self._ttls)), NOBODY, np.int32)
        news = np.zeros(entries.shape, np.bool_)
        entries[index, row], news[index, row] = entry, was_unknown
        known = np.flatnonzero((parent != NOBODY) & (stops.ttl[parent] >= self._first))
        there = index[known], stops.ttl[parent[known]].astype(np.int64) - self._first
        checked = footing.asked[done][there]
        known, there = known[checked], (there[0][checked], there[1][checked])
        self._odds.learn_checks(is_branch[known], flows[known], news[there])
        other = (entries[there] != NOBODY) & (entries[there] != parent[known])
        stops.is_branch[entries[there][other]] = True
        stops.is_branch[parent[known][other]] = True
