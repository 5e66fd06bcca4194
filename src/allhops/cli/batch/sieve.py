"""Which destinations of a list are to be traced now, and what became of the others, counted.

In this order: excluded, of another shard, asked for before, finished by an earlier run. This file knows no file, no
clock and no network.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.cli.batch.exclude import Exclusions
from allhops.cli.batch.keys import DTYPES, NAME, name_keys, scoped
from allhops.cli.batch.keyset import KeySet
from allhops.cli.batch.shard import Shard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Known:
    """Addresses, names and numbers of lines, each in a `KeySet`."""

    def __init__(self) -> None:
        self.addresses = {version: KeySet(dtype) for version, dtype in DTYPES.items()}
        self.names = KeySet(NAME)
        self.lines = KeySet(np.uint64)


@dataclass(slots=True)
class Accounts:
    """Where the destinations of a list went; each is counted once."""

    traced: int = 0
    """Handed to the engine."""
    unresolved: int = 0
    """Names without an address."""
    duplicates: int = 0
    bad: int = 0
    """Lines that are no destination."""
    excluded: int = 0
    other_shards: int = 0
    resumed: int = 0
    """Finished by an earlier run."""

    @property
    def total(self) -> int:
        """Every destination so far."""
        return sum(astuple(self))


@dataclass(slots=True, kw_only=True)
class Sieve:
    """See the module."""

    exclusions: Exclusions = field(default_factory=Exclusions)
    shard: Shard = field(default_factory=Shard)
    finished: Known = field(default_factory=Known)
    accounts: Accounts = field(default_factory=Accounts)
    _seen: Known = field(default_factory=Known)

    def addresses(
        self, version: int, keys: NDArray[Any], *, scope: str | None = None, resolved: bool = False
    ) -> NDArray[np.int64]:
        """Places of the addresses that are to be traced, in order; `keys` are those of the addresses alone.

        `scope` is the interface of link-local ones. Those of names (`resolved`) have passed the shard by name.
        """
        places = self._outside(self.exclusions.holds(version, keys))
        if scope is not None:
            keys = scoped(keys, scope)
        if not resolved:
            places = self._of_our_shard(places, self.shard.holds(version, keys[places]))
        places = self._unseen(places, self._seen.addresses[version], keys)
        return self._unfinished(places, self.finished.addresses[version], keys)

    def names(self, names: Sequence[str]) -> list[int]:
        """Places of the names that are to be resolved."""
        keys = name_keys(names)
        places = self._of_our_shard(np.arange(len(keys)), self.shard.holds_names(keys))
        chosen: list[int] = self._unfinished(
            self._unseen(places, self._seen.names, keys), self.finished.names, keys
        ).tolist()
        return chosen

    def line(self, number: int) -> bool:
        """Whether a line that is no destination is to be told."""
        here = np.zeros(1, np.int64)
        keys = np.array([number], np.uint64)
        places = self._of_our_shard(here, np.array([self.shard.holds_line(number)]))
        return len(self._unfinished(places, self.finished.lines, keys)) > 0

    def _outside(self, excluded: NDArray[np.bool_]) -> NDArray[np.int64]:
        places = np.flatnonzero(~excluded)
        self.accounts.excluded += len(excluded) - len(places)
        return places

    def _of_our_shard(self, places: NDArray[np.int64], ours: NDArray[np.bool_]) -> NDArray[np.int64]:
        kept = places[ours]
        self.accounts.other_shards += len(places) - len(kept)
        return kept

    def _unseen(self, places: NDArray[np.int64], seen: KeySet, keys: NDArray[Any]) -> NDArray[np.int64]:
        kept = places[seen.admit(keys[places])]
        self.accounts.duplicates += len(places) - len(kept)
        return kept

    def _unfinished(self, places: NDArray[np.int64], finished: KeySet, keys: NDArray[Any]) -> NDArray[np.int64]:
        if not len(finished):
            return places
        kept = places[~finished.holds(keys[places])]
        self.accounts.resumed += len(places) - len(kept)
        return kept
