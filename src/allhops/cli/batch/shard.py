"""One part of n of a list, the same on every machine, whatever the order of the list.

The part is a hash of what is asked for: of an address its bits, of a name its letters (not the address, which may
differ from machine to machine), of a line that is no destination its number. This file knows no list and no network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_SHARDS: Final = 1_000_000
_IPV4, _IPV6, _LINE = 0x616C6C686F707334, 0x616C6C686F707336, 0x616C6C686F70736C
"""What is mixed into each kind: without it the parts would follow the bits of the address. Never to be changed, since
machines with different versions share one list."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` (from 1) of `count`."""

    index: int = 1
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, version: int, keys: NDArray[Any]) -> NDArray[np.bool_]:
        """Which addresses belong to it; keys as in `allhops.cli.batch.keys`."""
        if self.count == 1:
            return np.ones(len(keys), np.bool_)
        if version == 4:
            hashed = mixed(keys.astype(np.uint64) ^ np.uint64(_IPV4))
        else:
            halves = np.frombuffer(keys.tobytes(), ">u8").astype(np.uint64).reshape(-1, 2)
            hashed = mixed(mixed(halves[:, 0] ^ np.uint64(_IPV6)) ^ halves[:, 1])
        return self._is_ours(hashed)

    def holds_names(self, keys: NDArray[Any]) -> NDArray[np.bool_]:
        """Which names belong to it."""
        return self._is_ours(np.frombuffer(keys.tobytes(), ">u8").astype(np.uint64).reshape(-1, 2)[:, 0])

    def holds_line(self, number: int) -> bool:
        """Whether a line that is no destination belongs to it."""
        return bool(self._is_ours(mixed(np.array([number ^ _LINE], np.uint64)))[0])

    def _is_ours(self, hashed: NDArray[np.uint64]) -> NDArray[np.bool_]:
        ours: NDArray[np.bool_] = hashed % np.uint64(self.count) == np.uint64(self.index - 1)
        return ours


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each number as another one that looks random, never two as the same. Source: splitmix64 (Steele et al., 2014)."""
    bits = numbers + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
