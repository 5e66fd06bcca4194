"""Slots that wait to be sent, in an order that is kind to routers and destinations.

Slots are dealt out: some hundred courses make a deal, and each round of it holds one slot of each of them, drawn at
random. The next round is due `SPACING_S` after the last probe of the one before has left. So no destination ever sees a
burst, and of what leaves together every TTL has its share: no router sees one either, however near it is. Of the deals
that are due one goes first whose turn it is. This file reads no clock.
"""

from __future__ import annotations

import heapq
from itertools import count
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPACING_S = 0.02
"""Least seconds between two probes to one destination: 50 a second at most, which no host's limits mind."""
DEAL_COURSES = 512
"""Courses of one deal: few enough that others fill the time between its rounds."""


class Turn(NamedTuple):
    """Of deals that are due the lowest goes first."""

    others_first: bool
    """Nobody waits for these courses: those that others wait for go first."""
    since: float
    """When it was asked for: what is begun is finished."""


NO_TURN = Turn(True, inf)

if TYPE_CHECKING:
    _Deal = tuple[Turn, int, list[NDArray[np.int64]]]
    """Its turn, its number, and the rounds that are left, the next one last."""


class Waiting:
    """A queue of slots. `random` decides the order."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._number = count()
        self._due: list[_Deal] = []
        self._later: list[tuple[float, _Deal]] = []
        self._taken: list[_Deal] = []
        self.slots = 0
        """How many wait, due or not."""

    def add(self, slots: NDArray[np.int64], courses: NDArray[np.int64], turn: Turn) -> None:
        """Deal out slots; `courses` says whose each is."""
        if not len(slots):
            return
        order = self._random.permutation(len(slots))
        slots, courses = slots[order], courses[order]
        counts = np.bincount(courses)
        owners = np.flatnonzero(counts)
        places = np.zeros(len(counts), np.uint16 if len(owners) <= np.iinfo(np.uint16).max else np.int64)
        places[owners] = self._random.permutation(len(owners))
        place = places[courses]
        by_place = np.argsort(place, kind="stable")  # of 16-bit numbers in linear time
        slots, place = slots[by_place], place[by_place].astype(np.int64)
        starts = np.flatnonzero(np.diff(place, prepend=-1))
        rounds = np.arange(len(place)) - np.repeat(starts, np.diff(starts, append=len(place)))
        deals = place // DEAL_COURSES
        for deal in range(int(deals.max()) + 1):
            own, of = slots[deals == deal], rounds[deals == deal]
            left = [own[of == number] for number in range(int(of.max()), -1, -1)]
            heapq.heappush(self._due, (turn, next(self._number), left))
        self.slots += len(slots)

    def turn(self, now: float) -> Turn:
        """Of what is due; `NO_TURN` for nothing."""
        while self._later and self._later[0][0] <= now:
            heapq.heappush(self._due, heapq.heappop(self._later)[1])
        return self._due[0][0] if self._due else NO_TURN

    def take(self, now: float, most: int) -> NDArray[np.int64]:
        """At most so many of those that are due, no course twice. Call `left` when all of them have been sent."""
        self.turn(now)
        taken: list[NDArray[np.int64]] = []
        while most and self._due:
            deal = heapq.heappop(self._due)
            rounds = deal[2]
            head = rounds.pop()
            taken.append(head[:most])
            if most < len(head):
                rounds.append(head[most:])
                heapq.heappush(self._due, deal)
            elif rounds:
                self._taken.append(deal)
            most -= len(taken[-1])
        slots = np.concatenate(taken) if taken else np.empty(0, np.int64)
        self.slots -= len(slots)
        return slots

    def left(self, now: float) -> None:
        """What was taken has been sent: the next rounds are due in a while."""
        for deal in self._taken:
            heapq.heappush(self._later, (now + SPACING_S, deal))
        self._taken.clear()

    def clear(self) -> None:
        """Nothing of what waits will be sent."""
        self._due.clear()
        self._later.clear()
        self._taken.clear()
        self.slots = 0
