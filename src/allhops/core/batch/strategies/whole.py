"""Every hop of every destination, without asking again what cannot be otherwise.

* **The end of each path is measured**: every row from the last router that neighbours have in common up to the
  destination, or to the gap limit.
* **Its beginning is inherited where it is sure.** From the lowest router that a course has met itself, it goes from
  router to router as long as many flows have come this way and all of them by the same one (links.py). A row where some
  came otherwise, or few have come at all, is asked. That is evidence, not proof: where one flow in twenty takes another
  branch, or a few destinations of a prefix of their own do, what they inherit may be what the others met.
* **Neighbours say where to begin** (neighbours.py). Who stands between two destinations whose paths share a router will
  meet it too: that row is asked, those above it, and at once all rows below that are not sure.
* **Nobody waits idly.** The first probe of a course goes where most paths have ended: it finds most destinations that
  answer and says how far they are, on other paths it is one of the silent rows that have to be asked anyway, and it
  leaves while the neighbours are still asked.

A silent row is asked as often as the caller wishes, wherever it is. Nothing is kept of a course but whom it met and
what its first probe has said: all else is read from the survey each time. What is kept over all windows is bounded: for
each family some 70 MB of stop set and links at most. This file knows no packet and no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from allhops.core.batch.strategies import Asked, Inheritance
from allhops.core.batch.strategies.distances import UNKNOWN, Distances, keys_of
from allhops.core.batch.strategies.links import DEPTH, Links
from allhops.core.batch.strategies.neighbours import Neighbours
from allhops.core.batch.strategies.parallel import FIRST_STEP
from allhops.core.batch.strategies.stop_set import NOBODY, Met, StopSet, bytes_of, words_of
from allhops.core.batch.strategies.way_down import Ground, way_down
from allhops.core.batch.survey import NONE
from allhops.wire.classify import TIME_EXCEEDED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.core.batch.strategies.stop_set import Words
    from allhops.core.batch.strategies.way_down import Way
    from allhops.core.batch.survey import Survey
    from allhops.core.plan import Plan

BEYOND_EXPECTED = 3
"""Rows past the neighbour's last router that are asked at first. More cost probes beyond the destinations that answer,
fewer cost a second wave."""
UNSAID = -1
STRIDES = (64, 4, 1)
ENOUGH = 13
"""Of 16 of a company that are asked before the others: by then most of the links that they share are sure, and nobody
waits for the slowest."""


class Whole:
    """See the module."""

    spare_attempts = 0
    at_once = 512

    def __init__(self) -> None:
        self._families: dict[int, tuple[StopSet, Links]] = {}
        self._windows: dict[int, _Window] = {}

    def begin(self, plan: Plan) -> NDArray[np.int64]:
        """One row of every course, and all that may be needed of those that have nobody to wait for."""
        size = plan.layout.family.address_size
        if size not in self._families:
            stops = StopSet(size)
            self._families[size] = stops, Links(stops.capacity)
        window = self._windows[id(plan)] = _Window(plan, *self._families[size])
        return window.begin()

    def proceed(self, plan: Plan, survey: Survey) -> Asked:
        """Rows that are neither measured nor sure, and those of courses whose wait is over."""
        return self._windows[id(plan)].proceed(survey)

    def awaited(self, plan: Plan) -> NDArray[np.bool_]:
        """Those between which others stand."""
        return self._windows[id(plan)].neighbours.is_awaited

    def inherited(self, plan: Plan, survey: Survey) -> Inheritance | None:
        """What is sure of the rows that were not asked."""
        window = self._windows[id(plan)]
        inherited = window.inherited(survey)
        window.neighbours.end(survey.courses)
        if window.neighbours.all_ended:
            del self._windows[id(plan)]
        return inherited


class _Window:
    """The courses of one plan, and what is shared with those of others."""

    def __init__(self, plan: Plan, stops: StopSet, links: Links) -> None:
        self._plan = plan
        self._stops = stops
        self._links = links
        self._first = plan.options.first_ttl
        self._ttls = np.arange(self._first, plan.options.max_ttl + 1, dtype=np.int16)
        flows, size = len(plan.source_ports), plan.layout.family.address_size
        words = words_of(np.frombuffer(b"".join(plan.destinations), np.uint8).reshape(-1, size), size)
        self._words: Words = words[np.repeat(np.arange(len(words)), flows)]
        keys = np.repeat(keys_of(plan.destinations), flows)
        self.neighbours = Neighbours(keys, Distances(), strides=STRIDES, enough=ENOUGH)
        # Entries of a stop set that has begun anew since then are wrong guesses, and harmless.
        self._paths = np.full((plan.courses, len(self._ttls)), NOBODY, np.int32)
        self._blind_row = min(FIRST_STEP, len(self._ttls)) - 1
        self._blind_is_over = np.zeros(plan.courses, np.bool_)
        self._limit = np.full(plan.courses, UNSAID, np.int16)
        """Up to which TTL to ask, if the first probe has said so."""
        self._has_begun = np.zeros(plan.courses, np.bool_)
        self._ended = np.empty(0, np.int64)
        self._owed: Inheritance | None = None

    def begin(self) -> NDArray[np.int64]:
        """As the strategy's."""
        courses = np.arange(self._plan.courses)
        blind = (courses * self._plan.ttls + self._blind_row) * self._plan.slots_per_row
        return np.concatenate([blind, self._starts(courses[~self.neighbours.is_held])])

    def proceed(self, survey: Survey) -> Asked:
        """As the strategy's."""
        if self._stops.make_room(int(survey.heard.sum())):
            self._links.clear()
        waits = self._wait(survey)
        ground = self._ground(survey)
        way = way_down(ground, self._links, self._ttls)
        again = ground.asked & ~survey.heard & (self._ttls <= ground.limit[:, None])
        again &= survey.tries < self._plan.options.attempts
        rows = (way.wanted | again) & ~waits[:, None]
        done = ~rows.any(axis=1) & ~waits
        self._has_begun[survey.courses[~waits]] = True
        slots = [self._slots(survey.courses, rows, survey.tries)]
        if done.any():
            self._ended, self._owed = survey.courses[done], self._inheritance(survey.courses[done], way.told[done])
            self._learn(survey, ground, way, done)
            released = self.neighbours.release()
            slots.append(self._starts(released[self._blind_is_over[released]]))
        return Asked(np.concatenate(slots), done)

    def inherited(self, survey: Survey) -> Inheritance | None:
        """As the strategy's."""
        if np.array_equal(self._ended, survey.courses):
            return self._owed
        return self._inheritance(survey.courses, way_down(self._ground(survey), self._links, self._ttls).told)

    # What to ask

    def _wait(self, survey: Survey) -> NDArray[np.bool_]:
        """Which go on waiting for others: those whose first probe is over only now and has left something to ask."""
        courses, end = survey.courses, survey.end_ttl[:, None]
        is_left = ((survey.tries == 0) & ((end == NONE) | (self._ttls < end))).any(axis=1)
        held = self.neighbours.is_held[courses]
        waits: NDArray[np.bool_] = held & is_left & ~self._blind_is_over[courses]
        self.neighbours.let_go(courses[held & ~waits])
        self._blind_is_over[courses] = True
        return waits

    def _ground(self, survey: Survey) -> Ground:
        options, end = self._plan.options, survey.end_ttl
        routers = (survey.kind == TIME_EXCEEDED) & ((self._ttls < end[:, None]) | (end[:, None] == NONE))
        entry = np.full(routers.shape, NOBODY, np.int32)
        place, row = np.nonzero(routers)
        entry[place, row] = self._stops.find(self._met(survey, place, row))
        nobody = survey.highest_heard < self._first
        beyond = np.where(nobody, self._first - 1 + FIRST_STEP, survey.highest_transit + options.gap_limit)
        limit = np.where(end != NONE, end - 1, np.minimum(beyond, options.max_ttl)).astype(np.int16)
        fresh = ~self._has_begun[survey.courses]
        is_far_off = (survey.reached_ttl != NONE) & (survey.distance != survey.reached_ttl)
        says = fresh & ~nobody & ~is_far_off
        self._limit[survey.courses[says]] = limit[says]
        limit[fresh] = self._first_limit(survey.courses[fresh])
        return Ground(survey.tries > 0, routers, entry, self._guess(survey.courses), limit)

    def _starts(self, courses: NDArray[np.int64]) -> NDArray[np.int64]:
        """First slots of courses of which only the first probe was sent; what that has met is looked at later."""
        self._has_begun[courses] = True
        shape = len(courses), len(self._ttls)
        asked, nothing = np.zeros((2, *shape), np.bool_)
        asked[:, self._blind_row] = True
        nobody = np.full(shape, NOBODY, np.int32)
        ground = Ground(asked, nothing, nobody, self._guess(courses), self._first_limit(courses))
        way = way_down(ground, self._links, self._ttls)
        return self._slots(courses, way.wanted, np.zeros(shape, np.uint8))

    def _first_limit(self, courses: NDArray[np.int64]) -> NDArray[np.int16]:
        """(n,): up to which TTL to ask at first. Who is waited for asks at once all that silence may ask for."""
        options, expected = self._plan.options, self.neighbours.expected_ttl[courses]
        farther = np.where(self.neighbours.is_awaited[courses], options.gap_limit, BEYOND_EXPECTED)
        unknown = self._first - 1 + FIRST_STEP + options.gap_limit
        limit = np.where(expected == UNKNOWN, unknown, expected + np.minimum(farther, options.gap_limit))
        limit = np.where(self._limit[courses] != UNSAID, self._limit[courses], limit)
        return np.clip(limit, self._first - 1, options.max_ttl).astype(np.int16)

    def _guess(self, courses: NDArray[np.int64]) -> NDArray[np.int32]:
        """(n, T): entries that the neighbours on both sides have met, or the one that there is."""
        left, right = self.neighbours.left[courses], self.neighbours.right[courses]
        left, right = np.where(left == NOBODY, right, left), np.where(right == NOBODY, left, right)
        one, other = self._paths[left], self._paths[right]
        guess: NDArray[np.int32] = np.where((one == other) & (left != NOBODY)[:, None], one, NOBODY).astype(np.int32)
        return guess

    def _slots(
        self, courses: NDArray[np.int64], rows: NDArray[np.bool_], tries: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """Of these rows the first attempt, or all that are left once that one was silent."""
        plan, attempts = self._plan, np.arange(self._plan.options.attempts)
        place, row = np.nonzero(rows)
        tried = tries[place, row, None]
        index, attempt = np.nonzero((attempts >= tried) & ((tried > 0) | (attempts == 0)))
        return (courses[place[index]] * plan.ttls + row[index]) * plan.slots_per_row + attempt

    # What to remember

    def _learn(self, survey: Survey, ground: Ground, way: Way, done: NDArray[np.bool_]) -> None:
        """Whom courses that end now have met, one before the other. A loop says nothing of others."""
        place, row = np.nonzero(ground.routers & (done & (survey.loop_ttl == NONE))[:, None])
        met = self._met(survey, place, row)
        entry = self._stops.enter(met, ground.entry[place, row], place, self._words[survey.courses[place]])
        entries = np.full(ground.asked.shape, NOBODY, np.int32)
        entries[place, row] = entry
        self._learn_links(ground, entries, place, row)
        paths = way.told[done]
        at = np.cumsum(done) - 1
        paths[at[place], row] = entry
        courses, end = survey.courses[done], survey.end_ttl[done]
        self._paths[courses] = paths
        heard = survey.highest_heard[done]
        self.neighbours.last_ttl[courses] = np.where(
            end != NONE, end - 1, np.where(heard < self._first, UNKNOWN, heard)
        )
        self.neighbours.end(courses)

    def _learn_links(
        self, ground: Ground, entries: NDArray[np.int32], place: NDArray[np.int64], row: NDArray[np.int64]
    ) -> None:
        """Whom courses have met, and whom some rows nearer, where they have asked all rows in between."""
        entry = entries[place, row]
        asked = entry != NOBODY
        for rows in range(1, DEPTH + 1):
            asked &= row >= rows
            nearer = np.maximum(row - rows, 0)
            asked &= ground.asked[place, nearer]
            known = asked & (~ground.routers[place, nearer] | (entries[place, nearer] != NOBODY))
            self._links.learn(entry[known], rows, entries[place[known], nearer[known]])

    def _met(self, survey: Survey, place: NDArray[np.int64], row: NDArray[np.int64]) -> Met:
        return Met(words_of(survey.packed(place, row), self._stops.size), self._ttls[row].astype(np.uint8))

    def _inheritance(self, courses: NDArray[np.int64], told: NDArray[np.int32]) -> Inheritance | None:
        place, row = np.nonzero(told != NOBODY)
        if not len(place):
            return None
        entry = told[place, row]
        return Inheritance(
            course=courses[place],
            ttl=self._stops.ttl[entry],
            responder=bytes_of(self._stops.address[entry]),
            donor=bytes_of(self._stops.donor[entry]),
        )
