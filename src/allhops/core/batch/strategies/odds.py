"""Whether one probe more is worth it: how often probes like it have brought a new address so far.

Two questions are asked again and again, and answered by counting, for each case apart:

* Does anybody answer *beyond* the last router that did? The case is who that router is (nobody met it before; the end
  of other paths; the middle of some, and whether others were silent for as long there until somebody answered, or for
  one row less), how near the nearest known destination is, how many rows are silent already, and how far the row is
  from where that destination's path ended.
* Does this flow meet *another* router than others did, where they came by (looks.py)? That shows the branches of a load
  balancer. The case is how many flows have met the one that is known, and whether it is a branch, or silent.

A case of which little is known is thought to be like the cases next to it, and a bit better, so that it is tried. Old
experience fades, so a batch that comes to other networks learns anew. This file knows no packet and no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Case: TypeAlias = "tuple[NDArray[np.int64], ...]"
"""Index of a case, of each of n rows; see `beyond_case`."""

NEW_ROUTER, LAST_ROUTER, INNER_ROUTER, NEARLY_LEAPT_ROUTER, LEAPT_ROUTER = range(5)
"""Standing of the last router that answered, for a row beyond it: first met by this course; where no other path went
on; where one did; where one did and was heard in the row right before this one; and in this one, or farther on, with
nothing but silence before."""
STANDINGS = 5
CLOSENESS_BOUNDS = (1, 4)
CLOSENESSES = 3
"""By how many bits fewer than usual the nearest neighbour has in common: 0, 1 to 3, more."""
MOST_SILENT = 6
"""Rows below the one in question that are silent, that one included; more count as so many."""
LEAST_OFFSET, OFFSETS = -3, 8
"""TTL of the row less that of the neighbour's last router: from -3 or less to 4 or more."""
MOST_FLOWS = 16
"""Flows that have met a router; more count as so many."""

SHARED, BRANCH, SILENT = range(3)
"""Where to look for another router: beside one that all flows have met so far; beside a branch; where all were met by
silence."""
KINDS = 3

WORTH_BEYOND = 0.005
"""Addresses that a probe beyond the last answer must be expected to bring."""
WORTH_LOOK = 0.005
"""The same for one that looks for another router."""
PRIOR = 0.1
"""What a probe brings while nothing is known at all."""
PRIOR_WEIGHT = 2.0
"""Probes that the prior counts for; and those that the cases next to one count for are `LIKE_WEIGHT`."""
LIKE_WEIGHT = 20.0
HALF = 0.5
"""Of two equal branches, each flow that has met the same one makes it so much less likely that there is another one."""
OPTIMISM = 0.1
"""Addresses that every case is credited with: the reason to try what was never tried."""
FADING = 300_000
"""Rows counted until all counts are halved."""


class Odds:
    """See the module."""

    def __init__(self) -> None:
        shape = (STANDINGS, CLOSENESSES, MOST_SILENT, OFFSETS)
        self._asked, self._heard = np.zeros(shape), np.zeros(shape)
        self._looked, self._found = np.zeros((2, KINDS, MOST_FLOWS))
        self._worth: dict[int, NDArray[np.bool_]] = {}
        self._worth_a_look: NDArray[np.bool_] | None = None

    def is_worth_asking(self, case: Case, gap_limit: int) -> NDArray[np.bool_]:
        """Whether to ask on beyond the last answer, for cases."""
        if gap_limit not in self._worth:
            self._worth[gap_limit] = self._worth_beyond(gap_limit)
        worth: NDArray[np.bool_] = self._worth[gap_limit][case]
        return worth

    def are_worth_a_look(self, kind: NDArray[np.int64] | int, flows: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether to look for another router where so many flows have come by."""
        if self._worth_a_look is None:
            self._worth_a_look = self._share_of_looks() >= WORTH_LOOK
        worth: NDArray[np.bool_] = self._worth_a_look[kind, np.minimum(flows, MOST_FLOWS - 1)]
        return worth

    def learn_beyond(self, case: Case, heard: NDArray[np.bool_]) -> None:
        """Rows of these cases were asked, and heard from or not."""
        shape = self._asked.shape
        flat = np.ravel_multi_index(case, shape)
        self._asked += np.bincount(flat, minlength=self._asked.size).reshape(shape)
        self._heard += np.bincount(flat, heard, minlength=self._asked.size).reshape(shape)
        if self._asked.sum() > FADING:
            self._asked /= 2
            self._heard /= 2
        self._worth.clear()

    def learn_looks(self, kind: NDArray[np.int64], flows: NDArray[np.int64], found: NDArray[np.bool_]) -> None:
        """Where so many flows had come by one more has looked, and found a router that nobody had met or not."""
        case = (kind, np.minimum(flows, MOST_FLOWS - 1))
        np.add.at(self._looked, case, 1)
        np.add.at(self._found, case, found)
        if self._looked.sum() > FADING:
            self._looked /= 2
            self._found /= 2
        self._worth_a_look = None

    def _share_of_looks(self) -> NDArray[np.float64]:
        """(`KINDS`, `MOST_FLOWS`): of the looks of each case, how many have found somebody; from few flows to many."""
        share = np.full(self._looked.shape, PRIOR)
        for flows in range(1, MOST_FLOWS):
            like = share[:, flows - 1] * HALF
            share[:, flows] = (self._found[:, flows] + LIKE_WEIGHT * like) / (self._looked[:, flows] + LIKE_WEIGHT)
        return share

    def _worth_beyond(self, gap_limit: int) -> NDArray[np.bool_]:
        """As `_asked`: whether the next row, or those up to the gap limit together, bring enough."""
        share = self._share_beyond()
        worth = np.zeros(share.shape, np.bool_)
        total = np.zeros(share.shape)
        silent, offset = np.arange(MOST_SILENT), np.arange(OFFSETS)
        for ahead in range(min(gap_limit, MOST_SILENT)):
            later = np.minimum(silent + ahead, MOST_SILENT - 1), np.minimum(offset + ahead, OFFSETS - 1)
            total += share[:, :, later[0][:, None], later[1]]
            within = silent + 1 + ahead <= gap_limit
            worth |= within[:, None] & (total / (ahead + 1) >= WORTH_BEYOND)
        return worth

    def _share_beyond(self) -> NDArray[np.float64]:
        """As `_asked`: of the rows of each case, how many are heard from; from all cases down to each."""
        asked, heard = self._asked.sum(axis=1, keepdims=True), self._heard.sum(axis=1, keepdims=True)
        every_asked, every_heard = asked.sum(axis=0), heard.sum(axis=0)
        share = (every_heard + PRIOR_WEIGHT * PRIOR) / (every_asked + PRIOR_WEIGHT)
        share = (heard + LIKE_WEIGHT * share) / (asked + LIKE_WEIGHT)
        every: NDArray[np.float64] = (self._heard + LIKE_WEIGHT * share + OPTIMISM) / (self._asked + LIKE_WEIGHT)
        return every


def beyond_case(
    standing: NDArray[np.int64], missing_bits: NDArray[np.int16], silent: NDArray[np.int16], offset: NDArray[np.int16]
) -> Case:
    """Index of the case of each row: see the module."""
    return (
        standing,
        np.digitize(missing_bits, CLOSENESS_BOUNDS),
        np.clip(silent, 1, MOST_SILENT).astype(np.int64) - 1,
        np.clip(offset - LEAST_OFFSET, 0, OFFSETS - 1).astype(np.int64),
    )
