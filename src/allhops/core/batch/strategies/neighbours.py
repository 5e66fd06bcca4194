"""Who of a window waits for whom: a destination is asked when its neighbours have told how far it may be.

Sorted by address, every 64th destination (more often in a short list) is asked at once, without knowing anything. The
ones between wait for them, and so on down to the last ones, which wait for the destinations on both sides of it. So
everybody but the first few has a neighbour that is known, most of them the nearest there is. Who has a nearer one among
the destinations of earlier windows does not wait. This file knows no packet and no clock.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from allhops.core.batch.strategies.distances import NO_BITS, UNKNOWN, common_bits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from allhops.core.batch.strategies.distances import Distances

LEAST_FIRST = 16
"""Destinations that are asked first, at least, if nobody says otherwise: a short list is not worth so many steps."""
USUAL = 0.75
"""Quantile: half of a dense list are asked next to a neighbour, and a quarter two places away."""
_NOBODY = -1


class Neighbours:
    """The courses of one window, `keys` being those of their destinations (see distances.py).

    `strides` are places between those that are asked together; the widest are left out if fewer than `least_first`
    would go first. A *company* are the courses within the widest of them: the last ones also wait until `enough` of
    those asked before them in their company have ended, if there are so many.

    Columns (courses,): `is_held` while a course waits; once it does not, `expected_ttl` is the distance of the nearest
    neighbour that is known, `UNKNOWN` for none, and `bits` how many they have in common.
    """

    def __init__(
        self,
        keys: NDArray[np.uint64],
        known: Distances,
        *,
        strides: Sequence[int],
        least_first: int = LEAST_FIRST,
        enough: int = 0,
    ) -> None:
        self.keys = keys
        self.last_ttl = np.full(len(keys), UNKNOWN, np.int16)
        """Distance of those that have told it or ended, `UNKNOWN` for those that never answered."""
        self.expected_ttl, self.bits = known.nearest(keys)
        self._has_ended = np.zeros(len(keys), np.bool_)
        self._has_told = np.zeros(len(keys), np.bool_)
        self.left, self.right = _sides(keys, [stride for stride in strides if stride * least_first <= len(keys)])
        """For each course those that it waits for, before and after it in the order of addresses; -1 for none."""
        self._is_kept = np.zeros(len(keys), np.bool_)
        self.is_awaited = np.zeros(len(keys), np.bool_)
        """Whether others wait for it."""
        for side in (self.left, self.right):
            self.is_awaited[side[side != _NOBODY]] = True
        self._company = np.argsort(np.argsort(keys, kind="stable")) // max(strides)
        self._enough = np.minimum(np.bincount(self._company[self.is_awaited], minlength=1), enough)
        wait_bits = np.maximum(self._bits_with(self.left), self._bits_with(self.right))
        self.is_held = wait_bits > self.bits
        usual = np.maximum(wait_bits, self.bits)
        self.usual_bits = int(np.quantile(usual, USUAL)) if len(usual) else 0
        """Bits that a destination of this window has in common with its nearest neighbour: how dense the list is."""

    @property
    def all_ended(self) -> bool:
        """Whether nobody is left."""
        return bool(self._has_ended.all() and not self._is_kept.any())

    @property
    def share_left(self) -> float:
        """Of the courses, how many have not ended, those that are kept not counted."""
        return 1 - float(self._has_ended.mean())

    def end(self, courses: NDArray[np.int64]) -> None:
        """These have ended."""
        self._has_ended[courses] = self._has_told[courses] = True
        self.is_held[courses] = self._is_kept[courses] = False

    def keep(self, courses: NDArray[np.int64]) -> None:
        """These have ended, as far as others are concerned: they come back when all their company has."""
        self.end(courses)
        self._is_kept[courses] = True

    def coming_back(self) -> NDArray[np.int64]:
        """Courses that were kept and whose company has ended."""
        kept = np.flatnonzero(self._is_kept)
        under_way = np.bincount(self._company[~self._has_ended], minlength=len(self.keys))
        coming: NDArray[np.int64] = kept[under_way[self._company[kept]] == 0]
        return coming

    def take_back(self, courses: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these were kept; they are under way again."""
        is_back: NDArray[np.bool_] = self._is_kept[courses]
        self._has_ended[courses[is_back]] = self._is_kept[courses[is_back]] = False
        return is_back

    def tell(self, courses: NDArray[np.int64], ttl: NDArray[np.int16]) -> None:
        """These go on, but how far away they are is known well enough for those who wait for them."""
        self.last_ttl[courses] = ttl
        self._has_told[courses] = True

    def release(self) -> NDArray[np.int64]:
        """The courses whose wait is over."""
        held = np.flatnonzero(self.is_held)
        left, right = self.left[held], self.right[held]
        ready = (self._has_told[left] | (left == _NOBODY)) & (self._has_told[right] | (right == _NOBODY))
        ended = np.bincount(self._company[self._has_ended & self.is_awaited], minlength=len(self._enough))
        ready &= self.is_awaited[held] | (ended >= self._enough)[self._company[held]]
        released: NDArray[np.int64] = held[ready]
        self.let_go(released)
        return released

    def let_go(self, courses: NDArray[np.int64]) -> None:
        """These wait no longer: they make do with what is known by now."""
        self.is_held[courses] = False
        for side in (self.left[courses], self.right[courses]):
            ttl = np.where(side == _NOBODY, UNKNOWN, self.last_ttl[side])
            bits = np.where(ttl == UNKNOWN, NO_BITS, common_bits(self.keys[courses], self.keys[side]))
            # Of two that are equally near the farther one: a start too far away costs less than one too near.
            better = (bits > self.bits[courses]) | ((bits == self.bits[courses]) & (ttl > self.expected_ttl[courses]))
            self.expected_ttl[courses[better]] = ttl[better]
            self.bits[courses[better]] = bits[better]

    def _bits_with(self, side: NDArray[np.int64]) -> NDArray[np.int16]:
        return np.where(side == _NOBODY, np.int16(NO_BITS), common_bits(self.keys, self.keys[side]))


def _sides(keys: NDArray[np.uint64], strides: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each course those that it waits for, before and after it in the order of addresses."""
    courses = len(keys)
    order = np.argsort(keys, kind="stable")
    rank = np.empty(courses, np.int64)
    rank[order] = np.arange(courses)
    wider = np.zeros(courses, np.int64)
    for wide, narrow in pairwise(strides):
        wider[(rank % narrow == 0) & (rank % wide != 0) & (wider == 0)] = wide
    left = rank - rank % np.maximum(wider, 1)
    right = left + wider
    waits = wider > 0
    return (
        np.where(waits, order[left], _NOBODY),
        np.where(waits & (right < courses), order[np.minimum(right, courses - 1)], _NOBODY),
    )
