"""Who stands one, two or three rows nearer than an entry, how many flows have measured it, and whether all agree.

A link leads from an entry of a stop set to whom the same flows met some rows nearer, or to `NOBODY` where they met
silence. It is *sure* when `SURE` flows have measured it and none has met anybody else: behind a load balancer two rows
nearer is sure where one row nearer is not. Silence where others met somebody may be a lost probe or a branch that does
not answer, so as many of these as probes are lost is no doubt. This file knows no packet and no clock.

39 bytes an entry of the stop set; pages of which nobody was met are not in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from allhops.core.batch.strategies.stop_set import NOBODY

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEPTH = 3
"""Rows that a link goes back: over a diamond of two routers in a row, or over as many silent ones."""
SURE = 12
"""Flows, each to another destination. Of two equal branches that many take the same one in 1 case of 2,048."""
SURE_SILENT = 32
"""Flows that met silence and nobody else. Who answers one in ten is heard by so many in 97 of 100 cases."""
OFTEN = 16
"""For each silence so many flows more must have met somebody: as with a loss of 6 %, and with no branch of four."""


class Links:
    """Of the entries of a stop set with room for `capacity`; `rows`, 1 to `DEPTH`, is how many rows nearer."""

    def __init__(self, capacity: int) -> None:
        self._shape = DEPTH, capacity
        self.clear()

    def clear(self) -> None:
        """Forget everything: the stop set has begun anew."""
        self._before = np.zeros(self._shape, np.int32)
        self._answers = np.zeros(self._shape, np.int32)
        self._silences = np.zeros(self._shape, np.int32)
        self._is_split = np.zeros(self._shape, np.bool_)

    def learn(self, entry: NDArray[np.int32], rows: int, before: NDArray[np.int32]) -> None:
        """Each of these was met by one flow more, which met `before` so many rows nearer."""
        known, answers = self._before[rows - 1], self._answers[rows - 1]
        silent = before == NOBODY
        np.add.at(self._silences[rows - 1], entry[silent], 1)
        entry, before = entry[~silent], before[~silent]
        first = np.flatnonzero(answers[entry] == 0)[::-1]
        known[entry[first]] = before[first]
        np.add.at(answers, entry, 1)
        self._is_split[rows - 1, entry[known[entry] != before]] = True

    def before(
        self, entry: NDArray[np.int32], rows: int
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Who stands so many rows nearer than each of these, whether anybody knows, and whether it is sure."""
        answers, silences = self._answers[rows - 1, entry], self._silences[rows - 1, entry]
        is_sure = np.where(answers > 0, answers - OFTEN * silences >= SURE, silences >= SURE_SILENT)
        is_sure &= ~self._is_split[rows - 1, entry] & (entry != NOBODY)
        known = (answers + silences > 0) & (entry != NOBODY)
        return np.where(answers > 0, self._before[rows - 1, entry], NOBODY), known, is_sure
