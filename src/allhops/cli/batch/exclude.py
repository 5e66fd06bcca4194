"""Prefixes that are never probed, as sorted intervals of keys. This file knows no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.cli.batch.entries import read_prefix, shown
from allhops.cli.batch.keys import DTYPES
from allhops.cli.batch.lines import LineReader
from allhops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network

    from numpy.typing import NDArray


class Exclusions:
    """Addresses of both families that are in one of the prefixes."""

    def __init__(self, prefixes: Iterable[IPv4Network | IPv6Network] = ()) -> None:
        bounds: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for prefix in prefixes:
            bounds[prefix.version].append((int(prefix[0]), int(prefix[-1])))
        self._intervals = {version: _intervals(version, pairs) for version, pairs in bounds.items()}

    def holds(self, version: int, keys: NDArray[Any]) -> NDArray[np.bool_]:
        """Which addresses must not be probed; keys as in `allhops.cli.batch.keys`."""
        starts, ends = self._intervals[version]
        if not len(starts):
            return np.zeros(len(keys), np.bool_)
        place = np.searchsorted(starts, keys, side="right") - 1
        inside: NDArray[np.bool_] = (place >= 0) & (keys <= ends[place])
        return inside


def read_exclusions(content: bytes) -> Exclusions:
    """The prefixes of a file: one a line, or an address; # comments.

    Raises: UsageError with the number of the first line that is none, since what was meant would be probed.
    """
    reader = LineReader()
    prefixes = []
    for line in (*reader.feed(content).lines(), *reader.end().lines()):
        text = line.content.partition(b"#")[0].strip()
        if text:
            try:
                prefixes.append(read_prefix(text.decode("ascii"), strict=False))
            except (UsageError, UnicodeDecodeError):
                raise UsageError(
                    f"line {line.number}: {shown(line.content)!r} is no prefix: nothing is probed before that is clear"
                ) from None
    return Exclusions(prefixes)


def _intervals(version: int, pairs: list[tuple[int, int]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """First and last keys of disjoint intervals, in order."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(pairs):
        if joined and start <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    columns = zip(*joined, strict=True) if joined else ((), ())
    starts, ends = (_numbers_as_keys(version, numbers) for numbers in columns)
    return starts, ends


def _numbers_as_keys(version: int, numbers: Iterable[int]) -> NDArray[Any]:
    if version == 4:
        return np.array(tuple(numbers), DTYPES[4])
    return np.frombuffer(b"".join(number.to_bytes(16) for number in numbers), DTYPES[6])
