"""A set of fixed-width keys in sorted arrays: exact, a few bytes a key more than the keys themselves.

What was added lately is in sorted runs, each at least twice as long as the next; when those have become an eighth of
the whole they are merged, block by block, into sorted blocks, so that no second copy of the whole is ever made. This
file knows no address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BLOCK_KEYS: Final = 1 << 16
"""A block is split when it has grown to twice this: what one merge copies stays in the second-level cache."""
RECENT_SHARE: Final = 8
"""Runs are merged into the blocks when they hold this part of what those hold, so a key is moved a few times in all."""


class KeySet:
    """Keys of one dtype that numpy can sort: uint32, uint64, or S16 for 16 bytes."""

    def __init__(self, dtype: Any) -> None:
        self._dtype = np.dtype(dtype)
        self._blocks: list[NDArray[Any]] = []
        self._lasts = np.empty(0, self._dtype)
        """Largest key of each block but the last one, which takes all that is larger."""
        self._runs: list[NDArray[Any]] = []
        self._settled = 0

    def __len__(self) -> int:
        return self._settled + sum(map(len, self._runs))

    def admit(self, keys: NDArray[Any]) -> NDArray[np.bool_]:
        """Add keys; which of them are here for the first time. Of equals among them, that is the first."""
        ordered = np.sort(keys)
        if _differs(ordered).all() and not self._holds_sorted(ordered).any():  # as in nearly all lists
            self._add(ordered)
            return np.ones(len(keys), np.bool_)
        unique, first = np.unique(keys, return_index=True)
        is_new = ~self._holds_sorted(unique)
        self._add(unique[is_new])
        mask = np.zeros(len(keys), np.bool_)
        mask[first[is_new]] = True
        return mask

    def add(self, keys: NDArray[Any]) -> None:
        """Add keys, for those who need not know which are new."""
        ordered = np.sort(keys)
        unique = ordered[_differs(ordered)]
        self._add(unique[~self._holds_sorted(unique)])

    def holds(self, keys: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of these are in it."""
        unique, inverse = np.unique(keys, return_inverse=True)
        return self._holds_sorted(unique)[inverse]

    def keep_below(self, bound: Any) -> None:
        """Forget every key that is not less than this."""
        kept = [block[: np.searchsorted(block, bound)] for block in (*self._blocks, *self._runs)]
        self._blocks, self._runs, self._lasts, self._settled = [], [], self._lasts[:0], 0
        for keys in kept:
            self._add(keys.copy())

    def _holds_sorted(self, keys: NDArray[Any]) -> NDArray[np.bool_]:
        found = np.zeros(len(keys), np.bool_)
        for run in self._runs:
            found |= _in(run, keys)
        for block, (start, end) in zip(self._blocks, self._shares(keys), strict=True):
            if start < end:
                found[start:end] |= _in(block, keys[start:end])
        return found

    def _shares(self, keys: NDArray[Any]) -> Sequence[tuple[int, int]]:
        """Bounds within sorted keys of what belongs to each block."""
        cuts = np.searchsorted(keys, self._lasts, side="right").tolist()
        return list(zip([0, *cuts], [*cuts, len(keys)], strict=True)) if self._blocks else []

    def _add(self, keys: NDArray[Any]) -> None:
        """Add keys that are sorted, distinct and not in it."""
        if not len(keys):
            return
        runs = self._runs
        runs.append(keys)
        while len(runs) > 1 and len(runs[-2]) < 2 * len(runs[-1]):
            runs[-2:] = [_merged(runs[-2], runs[-1])]
        if sum(map(len, runs)) > max(BLOCK_KEYS, self._settled // RECENT_SHARE):
            while len(runs) > 1:
                runs[-2:] = [_merged(runs[-2], runs[-1])]
            self._settle(runs.pop())

    def _settle(self, keys: NDArray[Any]) -> None:
        """Merge sorted keys into the blocks."""
        self._settled += len(keys)
        if not self._blocks:
            self._blocks = [np.empty(0, self._dtype)]
        for index, (start, end) in enumerate(self._shares(keys)):
            if start < end:
                self._blocks[index] = _merged(self._blocks[index], keys[start:end])
        self._blocks = [piece for block in self._blocks for piece in _pieces(block)]
        self._lasts = np.array([block[-1] for block in self._blocks[:-1]], self._dtype)


def _differs(keys: NDArray[Any]) -> NDArray[np.bool_]:
    """Which keys are another one than the key before; the first is."""
    return np.concatenate((np.ones(len(keys[:1]), np.bool_), keys[1:] != keys[:-1]))


def _in(run: NDArray[Any], keys: NDArray[Any]) -> NDArray[np.bool_]:
    """Which keys are in a sorted run that is not empty."""
    places = np.searchsorted(run, keys)
    places[places == len(run)] = 0
    found: NDArray[np.bool_] = run[places] == keys
    return found


def _merged(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    both = np.concatenate((one, other))
    both.sort(kind="stable")  # timsort where the dtype has it: two sorted runs are merged in one pass
    return both


def _pieces(block: NDArray[Any]) -> list[NDArray[Any]]:
    """A block, or copies of its parts: a view would keep the whole alive."""
    if len(block) <= 2 * BLOCK_KEYS:
        return [block]
    return [part.copy() for part in np.array_split(block, -(-len(block) // BLOCK_KEYS))]
