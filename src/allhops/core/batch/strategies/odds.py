"""Whether one probe more is worth it: how often probes like it have brought a new address so far.

Two questions are asked again and again, and answered by counting, for each case apart:

* Does anybody answer *beyond* the last router that did? The case is who that router is (nobody met it before; the end
  of other paths; the middle of some), how near the nearest known destination is, how many rows are silent already, and
  how far the row is from where that destination's path ended.
* Does this flow meet *another* router than the donor's did, above a place where both came by? That shows the branches
  of a load balancer. The case is how many flows have met that router, and whether it is known to be a branch.

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

NEW_ROUTER, LAST_ROUTER, INNER_ROUTER = range(3)
"""Standing of the last router that answered: first met by this course; where no other path went on; where one did."""
STANDINGS = 3
CLOSENESSES = 3
"""By how many bits fewer than usual the nearest neighbour has in common: 0, 1, more."""
MOST_SILENT = 6
"""Rows below the one in question that are silent, that one included; more count as so many."""
LEAST_OFFSET, OFFSETS = -3, 8
"""TTL of the row less that of the neighbour's last router: from -3 or less to 4 or more."""
MOST_FLOWS = 16
"""Flows that have met a router; more count as so many."""

WORTH_BEYOND = 0.01
"""Addresses that a probe beyond the last answer must be expected to bring."""
WORTH_CHECK = 0.01
"""The same for one that looks for another branch. With 0.007 for both, 30,000 destinations cost 2 % more probes, and of
the addresses 0.16 % are missed in the place of 0.17 %; with 0.013, 3 % fewer, and 0.19 %."""
PRIOR_BEYOND = 0.1
PRIOR_CHECK = 0.1
"""What a probe brings while nothing is known at all."""
PRIOR_WEIGHT = 2.0
"""Probes that the prior counts for; and those that the cases next to one count for are `LIKE_WEIGHT`."""
LIKE_WEIGHT = 20.0
OPTIMISM = 0.2
"""Addresses that every case is credited with: the reason to try what was never tried."""
FADING = 300_000
"""Rows counted until all counts are halved."""


class Odds:
    """See the module."""

    def __init__(self) -> None:
        shape = (STANDINGS, CLOSENESSES, MOST_SILENT, OFFSETS)
        self._asked, self._heard = np.zeros(shape), np.zeros(shape)
        self._checked, self._found = np.zeros((2, MOST_FLOWS)), np.zeros((2, MOST_FLOWS))
        self._worth: dict[int, NDArray[np.bool_]] = {}

    def is_worth_asking(self, case: Case, gap_limit: int) -> NDArray[np.bool_]:
        """Whether to ask on beyond the last answer, for cases."""
        if gap_limit not in self._worth:
            self._worth[gap_limit] = self._worth_beyond(gap_limit)
        worth: NDArray[np.bool_] = self._worth[gap_limit][case]
        return worth

    def is_worth_checking(self, is_branch: NDArray[np.bool_], flows: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Whether to ask for another router beside one that so many flows have met."""
        share = (self._found + PRIOR_WEIGHT * PRIOR_CHECK) / (self._checked + PRIOR_WEIGHT)
        worth: NDArray[np.bool_] = (share >= WORTH_CHECK)[is_branch.astype(np.int64), _flows_case(flows)]
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

    def learn_checks(self, is_branch: NDArray[np.bool_], flows: NDArray[np.uint8], found: NDArray[np.bool_]) -> None:
        """Checks of these cases were made, and found a router that nobody had met or not."""
        case = (is_branch.astype(np.int64), _flows_case(flows))
        np.add.at(self._checked, case, 1)
        np.add.at(self._found, case, found)
        if self._checked.sum() > FADING:
            self._checked /= 2
            self._found /= 2

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
        share = (every_heard + PRIOR_WEIGHT * PRIOR_BEYOND) / (every_asked + PRIOR_WEIGHT)
        share = (heard + LIKE_WEIGHT * share) / (asked + LIKE_WEIGHT)
        every: NDArray[np.float64] = (self._heard + LIKE_WEIGHT * share + OPTIMISM) / (self._asked + LIKE_WEIGHT)
        return every


def beyond_case(
    standing: NDArray[np.int64], missing_bits: NDArray[np.int16], silent: NDArray[np.int16], offset: NDArray[np.int16]
) -> Case:
    """Index of the case of each row: see the module."""
    return (
        standing,
        np.clip(missing_bits, 0, CLOSENESSES - 1).astype(np.int64),
        np.clip(silent, 1, MOST_SILENT).astype(np.int64) - 1,
        np.clip(offset - LEAST_OFFSET, 0, OFFSETS - 1).astype(np.int64),
    )


def _flows_case(flows: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.minimum(flows, MOST_FLOWS - 1).astype(np.int64)
