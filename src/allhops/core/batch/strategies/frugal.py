"""Whole paths of many destinations with as few probes as there can be: ask only what neighbours have not told.

* **Start near the end.** The first probe of a course has the TTL right after the distance of its nearest neighbour
  that has been traced (neighbours.py, distances.py); in a short list the one before as well (starts.py).
* **Backward to the stop set.** From there row by row nearer, until a router answers that another course has met at this
  TTL (stop_set.py). What lies before it is inherited from there, and says so.
* **Forward while it pays.** Rows beyond the last answer are asked up to the gap limit at most; fewer where experience
  says that nobody will answer (odds.py). Where two courses have found silence behind one router, a third one asks them
  all: for a single destination that would not pay, but there may be a whole network behind many silent rows.
* **Hindsight.** Who has found silence is kept until its company has ended (neighbours.py), and asks on where others
  were heard behind the same last router by then. What it learns at its second end counts once more; they are few.
* **A look behind the stop.** Where the donor's flow met one router, or silence, another flow may meet another one: a
  load balancer. So rows behind the stop are asked as well while experience says that this finds branches (looks.py).

A row below the last answer that stays silent is asked as often as the caller wishes; one beyond it once.

Nothing is kept of a course but its neighbours: all else is read from the survey each time. What is kept over all
windows is bounded: for each family 28 MB of stop set and 9 MB of distances. To that come some 55 bytes a course of the
windows that are under way. This file knows no packet and no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from allhops.core.batch.strategies import Asked, Inheritance
from allhops.core.batch.strategies.distances import UNKNOWN, Distances, keys_of
from allhops.core.batch.strategies.footing import Footing, Steps, descend, footing
from allhops.core.batch.strategies.looks import Looks
from allhops.core.batch.strategies.neighbours import Neighbours
from allhops.core.batch.strategies.odds import (
    INNER_ROUTER,
    LAST_ROUTER,
    LEAPT_ROUTER,
    NEARLY_LEAPT_ROUTER,
    NEW_ROUTER,
    STANDINGS,
    Odds,
    beyond_case,
)
from allhops.core.batch.strategies.starts import BLIND_TTL, Wait, blind_rows, first_rows, manner_of, start_ttl
from allhops.core.batch.strategies.stop_set import NOBODY, Met, StopSet, bytes_of, words_of
from allhops.core.batch.survey import NONE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.core.batch.strategies.odds import Case
    from allhops.core.batch.strategies.starts import Manner
    from allhops.core.batch.strategies.stop_set import Words
    from allhops.core.batch.survey import Survey
    from allhops.core.plan import Plan

ENDS_BELIEVED = 2
"""So many courses may find silence behind a router; then one asks up to the gap limit there. Of the addresses of five
internets of 30,000 destinations 38 each are missed, 47 where one course in 256 asks so far instead."""

SHARE_LEFT = 0.005
"""Share of a window's courses that are still under way; when fewer are, nobody asks on in hindsight. Without it 10,000
destinations take 0.5 s longer, for 1 address in 25,000."""


class Frugal:
    """See the module."""

    spare_attempts = 0
    at_once = 512

    def __init__(self) -> None:
        self._odds = Odds()
        self._families: dict[int, tuple[StopSet, Distances]] = {}
        self._windows: dict[int, _Window] = {}
        self._destinations = 0

    def begin(self, plan: Plan) -> NDArray[np.int64]:
        """The first probe of every course that has nobody to wait for."""
        size = plan.layout.family.address_size
        if size not in self._families:
            self._families[size] = (StopSet(size), Distances())
        stops, distances = self._families[size]
        self._destinations += len(plan.destinations)
        manner = manner_of(self._destinations)
        window = self._windows[id(plan)] = _Window(plan, stops, distances, self._odds, manner)
        return window.begin()

    def proceed(self, plan: Plan, survey: Survey) -> Asked:
        """Rows below the last answer, rows beyond it while they pay, and first ones of courses whose wait is over."""
        return self._windows[id(plan)].proceed(survey)

    def awaited(self, plan: Plan) -> NDArray[np.bool_]:
        """Those between which others stand."""
        return self._windows[id(plan)].neighbours.is_awaited

    def inherited(self, plan: Plan, survey: Survey) -> Inheritance | None:
        """What the stop set says of the rows below the last stop."""
        window = self._windows[id(plan)]
        inherited = window.inherited(survey)
        window.end(survey.courses)
        if window.neighbours.all_ended:
            window.tell()
            del self._windows[id(plan)]
        return inherited


class _Window:
    """The courses of one plan, and what is shared with those of others."""

    def __init__(self, plan: Plan, stops: StopSet, distances: Distances, odds: Odds, manner: Manner) -> None:
        self._plan = plan
        self._manner = manner
        self._stops = stops
        self._distances = distances
        self._odds = odds
        self._first = plan.options.first_ttl
        self._ttls = np.arange(self._first, plan.options.max_ttl + 1, dtype=np.int16)
        flows, size = len(plan.source_ports), plan.layout.family.address_size
        words = words_of(np.frombuffer(b"".join(plan.destinations), np.uint8).reshape(-1, size), size)
        self._words: Words = words[np.repeat(np.arange(len(words)), flows)]
        keys = np.repeat(keys_of(plan.destinations), flows)
        self.neighbours = Neighbours(keys, distances, strides=manner.strides, least_first=manner.least_first)
        self._looks = Looks(plan.courses, stops, odds)
        self._ended = np.empty(0, np.int64)
        self._owed: Inheritance | None = None

    def begin(self) -> NDArray[np.int64]:
        """First slots of those that are not held back."""
        courses = np.flatnonzero(~self.neighbours.is_held)
        blind = courses[self.neighbours.expected_ttl[courses] == UNKNOWN]
        place, ttl = blind_rows(len(blind), self._plan.options, self._manner)
        return np.concatenate([self._starts(courses), self._slots(blind[place], ttl)])

    def end(self, courses: NDArray[np.int64]) -> None:
        """These have ended, whoever decided it."""
        self._looks.end(courses)
        self.neighbours.end(courses)

    def tell(self) -> None:
        """Leave what was learned of distances to later windows."""
        known = self.neighbours.last_ttl != UNKNOWN
        self._distances.learn(self.neighbours.keys[known], self.neighbours.last_ttl[known])

    def proceed(self, survey: Survey) -> Asked:
        """As the strategy's."""
        self._stops.make_room(int(survey.heard.sum()))
        ground = self._footing(survey)
        least = NEARLY_LEAPT_ROUTER if self.neighbours.share_left >= SHARE_LEFT else STANDINGS
        is_back = self.neighbours.take_back(survey.courses)
        below, steps = self._below(survey, ground, is_back)
        unasked = ~ground.asked.any(axis=1)
        below[unasked] = start_ttl(self.neighbours.expected_ttl[survey.courses[unasked]], self._plan.options)
        self.neighbours.let_go(survey.courses[self.neighbours.is_held[survey.courses]])
        again, again_row = self._asked_again(survey, ground)
        beyond, beyond_row = self._beyond(survey, ground, is_back, least)
        done = below == NONE
        done[again] = done[beyond] = False
        slots = [
            self._slots(survey.courses[below != NONE], below[below != NONE]),
            self._slots(survey.courses[again], self._ttls[again_row], survey.tries[again, again_row]),
            self._slots(survey.courses[beyond], self._ttls[beyond_row]),
        ]
        first_ends = done & ~is_back
        kept = self._kept(survey, first_ends)
        if first_ends.any():
            self._learn(survey, ground, steps.part(first_ends[steps.place]), first_ends)
            self._looks.end(survey.courses[kept])
            self.neighbours.keep(survey.courses[kept])
        if done.any():
            ends = done & ~kept
            self._ended, self._owed = survey.courses[ends], self._inheritance(survey, steps.part(ends[steps.place]))
        if self._manner.is_hasty:
            self._tell(survey, done, beyond)
        if done.any() or self._manner.is_hasty:
            slots.append(self._starts(self.neighbours.release()))
        coming_back = self.neighbours.coming_back() if done.any() else None
        return Asked(np.concatenate(slots), done & ~kept, done | is_back, coming_back)

    def inherited(self, survey: Survey) -> Inheritance | None:
        """As the strategy's."""
        if np.array_equal(self._ended, survey.courses):
            return self._owed
        return self._inheritance(survey, descend(self._footing(survey), self._stops))

    def _inheritance(self, survey: Survey, steps: Steps) -> Inheritance | None:
        owed = ~steps.asked & (steps.entry != NOBODY)
        entry, stops = steps.entry[owed], self._stops
        if not len(entry):
            return None
        return Inheritance(
            course=survey.courses[steps.place[owed]],
            ttl=stops.ttl[entry],
            responder=bytes_of(stops.address[entry]),
            donor=bytes_of(stops.donor[entry]),
        )

    # What to ask

    def _below(self, survey: Survey, ground: Footing, is_back: NDArray[np.bool_]) -> tuple[NDArray[np.int16], Steps]:
        """(n,): TTL of the next row to ask on the way to the stop set, or behind it; and the way of those without."""
        homeless = (ground.gap >= self._first) & (ground.stand == NONE)
        below = np.where(homeless, ground.gap, NONE)
        below = np.where(self._is_lost(survey), self._nearer(ground.asked), below).astype(np.int16)

        def ask(step: Steps) -> NDArray[np.bool_]:
            ttl = self._looks.wanted(ground, survey.courses, step)
            ttl[is_back[step.place]] = NONE  # hindsight is of what lies beyond
            unknown = ~step.asked & (step.entry == NOBODY)
            ttl[unknown] = self._ttls[step.row[unknown]]
            wanted: NDArray[np.bool_] = ttl != NONE
            below[step.place[wanted]] = ttl[wanted]
            return wanted

        return below, descend(ground, self._stops, ask)

    def _beyond(
        self, survey: Survey, ground: Footing, is_back: NDArray[np.bool_], least: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(place, row) of the rows to ask beyond the last answer.

        All that would be asked if those before them stayed silent are asked at once. One by one they would save next to
        nothing, for who answers is seldom the last; and silence, row after row, is what takes the time.
        """
        options, rows = self._plan.options, len(self._ttls)
        place = np.flatnonzero((survey.end_ttl == NONE) & ~self._is_lost(survey))
        last = survey.highest_heard[place]
        nobody, last_row, back = last < self._first, np.maximum(last - self._first, 0), is_back[place]
        silent = np.arange(1, options.gap_limit + 1, dtype=np.int16)
        ttl = last[:, None] + silent
        row = np.minimum(ttl - self._first, rows - 1).astype(np.int64)
        standing = self._standing(ground, place[:, None], last_row[:, None], silent)
        case = self._case(survey.courses[place, None], standing, np.broadcast_to(silent, ttl.shape), ttl)
        surely = nobody | self._sound(np.where(back, NOBODY, ground.others[place, last_row]))
        worth = self._odds.is_worth_asking(case, options.gap_limit) | surely[:, None]
        worth = np.where(back[:, None], standing >= least, worth)
        asked = ground.asked[place[:, None], row]
        goes_on = np.logical_and.accumulate(worth | asked, axis=1)
        index, ahead = np.nonzero(goes_on & ~asked & (ttl <= options.max_ttl))
        return place[index], row[index, ahead]

    def _kept(self, survey: Survey, ends: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(n,): who of these that end might be asked on when more is known: who has found silence."""
        kept: NDArray[np.bool_] = ends & (survey.end_ttl == NONE) & (not self._manner.is_hasty)
        return kept

    def _sound(self, entry: NDArray[np.int32]) -> NDArray[np.bool_]:
        """(n,): who asks all rows beyond these routers, its last ones: one for each where enough courses have ended."""
        stops = self._stops
        unsounded = np.flatnonzero((entry != NOBODY) & (stops.ends[entry] >= ENDS_BELIEVED) & ~stops.is_sounded[entry])
        routers, first = np.unique(entry[unsounded], return_index=True)
        stops.is_sounded[routers] = True
        sounds = np.zeros(len(entry), np.bool_)
        sounds[unsounded[first]] = True
        return sounds

    def _asked_again(self, survey: Survey, ground: Footing) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(place, row) of silent rows below the last answer that have attempts left."""
        left = ground.asked & ~survey.heard & (survey.tries < self._plan.options.attempts)
        place, row = np.nonzero(left & (self._ttls < ground.top[:, None]))
        return place, row

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
        place, ttl = first_rows(self.neighbours.expected_ttl[courses], self._plan.options, self._manner)
        return self._slots(courses[place], ttl)

    def _slots(
        self, courses: NDArray[np.int64], ttl: NDArray[np.int16], attempt: NDArray[np.uint8] | int = 0
    ) -> NDArray[np.int64]:
        plan = self._plan
        return (courses * plan.ttls + ttl - self._first) * plan.slots_per_row + attempt

    # What is known

    def _footing(self, survey: Survey) -> Footing:
        return footing(self._first, survey, self._stops, self._words[survey.courses])

    def _standing(
        self, ground: Footing, place: NDArray[np.int64], row: NDArray[np.int16], silent: NDArray[np.int16]
    ) -> NDArray[np.int64]:
        """Of the routers that courses have met in these rows, for those who ask so many rows beyond."""
        entry, stops = ground.entries[place, row], self._stops
        inner = LEAPT_ROUTER + np.clip(stops.leap[entry] - silent, INNER_ROUTER - LEAPT_ROUTER, 0)
        known = np.where(stops.reach[entry] > 0, inner, LAST_ROUTER)
        return np.where(entry == NOBODY, NEW_ROUTER, known).astype(np.int64)

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

    def _learn(self, survey: Survey, ground: Footing, steps: Steps, done: NDArray[np.bool_]) -> None:
        """Remember what courses that end now have measured; `steps` are theirs."""
        heard, end = survey.highest_heard, survey.end_ttl
        last = np.where(end != NONE, end - 1, np.where(heard < self._first, UNKNOWN, heard))
        self._learn_beyond(survey, ground, np.flatnonzero(done))
        self._learn_routers(survey, ground, steps, done, last)
        self.neighbours.last_ttl[survey.courses[done]] = last[done]
        self.neighbours.end(survey.courses[done])

    def _tell(self, survey: Survey, done: NDArray[np.bool_], beyond: NDArray[np.int64]) -> None:
        """Whoever waits need not wait for all of a course whose distance is known; `beyond` are asked on there."""
        last, ends = survey.highest_heard, survey.end_ttl != NONE
        told = ~done & (last >= self._first)
        if self._manner.wait is Wait.SILENCE:
            behind = np.clip(last + 1 - self._first, 0, len(self._ttls) - 1)
            told &= ends | (survey.tries[np.arange(len(last)), behind] > 0)
        else:
            told[beyond] = False
        distance = np.where(ends, survey.end_ttl - 1, last).astype(np.int16)
        self.neighbours.tell(survey.courses[told], distance[told])

    def _learn_beyond(self, survey: Survey, ground: Footing, done: NDArray[np.int64]) -> None:
        """Count each row that has an answer below it: how many rows lie between, and whether it was heard from."""
        ttls, end = self._ttls, survey.end_ttl[done, None]
        heard = survey.heard[done] | (ttls == end)
        asked = (ground.asked[done] | heard) & ((ttls <= end) | (end == NONE))
        latest = np.maximum.accumulate(np.where(ground.routers[done], ttls, NONE), axis=1)
        before = np.concatenate([np.full((len(done), 1), NONE, np.int16), latest[:, :-1]], axis=1)
        index, row = np.nonzero(asked & (before != NONE))
        place, before = done[index], before[index, row]
        standing = self._standing(ground, place, before - self._first, ttls[row] - before)
        case = self._case(survey.courses[place], standing, ttls[row] - before, ttls[row])
        self._odds.learn_beyond(case, heard[index, row])

    def _learn_routers(
        self, survey: Survey, ground: Footing, steps: Steps, done: NDArray[np.bool_], last: NDArray[np.int16]
    ) -> None:
        """Enter all routers that were met, and count how often a look at what others had told has found another one."""
        stops = self._stops
        ended = done[ground.place]
        place, row, known = ground.place[ended], ground.row[ended], ground.entry[ended]
        met = Met(ground.met.address[ended], ground.met.ttl[ended])
        looked = self._looks.made(ground, steps, Steps(place, row, known, np.ones(len(row), np.bool_), known))
        entry = stops.enter(met, known, place, self._words[survey.courses[place]])
        entries = np.full(ground.asked.shape, NOBODY, np.int32)
        news = np.zeros(entries.shape, np.bool_)
        entries[place, row], news[place, row] = entry, known == NOBODY
        self._odds.learn_looks(looked.kind, looked.flows, news[looked.place, looked.row])
        there = entries[looked.place, looked.row]
        other = (there != NOBODY) & (looked.entry != NOBODY) & (there != looked.entry)
        stops.is_branch[there[other]] = True
        stops.is_branch[looked.entry[other]] = True
        silent = self._silent_before(survey, ground, place, row)
        entered = entry != NOBODY
        stops.count(entry[entered], (last[place] - self._ttls[row])[entered], silent[entered])
        stops.count_ends(entry[entered & (survey.end_ttl[place] == NONE) & (self._ttls[row] == last[place])])
        before = entries[place, np.maximum(row - 1 - silent, 0)]
        leapt = (row > silent) & (before != NOBODY)
        stops.count_leaps(before[leapt], 1 + silent[leapt])

    def _silent_before(
        self, survey: Survey, ground: Footing, place: NDArray[np.int64], row: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """How many rows right before these were asked in vain."""
        rows = np.arange(len(self._ttls))
        latest = np.maximum.accumulate(np.where(ground.asked & ~survey.heard, -1, rows), axis=1)
        silent: NDArray[np.int64] = row - 1 - np.where(row > 0, latest[place, row - 1], -1)
        return silent
