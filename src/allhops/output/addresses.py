"""Addresses as text, thousands at once: each different one is written once, IPv4 without a Python object for it.

This file knows no table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from allhops.core.paths import address_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SIZED_ADDRESS = 17
"""Bytes: how many of the other 16 count (0 for no address), and those."""

_HALF, _LOW_HALF = np.uint64(32), np.uint64(0xFFFFFFFF)
_OCTETS = np.array([f"{octet}." for octet in range(256)], "S4").view(np.uint8).reshape(256, 4)
_LAST_OCTETS = np.array([f"{octet}" for octet in range(256)], "S4").view(np.uint8).reshape(256, 4)


class Texts(NamedTuple):
    """k texts, one behind the other."""

    ends: NDArray[np.int32]
    """(k + 1,): where each begins, and where the last one ends."""
    letters: bytes
    """UTF-8"""


def texts_of(words: Sequence[str]) -> Texts:
    """Python's texts.

    >>> texts_of(["one", "", "two"])
    Texts(ends=array([0, 3, 3, 6], dtype=int32), letters=b'onetwo')
    """
    text = "".join(words)
    sizes = map(len, words) if text.isascii() else (len(word.encode()) for word in words)
    return Texts(np.cumsum([0, *sizes], dtype=np.int32), text.encode())


def distinct_texts(sized: NDArray[np.uint8]) -> tuple[NDArray[np.int64], Texts]:
    """For each of (m, `SIZED_ADDRESS`), none of them empty, the number of its text; the texts, in order of address.

    >>> sized = np.zeros((3, SIZED_ADDRESS), np.uint8)
    >>> sized[:, 0], sized[:, 1], sized[1, 4] = 4, 127, 1
    >>> distinct_texts(sized)
    (array([0, 1, 0]), Texts(ends=array([ 0,  9, 18], dtype=int32), letters=b'127.0.0.0127.0.0.1'))
    """
    if (sized[:, 0] <= 4).all():
        numbers, codes = distinct(np.ascontiguousarray(sized[:, 1:5]).view(">u4")[:, 0])
        return codes, _ipv4_texts(numbers.astype(">u4").view(np.uint8).reshape(-1, 4))
    rows, codes = np.unique(np.ascontiguousarray(sized).view(f"S{SIZED_ADDRESS}")[:, 0], return_inverse=True)
    packed = (row.ljust(SIZED_ADDRESS, b"\0") for row in rows.tolist())
    return codes, texts_of([address_text(row[1 : 1 + row[0]]) for row in packed])


def distinct(numbers: NDArray[Any]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Numbers of 32 bits in order, each once; for each its place there. A third of what `np.unique` takes for it."""
    places = np.sort(numbers.astype(np.uint64) << _HALF | np.arange(len(numbers), dtype=np.uint64))
    ordered = places >> _HALF
    is_first = np.ones(len(ordered), np.bool_)
    is_first[1:] = ordered[1:] != ordered[:-1]
    codes = np.empty(len(numbers), np.int64)
    codes[places & _LOW_HALF] = np.cumsum(is_first) - 1
    return ordered[is_first], codes


def _ipv4_texts(packed: NDArray[np.uint8]) -> Texts:
    """Texts of (k, 4) octets."""
    letters = np.concatenate((_OCTETS[packed[:, :3]].reshape(-1, 12), _LAST_OCTETS[packed[:, 3]]), axis=1)
    is_letter = letters != 0
    ends = np.zeros(len(packed) + 1, np.int32)
    np.cumsum(is_letter.sum(axis=1), out=ends[1:])
    return Texts(ends, letters[is_letter].tobytes())
