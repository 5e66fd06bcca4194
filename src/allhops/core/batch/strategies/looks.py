"""Looks for what other flows may meet: beside a router that others have met, and where others have met silence.

Where a course stops, the rest of its path is told by others. A load balancer would have sent it elsewhere, perhaps, so
it asks such a row once more while experience says that this finds routers (odds.py). Two kinds of rows are worth it:
that of the next router on the way, which may have others beside it, and the one right before a router where all that
came by met silence, for of parallel routers one may answer where another is silent.

How much is known of a place is how many flows have come by. Those that are under way count as well: else many would be
sent to one place at once, each as if it were the first. This file knows no packet and no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allhops.core.batch.strategies.footing import Steps, joined
from allhops.core.batch.strategies.odds import BRANCH, SHARED, SILENT
from allhops.core.batch.strategies.stop_set import NOBODY
from allhops.core.batch.survey import NONE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.core.batch.strategies.footing import Footing
    from allhops.core.batch.strategies.odds import Odds
    from allhops.core.batch.strategies.stop_set import StopSet


class Looked(NamedTuple):
    """Rows that were asked though others had told of them; all columns (k,)."""

    place: NDArray[np.int64]
    row: NDArray[np.int64]
    entry: NDArray[np.int32]
    """Whom others had met there, `NOBODY` for silence."""
    kind: NDArray[np.int64]
    flows: NDArray[np.int64]
    """How many had come by."""


class Looks:
    """Of the courses of one window; the stop set and the odds are shared with others."""

    def __init__(self, courses: int, stops: StopSet, odds: Odds) -> None:
        self._stops = stops
        self._odds = odds
        self._at = np.full(courses, NOBODY, np.int32)
        """For each course the entry beside or before which it looks."""

    def wanted(self, ground: Footing, courses: NDArray[np.int64], step: Steps) -> NDArray[np.int16]:
        """For each step the TTL of a row to look at, `NONE` for none; `courses` are those of the survey."""
        stops, odds = self._stops, self._odds
        row = np.where(step.above == NOBODY, 0, stops.ttl[step.above].astype(np.int64) - ground.first_ttl - 1)
        is_silent = row > step.row
        some = np.flatnonzero(is_silent)
        if len(some):
            above = step.above[some]
            is_worth = odds.are_worth_a_look(SILENT, stops.silences[above] + stops.looks[above])
            is_silent[some] = is_worth & ~ground.asked[step.place[some], row[some]]
        which = np.flatnonzero(is_silent | (~step.asked & (step.entry != NOBODY)))
        is_silent, entry = is_silent[which], step.entry[which]
        kind = np.where(is_silent, SILENT, np.where(stops.is_branch[entry], BRANCH, SHARED))
        beside = np.where(is_silent, step.above[which], entry)
        flows = np.where(is_silent, stops.silences[beside], stops.flows[beside]) + stops.looks[beside]
        worth = np.flatnonzero(odds.are_worth_a_look(kind, flows))
        ttl = np.full(len(step.row), NONE, np.int16)
        if len(worth):
            worth = worth[odds.are_worth_a_look(kind[worth], flows[worth] + ranks(beside[worth]))]
            self._send(courses[step.place[which[worth]]], beside[worth])
            ttl[which[worth]] = np.where(is_silent[worth], row[which[worth]], step.row[which[worth]]) + ground.first_ttl
        return ttl

    def made(self, ground: Footing, steps: Steps, met: Steps) -> Looked:
        """What courses that end have looked at; `met` are the routers that they have met, `steps` their way down.

        Below the row that a course stands on, the steps say what had been told; above it, the parent of each.
        """
        stops, first = self._stops, ground.first_ttl
        above = (met.row + first > ground.stand[met.place]) | (ground.gap[met.place] < first)
        parent = np.where(above & (met.entry != NOBODY), stops.parent[met.entry], NOBODY)
        told = parent != NOBODY
        place, entry = met.place[told], parent[told]
        row = stops.ttl[entry].astype(np.int64) - first
        others = joined([steps, Steps(place, row, entry, ground.asked[place, row], entry)])
        others = others.part(others.asked & (others.entry != NOBODY))
        kind = np.where(stops.is_branch[others.entry], BRANCH, SHARED)
        flows = stops.flows[others.entry] + ranks(others.entry)
        parent = np.where(met.entry == NOBODY, NOBODY, stops.parent[met.entry])
        before = np.maximum(met.row - 1, 0)
        quiet = (parent != NOBODY) & (stops.silences[met.entry] > 0) & (stops.ttl[parent] < before + first)
        quiet &= ground.asked[met.place, before]
        silent = met.part(quiet)
        return Looked(
            place=np.concatenate([others.place, silent.place]),
            row=np.concatenate([others.row, silent.row - 1]),
            entry=np.concatenate([others.entry, np.full(len(silent.row), NOBODY, np.int32)]),
            kind=np.concatenate([kind, np.full(len(silent.row), SILENT)]),
            flows=np.concatenate([flows, stops.silences[silent.entry] + ranks(silent.entry)]),
        )

    def end(self, courses: NDArray[np.int64]) -> None:
        """These look no longer."""
        entry = self._at[courses]
        entry = entry[entry != NOBODY]
        np.subtract.at(self._stops.looks, entry, 1)
        # A stop set that has begun anew since then knows nothing of them.
        self._stops.looks[entry] = np.maximum(self._stops.looks[entry], 0)
        self._at[courses] = NOBODY

    def _send(self, courses: NDArray[np.int64], entry: NDArray[np.int32]) -> None:
        self.end(courses)
        np.add.at(self._stops.looks, entry, 1)
        self._at[courses] = entry


def ranks(entry: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many of the same number stand before each.

    >>> ranks(np.array([7, 5, 7, 7], np.int32)).tolist()
    [0, 0, 1, 2]
    """
    order = np.argsort(entry, kind="stable")
    ordered, at = entry[order], np.arange(len(entry))
    begins = np.ones(len(entry), np.bool_)
    begins[1:] = ordered[1:] != ordered[:-1]
    ranked = np.empty(len(entry), np.int64)
    ranked[order] = at - np.maximum.accumulate(np.where(begins, at, 0))
    return ranked
