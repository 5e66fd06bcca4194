"""Packets of a ring gathered into a matrix, and read down its columns.

A ring's packets lie anywhere. Those of one family and of about one length are copied side by side, once; whatever is
asked of them then is asked of all. This file knows IP's first byte and no other header, and no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.lanes import ROW_ALIGNMENT, ROW_SIZE
from allhops.wire.extensions import ICMP_HEADER
from allhops.wire.family import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from allhops.core.lanes import Ring
    from allhops.wire.family import Family

_WIDTHS = {
    version: (family.header_size + ICMP_HEADER + family.default_size, 320, 768, ROW_SIZE)
    for version, family in FAMILIES.items()
}
"""Packets of about one length are read together. An error about a probe of default size fits the first, one with
extensions the second."""

_ADDRESSES = {4: "u4", 6: "V16"}
_FIRST_BYTE = {4: (0xFF, 0x45), 6: (0xF0, 0x60)}
"""(mask, value) of a header without options: IPv6 has those in headers of their own."""

_ALIGNMENT_BITS = ROW_ALIGNMENT.bit_length() - 1
_LONG = 8
"""Bytes."""
_BEGINNING = np.triu(np.full((_LONG, _LONG + 1), 0xFF, np.uint8), 1).T.copy().view(np.uint64)[:, 0]
"""(9,): masks of a word's first bytes, by how many."""


class Packets:
    """Packets side by side: their places in the ring, bytes (n, width), of which what is behind `end` is anything."""

    __slots__ = ("end", "head", "index")

    def __init__(self, index: NDArray[Any], head: NDArray[np.uint8], end: NDArray[Any]) -> None:
        self.index = index
        self.head = head
        self.end = end

    def __len__(self) -> int:
        return len(self.index)

    def where(self, mask: NDArray[np.bool_]) -> Packets:
        """Those of a mask, side by side again."""
        if mask.all():
            return self
        chosen = np.flatnonzero(mask)
        return Packets(self.index[chosen], self.head.take(chosen, axis=0), self.end[chosen])

    def byte(self, offset: int) -> NDArray[np.uint8]:
        """One byte of each."""
        column: NDArray[np.uint8] = self.head[:, offset]
        return column

    def word(self, offset: int) -> NDArray[np.uint16]:
        """One big-endian 16-bit word of each, at an even offset."""
        column: NDArray[np.uint16] = self.head.view(">u2")[:, offset // 2]
        return column

    def number(self, offset: int) -> NDArray[np.uint32]:
        """One big-endian 32-bit number of each, at a multiple of 4."""
        return self.head.view(">u4")[:, offset // 4].astype(np.uint32)

    def address(self, offset: int, family: Family) -> NDArray[Any]:
        """An address of each as one opaque value."""
        count, width = self.head.shape
        # An array's buffer cannot be empty, and nobody asks about no packets.
        return np.ndarray((count,), _ADDRESSES[family.version], self.head, offset, (width,))

    def shown_word(self, offset: int, end: NDArray[np.int32]) -> NDArray[np.int32]:
        """A word that is not shown by packets that end before it."""
        word = self.word(offset).astype(np.int32)
        if end.min() < offset + 2:
            # The sign, 31 times, is `NOT_SHOWN`. With where() the processor would guess wrong at every other packet.
            word |= end - (offset + 2) >> 31
        return word

    def is_plain(self, family: Family, offset: int) -> NDArray[np.bool_]:
        """Whether an IP header without options begins there."""
        mask, value = _FIRST_BYTE[family.version]
        plain: NDArray[np.bool_] = self.byte(offset) & mask == value
        return plain

    def sums(self, start: int) -> NDArray[np.uint64]:
        """Sums of what they have from an offset on, a multiple of 4: native 32-bit numbers, zeros behind the end."""
        first, last = start // _LONG, -(-int(self.end.max()) // _LONG)
        # A row a 64-bit word: numbers that are added lie side by side.
        longs = self.head.view(np.uint64)[:, first:last].T.copy()
        if start % _LONG:
            longs[0] &= ~_BEGINNING[start % _LONG]
        doubtful = int(self.end.min()) // _LONG
        bytes_shown = self.end - _LONG * np.arange(doubtful, last, dtype=np.int32)[:, None]
        longs[doubtful - first :] &= _BEGINNING.take(bytes_shown, mode="clip")
        halves = longs.view(np.uint32).sum(axis=0, dtype=np.uint64)
        total: NDArray[np.uint64] = halves[::2] + halves[1::2]
        return total


def side_by_side(ring: Ring) -> Iterator[tuple[Family, Packets]]:
    """Those that begin like an IP packet without options."""
    starts = np.frombuffer(ring.starts, np.int64)[: ring.count]
    first = np.frombuffer(ring.octets, np.uint8)[starts]
    lengths = np.frombuffer(ring.lengths, np.int32)[: ring.count]
    places = np.arange(ring.count), starts >> _ALIGNMENT_BITS, lengths
    for version, family in FAMILIES.items():
        mask, value = _FIRST_BYTE[version]
        for packets in _by_length(ring, _WIDTHS[version], *_chosen(first & mask == value, *places)):
            yield family, packets


def _by_length(
    ring: Ring, widths: Iterable[int], index: NDArray[Any], starts: NDArray[Any], lengths: NDArray[np.int32]
) -> Iterator[Packets]:
    """Packets of about one length, copied side by side; those that so many bytes do not follow are left out."""
    for width in widths:
        if not len(index):
            return
        count = max(0, (len(ring.octets) - width) // ROW_ALIGNMENT + 1)
        heads = np.ndarray((count,), f"V{width}", ring.octets, 0, (ROW_ALIGNMENT,))  # wherever a packet may begin
        fits = lengths <= width
        places, begins, ends = _chosen(fits & (starts < count), index, starts, lengths)
        if len(places):
            yield Packets(places, heads[begins].view(np.uint8).reshape(-1, width), ends)
        index, starts, lengths = _chosen(~fits, index, starts, lengths)


def _chosen(mask: NDArray[np.bool_], *columns: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """What a mask says of each of these."""
    if mask.all():
        return columns
    chosen: Any = np.flatnonzero(mask) if mask.any() else slice(0)
    return tuple(column[chosen] for column in columns)
