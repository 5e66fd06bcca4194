"""How far away the destinations were that have been traced, by address: near addresses are about equally far.

Addresses are keys here: their first 64 bits as a number, so that nearness is the number of leading bits in common.
This file knows no packet and no clock. 9 bytes a destination, at most `MOST` of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

KEY_BITS = 64
MOST = 1_000_000
"""Destinations remembered; of more, every other one is forgotten."""
UNKNOWN = 0
"""In a column of TTLs: nobody knows."""
NO_BITS = -1
"""Bits in common with nobody."""


def keys_of(addresses: Sequence[bytes]) -> NDArray[np.uint64]:
    """Packed addresses of one family as keys.

    >>> [hex(key) for key in keys_of([bytes([10, 0, 0, 1])]).tolist()]
    ['0xa00000100000000']
    """
    packed = np.frombuffer(b"".join(addresses), np.uint8).reshape(len(addresses), -1)[:, :8]
    wide = np.zeros((len(addresses), 8), np.uint8)
    wide[:, : packed.shape[1]] = packed
    return wide.view(">u8")[:, 0].astype(np.uint64)


def common_bits(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.int16]:
    """Leading bits that keys have in common; beyond 53 it may be one more.

    >>> common_bits(keys_of([bytes([10, 0, 0, 1])]), keys_of([bytes([10, 0, 1, 1])])).tolist()
    [23]
    """
    return (KEY_BITS - np.frexp((one ^ other).astype(np.float64))[1]).astype(np.int16)


class Distances:
    """See the module; a distance is the TTL of the last router that was heard."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._keys = np.empty(0, np.uint64)
        self._ttls = np.empty(0, np.uint8)

    def __len__(self) -> int:
        return len(self._keys)

    def learn(self, keys: NDArray[np.uint64], ttls: NDArray[np.int16]) -> None:
        """Remember destinations and their distances."""
        order = np.argsort(keys, kind="stable")
        keys, ttls = keys[order], ttls[order]
        at = np.searchsorted(self._keys, keys)
        self._keys = np.insert(self._keys, at, keys)
        self._ttls = np.insert(self._ttls, at, ttls.astype(np.uint8))
        while len(self._keys) > self._most:
            self._keys, self._ttls = self._keys[::2].copy(), self._ttls[::2].copy()

    def nearest(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
        """For each key the distance of the nearest destination that is known, and how many bits they have in common."""
        if not len(self._keys):
            return np.full(len(keys), UNKNOWN, np.int16), np.full(len(keys), NO_BITS, np.int16)
        at = np.searchsorted(self._keys, keys)
        before, after = np.maximum(at - 1, 0), np.minimum(at, len(self._keys) - 1)
        with_before, with_after = common_bits(keys, self._keys[before]), common_bits(keys, self._keys[after])
        nearest = np.where(with_before >= with_after, before, after)
        return self._ttls[nearest].astype(np.int16), np.maximum(with_before, with_after)
