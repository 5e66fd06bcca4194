"""Where courses stand between what they have asked and what the stop set knows, and the way down from there.

This file knows no packet and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allhops.core.batch.strategies.stop_set import NOBODY, Met, words_of
from allhops.core.batch.survey import NONE
from allhops.wire.classify import TIME_EXCEEDED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from allhops.core.batch.strategies.stop_set import StopSet, Words
    from allhops.core.batch.survey import Survey


class Steps(NamedTuple):
    """Rows that matter on the way down; all columns (k,)."""

    place: NDArray[np.int64]
    """Place of the course in the survey."""
    row: NDArray[np.int64]
    entry: NDArray[np.int32]
    """Whom others have met there; `NOBODY` where they say nothing of this row."""
    asked: NDArray[np.bool_]
    """Whether this course has asked the row itself."""
    above: NDArray[np.int32]
    """Whose parent that is; `NOBODY` where others say nothing."""

    def part(self, which: NDArray[np.bool_]) -> Steps:
        """Some of them."""
        return Steps(self.place[which], self.row[which], self.entry[which], self.asked[which], self.above[which])


@dataclass(frozen=True, slots=True)
class Footing:
    """Of n courses of a survey with T rows each. `top`, `gap` and `stand` are TTLs, `NONE` for none.

    The routers that a course has met below its path's end are a matrix, and once more, `place`, `row`, `met` and
    `entry`, one after the other.
    """

    first_ttl: int
    asked: NDArray[np.bool_]
    """(n, T)"""
    routers: NDArray[np.bool_]
    """(n, T)"""
    entries: NDArray[np.int32]
    """(n, T): those of the stop set; `NOBODY` where there is none, or no router."""
    others: NDArray[np.int32]
    """(n, T): the same without those that only this course has met, or another one to its destination."""
    top: NDArray[np.int16]
    """(n,): of the row right above the last answer, or of the path's end."""
    gap: NDArray[np.int16]
    """(n,): of the farthest row below `top` that was not asked."""
    stand: NDArray[np.int16]
    """(n,): of the nearest router that has no such row between itself and `top`."""
    place: NDArray[np.int64]
    row: NDArray[np.int64]
    met: Met
    entry: NDArray[np.int32]

    def next_open(self, place: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.int64]:
        """The next row below these that was not asked, or where a router answered; -1 for none."""
        rows = np.arange(self.asked.shape[1])
        is_open = (self.routers[place] | ~self.asked[place]) & (rows < row[:, None])
        return np.where(is_open.any(axis=1), rows[-1] - is_open[:, ::-1].argmax(axis=1), -1)


def footing(first_ttl: int, survey: Survey, stops: StopSet, destinations: Words) -> Footing:
    """Look up all that these courses have met; `destinations` are theirs, (n, words)."""
    rows = survey.heard.shape[1]
    ttls = np.arange(first_ttl, first_ttl + rows, dtype=np.int16)
    asked = survey.tries > 0
    top = np.where(survey.end_ttl != NONE, survey.end_ttl, survey.highest_heard + 1).astype(np.int16)
    below = ttls < top[:, None]
    routers = below & (survey.kind == TIME_EXCEEDED)
    unasked = below & ~asked
    farthest = ttls[rows - 1 - unasked[:, ::-1].argmax(axis=1)]
    gap = np.where(unasked.any(axis=1), farthest, NONE).astype(np.int16)
    reached = routers & (ttls > gap[:, None])
    stand = np.where(reached.any(axis=1), ttls[reached.argmax(axis=1)], NONE).astype(np.int16)
    place, row = np.nonzero(routers)
    met = Met(words_of(survey.packed(place, row), stops.size), ttls[row].astype(np.uint8))
    entry = stops.find(met)
    # Two flows to one destination are both measured, so one is no reason for the other to stop.
    theirs = (stops.donor[entry] != destinations[place]).any(axis=1)
    entries, others = np.full((2, *routers.shape), NOBODY, np.int32)
    entries[place, row], others[place, row] = entry, np.where(theirs, entry, NOBODY)
    return Footing(first_ttl, asked, routers, entries, others, top, gap, stand, place, row, met, entry)


def descend(ground: Footing, stops: StopSet, leaves: Callable[[Steps], NDArray[np.bool_]] | None = None) -> Steps:
    """From where each course stands down to the first row; after each step, those that `leaves` says go no farther.

    A router that others have met leads to its parent: to whom this course has heard in the parent's row, or else to
    the parent itself. One that nobody else has met leads to the next row, and ends there if that was not asked; so does
    one right before which this course has met a router where the others met silence.
    """
    place = np.flatnonzero((ground.gap >= ground.first_ttl) & (ground.stand != NONE))
    row = (ground.stand[place] - ground.first_ttl).astype(np.int64)
    entry = ground.others[place, row]
    steps = []
    while len(place):
        above, known = entry, entry != NOBODY
        entry = np.where(known, stops.parent[entry], NOBODY)
        next_row = np.where(entry == NOBODY, -1, stops.ttl[entry].astype(np.int64) - ground.first_ttl)
        known &= (entry == NOBODY) | (next_row == row - 1) | ~ground.routers[place, row - 1]
        entry[~known] = NOBODY
        if not known.all():
            next_row[~known] = ground.next_open(place[~known], row[~known])
        there = next_row >= 0
        place, row, entry, above = place[there], next_row[there], entry[there], above[there]
        step = Steps(place, row, entry, ground.asked[place, row], above)
        own = ground.routers[place, row]
        stays = own | (entry != NOBODY)
        if leaves is not None:
            left = leaves(step)
            stays &= ~left
            step = step.part(~left)
        steps.append(step)
        place, row, entry = place[stays], row[stays], np.where(own, ground.others[place, row], entry)[stays]
    return joined(steps)


def joined(steps: Sequence[Steps]) -> Steps:
    """All of these, one after the other."""
    if not steps:
        nothing = np.empty(0, np.int64)
        nobody = nothing.astype(np.int32)
        return Steps(nothing, nothing, nobody, nothing.astype(np.bool_), nobody)
    return Steps(*map(np.concatenate, zip(*steps, strict=True)))
