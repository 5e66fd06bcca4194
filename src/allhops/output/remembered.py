"""Texts remembered by what they depend on, and those of addresses. This file knows no record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.paths import address_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

MOST_REMEMBERED = 1 << 14
"""Texts of one sort in a dict, which is emptied then, and in the table before it: of addresses 5 MB in all; of others
there are some hundred as a rule."""


class Remembered:
    """Texts by what they depend on, which is found thousands at once and without a Python object for any of it.

    Each key has one place in a table, and is there if no other that belongs there was asked for since; behind the table
    stands a dict of all.
    """

    def __init__(self, words: int = 1) -> None:
        """`words`: of 64 bits, of a key."""
        self._keys = np.zeros((words, 1 << _PLACE_BITS), np.uint64)
        self._keys[:, 0] = 1  # a key is nowhere at first: that of zeros belongs here, this one elsewhere
        self._texts = np.empty(1 << _PLACE_BITS, object)
        self._all: dict[bytes, str] = {}

    def __len__(self) -> int:
        return len(self._all)

    def texts(self, keys: NDArray[np.uint64], make: Callable[[int], str]) -> NDArray[Any]:
        """(n,): the text of each key, (n,) or (n, words); `make` makes that of the key at a position."""
        columns = keys.reshape(-1, len(self._keys)).T
        mixed = np.bitwise_xor.reduce([*map(np.multiply, columns, _FACTORS)])
        place = (mixed >> _SHIFT).view(np.int64)
        is_same = self._keys.take(place, axis=1, mode="clip") == columns
        texts: NDArray[Any] = self._texts.take(place, mode="clip")
        if not is_same.all():
            missing = np.flatnonzero(~is_same.all(axis=0))
            texts[missing] = [self._text(keys[at].tobytes(), at, make) for at in missing.tolist()]
            place, first = np.unique(place[missing], return_index=True)
            self._keys[:, place], self._texts[place] = columns[:, missing[first]], texts[missing[first]]
        return texts

    def _text(self, key: bytes, at: int, make: Callable[[int], str]) -> str:
        text = self._all.get(key)
        if text is None:
            if len(self._all) >= MOST_REMEMBERED:
                self._all.clear()
            text = self._all[key] = make(at)
        return text


_PLACE_BITS = 14
_SHIFT = np.uint64(64 - _PLACE_BITS)
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)
"""For each word of a key one that is odd and has no pattern: the upper bits of the products depend on all others."""

_IPV4_SIZE = 4
_ADDRESSES = {_IPV4_SIZE: Remembered(1), 16: Remembered(2)}


def remembered_address_texts(packed: NDArray[np.uint8]) -> NDArray[Any]:
    """(k,): the text of each of (k, 4 or 16) addresses in quotes, for those that come again."""
    packed = np.ascontiguousarray(packed)
    size = packed.shape[1]
    keys = packed.view(np.uint32).astype(np.uint64) if size == _IPV4_SIZE else packed.view(np.uint64)
    return _ADDRESSES[size].texts(keys, lambda at: f'"{address_text(packed[at].tobytes())}"')


_FIRST, _OCTET, _LAST = (
    np.array([f"{before}{octet}{behind}" for octet in range(256)], object)
    for before, behind in (('"', "."), ("", "."), ("", '"'))
)


def address_texts(packed: NDArray[np.uint8]) -> list[str]:
    """The text of each of (k, 4 or 16) addresses in quotes, not remembered: IPv4 takes a third of what that costs."""
    if packed.shape[1] != _IPV4_SIZE:
        return [f'"{address_text(address.tobytes())}"' for address in packed]
    a, b, c, d = packed.T
    octets = (_FIRST[a].tolist(), _OCTET[b].tolist(), _OCTET[c].tolist(), _LAST[d].tolist())
    return [f"{one}{two}{three}{four}" for one, two, three, four in zip(*octets, strict=True)]
