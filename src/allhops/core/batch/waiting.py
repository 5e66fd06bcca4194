"""Slots that wait to be sent, in an order that is kind to routers and destinations.

Slots are dealt out: some dozen courses make a deal, and each round of it holds one slot of each of them, drawn at
random. The next round is due `SPACING_S` after the last probe of the one before has left. So no destination ever sees a
burst, and of what leaves together every TTL has its share: no router sees one either, however near it is. Of the deals
that are due one goes first whose turn it is. Whoever takes many slots takes them in the order in which they will leave,
several rounds of a deal among them if the rate leaves that much time in between. This file reads no clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from itertools import count
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allhops.core.pacer import BURST_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SPACING_S = 0.02
"""Least seconds between two probes to one destination: 50 a second at most, which no host's limits mind."""
DEAL_COURSES = 64
"""Courses of one deal. As many deals are under way as fill the time between rounds: with few courses each, the first
ones are soon complete, however slow the pace; and a router sees as many of each TTL as with many."""


class Turn(NamedTuple):
    """Of deals that are due the lowest goes first."""

    others_first: bool
    """Nobody waits for these courses: those that others wait for go first."""
    is_new: bool
    """Nothing of these courses has been sent yet: what is begun is finished."""
    since: float
    """When it was asked for."""


NO_TURN = Turn(True, True, inf)

if TYPE_CHECKING:
    _Deal = tuple[Turn, int, list[NDArray[np.int64]]]
    """Its turn, its number, and the rounds that are left, the next one last."""


class Waiting:
    """A queue of slots. `random` decides the order."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._number = count()
        self._due: list[_Deal] = []
        self._later: list[tuple[float, int, list[_Deal]]] = []
        """When they are due, and together: a number to tell equals apart, the first one's, and deals."""
        self._again: deque[tuple[float, _Deal]] = deque()
        """Of what was taken the deals that have further rounds, and when these are due if all goes as planned."""
        self._ends_at = 0.0
        """When all that was taken will have left then."""
        self.slots = 0
        """How many wait, due or not."""

    def add(self, slots: NDArray[np.int64], courses: NDArray[np.int64], turn: Turn, due: float = 0.0) -> None:
        """Deal out slots; `courses` says whose each is. None leaves before `due`."""
        if not len(slots):
            return
        order = self._random.permutation(len(slots))
        slots, courses = slots[order], courses[order]
        is_owner = np.zeros(int(courses.max()) + 1, np.bool_)
        is_owner[courses] = True
        owners = np.flatnonzero(is_owner)
        places = np.empty(len(is_owner), np.min_scalar_type(len(owners)))
        places[owners] = self._random.permutation(len(owners))
        place = places[courses]
        slots, counts = slots[np.argsort(place, kind="stable")], np.bincount(place)  # of 16-bit numbers in linear time
        self._put_off([(turn, next(self._number), rounds) for rounds in _deals(slots, counts)], due)
        self.slots += len(slots)

    def turn(self, now: float) -> Turn:
        """Of what is due; `NO_TURN` for nothing."""
        while self._later and self._later[0][0] <= now:
            for deal in heapq.heappop(self._later)[2]:
                heapq.heappush(self._due, deal)
        return self._due[0][0] if self._due else NO_TURN

    def take(self, now: float, most: int, rate_pps: float = inf) -> NDArray[np.int64]:
        """At most so many, of which each is due when it leaves, if they do so at this rate from now on.

        Call `left` when all of them have been sent.
        """
        spacing = SPACING_S if rate_pps == inf else SPACING_S + BURST_S  # by so much a pacer may let them leave early
        taken: list[NDArray[np.int64]] = []
        at = now
        while most:
            while self._again and self._again[0][0] <= at:
                heapq.heappush(self._due, self._again.popleft()[1])
            self.turn(at)
            if not self._due:
                break
            deal = heapq.heappop(self._due)
            head = deal[2].pop()
            if most < len(head):
                deal[2].append(head[most:])
                heapq.heappush(self._due, deal)
                head = head[:most]
            elif deal[2]:
                self._again.append((at + len(head) / rate_pps + spacing, deal))
            taken.append(head)
            most -= len(head)
            at += len(head) / rate_pps
        self._ends_at = at
        slots = np.concatenate(taken) if taken else np.empty(0, np.int64)
        self.slots -= len(slots)
        return slots

    def left(self, now: float) -> None:
        """What was taken has been sent by now: the next rounds are due in a while."""
        while self._again:
            due, deal = self._again.popleft()
            self._put_off([deal], now + due - self._ends_at)

    def clear(self) -> None:
        """Nothing of what waits will be sent."""
        self._due.clear()
        self._later.clear()
        self._again.clear()
        self.slots = 0

    def _put_off(self, deals: list[_Deal], due: float) -> None:
        heapq.heappush(self._later, (due, deals[0][1], deals))


def _deals(slots: NDArray[np.int64], counts: NDArray[np.int64]) -> Iterator[list[NDArray[np.int64]]]:
    """The rounds of each deal, the first one last; of n courses the slots, one course after the other, so many each."""
    most = int(counts.max())
    if most * len(counts) == len(slots):
        dealt = slots.reshape(-1, most).T
        for start in range(0, len(counts), DEAL_COURSES):
            yield list(dealt[:, start : start + DEAL_COURSES])
        return
    has_slot = np.arange(most - 1, -1, -1)[:, None] < counts
    dealt = np.empty(has_slot.shape, np.int64)  # a round a row, a course a column
    dealt.T[has_slot.T] = slots
    for start in range(0, len(counts), DEAL_COURSES):
        deal = slice(start, start + DEAL_COURSES)
        first = most - int(counts[deal].max())
        yield [one[there] for one, there in zip(dealt[first:, deal], has_slot[first:, deal], strict=True)]
