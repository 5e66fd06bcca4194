"""How many addresses and links a batch has found: exactly up to a million of each, then to about 0.2 %.

A link is two responders at neighbouring TTLs of one trace, both of them measured there. This file knows no file, no
clock and no network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from allhops.cli.batch.keyset import KeySet
from allhops.cli.batch.shard import mixed
from allhops.cli.counted import counted
from allhops.core.answers import packed_responders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from allhops.core.harvest import Harvest

EXACT: Final = 1 << 20
"""Kept of each; 64 bits tell them apart, so the chance that one is missing is 1 in 30 million."""
GATHERED_ROWS: Final = 1 << 14
"""Counted at once: 2 ms, so that probes need not wait."""
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
        self._kept.add(hashes[hashes <= self._largest])
        while len(self._kept) > self._exact:
            self._halvings += 1
            self._kept.keep_below(self._largest + np.uint64(1))

    @property
    def _largest(self) -> np.uint64:
        return np.uint64((1 << (64 - self._halvings)) - 1)

    def counted(self, one: str, many: str | None = None) -> str:
        """How many, with their noun as in `counted`."""
        return counted(self.count, one, many) if self.is_exact else f"about {counted(self.count, one, many)}"


class Tally:
    """Counts what traces show: what harvests hold is gathered and counted many at once, some ten times as cheap."""

    def __init__(self) -> None:
        self._addresses, self._links = Distinct(), Distinct()
        self._gathered: list[tuple[NDArray[np.int64], NDArray[np.uint64]]] = []
        self._rows = 0
        self._courses = 0

    @property
    def addresses(self) -> Distinct:
        """Of those who answered."""
        self._count()
        return self._addresses

    @property
    def links(self) -> Distinct:
        """Between them."""
        self._count()
        return self._links

    def harvest(self, harvest: Harvest) -> None:
        """Take note of courses that have ended."""
        shown = harvest.shown()
        heard = harvest.is_reply(shown.slot)
        at = ((self._courses + shown.place[heard]) << _TTL_BITS) + shown.ttl[heard]
        halves = packed_responders(harvest.ledger, shown.slot[heard]).view(np.uint64)
        if len(at):
            self._gathered.append((at, halves))
            self._rows += len(at)
        self._courses += len(harvest)
        if self._rows >= GATHERED_ROWS:
            self._count()

    def _count(self) -> None:
        """Count what has been gathered, in order of course and TTL."""
        if not self._rows:
            return
        at, halves = (np.concatenate(columns) for columns in zip(*self._gathered, strict=True))
        self._gathered.clear()
        self._rows = 0
        who = mixed(mixed(halves[:, 0]) ^ halves[:, 1])
        self._addresses.add(who)
        near, far = _links(at, who)
        self._links.add(mixed(mixed(near) + far)[near != far])


def _links(at: NDArray[np.int64], who: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """(near, far) of responders at neighbouring places; several may share a place, and then each has every link.

    That is at most `attempts` squared for two hops.
    """
    if not (at[1:] == at[:-1]).any():  # as with one attempt
        follows = np.flatnonzero(at[1:] == at[:-1] + 1)
        return who[follows], who[follows + 1]
    order = np.lexsort((who, at))
    at, who = at[order], who[order]
    differs = (np.diff(at, prepend=at[0] - 1) != 0) | (np.diff(who, prepend=~who[0]) != 0)
    at, who = at[differs], who[differs]
    starts = np.flatnonzero(np.diff(at, prepend=at[0] - 1))
    sizes = np.diff(starts, append=len(at))
    pairs = [(who[near], who[far]) for near, far in _pairs(at, starts, sizes)]
    near, far = (np.concatenate(ends) for ends in zip(*pairs, strict=True)) if pairs else (who[:0], who[:0])
    return near, far


def _pairs(at: Any, starts: Any, sizes: Any) -> Iterator[tuple[Any, Any]]:
    """Places of (near, far) in neighbouring groups of equals, two columns for each rank in either group."""
    neighbours = np.flatnonzero(at[starts[1:]] == at[starts[:-1]] + 1)
    for near_rank in range(int(sizes.max())):
        for far_rank in range(int(sizes.max())):
            both = neighbours[(sizes[neighbours] > near_rank) & (sizes[neighbours + 1] > far_rank)]
            if len(both):
                yield starts[both] + near_rank, starts[both + 1] + far_rank
