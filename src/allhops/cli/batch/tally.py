"""How many addresses and links a batch has found: exactly up to a million of each, then to about 0.2 %.

A link is two responders at neighbouring TTLs of one trace, both of them measured there. This file knows no file, no
clock and no network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from allhops.cli.batch.keyset import KeySet
from allhops.cli.batch.shard import mixed
from allhops.core.ledger import ADDRESS_BYTES, ANSWERED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from allhops.core.harvest import Harvest

EXACT: Final = 1 << 20
"""Kept of each; 64 bits tell them apart, so the chance that one is missing is 1 in 30 million."""
_TTL_BITS = 16


class Distinct:
    """Counts different 64-bit hashes. When there are too many it keeps every second one, and so on."""

    def __init__(self, exact: int = EXACT) -> None:
        self._exact = exact
        self._kept = KeySet(np.uint64)
        self._halvings = 0

    @property
    def is_exact(self) -> bool:
        """Whether `count` is no estimate."""
        return self._halvings == 0

    @property
    def count(self) -> int:
        """How many there were."""
        return len(self._kept) << self._halvings

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Count those that are new; they must look random."""
        self._kept.admit(hashes[hashes <= self._largest])
        while len(self._kept) > self._exact:
            self._halvings += 1
            self._kept.keep_below(self._largest + np.uint64(1))

    @property
    def _largest(self) -> np.uint64:
        return np.uint64((1 << (64 - self._halvings)) - 1)

    def __str__(self) -> str:
        return f"{self.count:,}" if self.is_exact else f"about {self.count:,}"


class Tally:
    """Counts what traces show."""

    def __init__(self) -> None:
        self.addresses = Distinct()
        self.links = Distinct()

    def harvest(self, harvest: Harvest) -> None:
        """Take note of courses that have ended."""
        shown = harvest.shown()
        state, kind = (np.frombuffer(column, np.uint8) for column in (harvest.ledger.state, harvest.ledger.kind))
        heard = (state[shown.slot] == ANSWERED) & (kind[shown.slot] != 0)
        responders = np.frombuffer(harvest.ledger.responder, np.uint8).reshape(-1, ADDRESS_BYTES)[shown.slot[heard]]
        self._add(shown.place[heard], shown.ttl[heard], responders)

    def _add(self, place: NDArray[np.int64], ttl: NDArray[np.int16], responders: NDArray[np.uint8]) -> None:
        """(m,), (m,), (m, 16): in order of place and TTL."""
        if not len(place):
            return
        halves = np.ascontiguousarray(responders).view(np.uint64)
        hashes = mixed(mixed(halves[:, 0]) ^ halves[:, 1])
        self.addresses.add(hashes)
        # Of several responders of one hop, every link to every one of the next: at most `attempts` squared.
        at = (place << _TTL_BITS) + ttl
        order = np.lexsort((hashes, at))
        at, who = at[order], hashes[order]
        differs = (np.diff(at, prepend=at[0] - 1) != 0) | (np.diff(who, prepend=~who[0]) != 0)
        at, who = at[differs], who[differs]
        starts = np.flatnonzero(np.diff(at, prepend=at[0] - 1))
        sizes = np.diff(starts, append=len(at))
        for near, far in _pairs(at, starts, sizes):
            self.links.add(mixed(mixed(who[near]) + who[far])[who[near] != who[far]])


def _pairs(at: Any, starts: Any, sizes: Any) -> Iterator[tuple[Any, Any]]:
    """Places of (near, far) in neighbouring groups of equals, two columns for each rank in either group."""
    neighbours = np.flatnonzero(at[starts[1:]] == at[starts[:-1]] + 1)
    for near_rank in range(int(sizes.max())):
        for far_rank in range(int(sizes.max())):
            both = neighbours[(sizes[neighbours] > near_rank) & (sizes[neighbours + 1] > far_rank)]
            if len(both):
                yield starts[both] + near_rank, starts[both + 1] + far_rank
