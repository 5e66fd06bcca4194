"""Packets under way, by when they arrive: many thousands, as arrays.

Those that arrive within the next `SPAN_NS` are kept in order; the others lie in no order, and are gone through once in
each span. This file knows no clock: time is an argument, in ns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPAN_NS = 10_000_000
FIRST_ROOM = 1024
"""Packets there is room for from the start; it doubles as needed."""


class Arrivals(NamedTuple):
    """k packets in order of arrival."""

    packets: NDArray[np.uint8]
    """(k, width): each from the start of its row."""
    lengths: NDArray[np.uint32]
    at_ns: NDArray[np.int64]


class _Queue(NamedTuple):
    at_ns: NDArray[np.int64]
    place: NDArray[np.int32]
    """Row of the packet."""

    def of(self, wanted: NDArray[np.bool_] | NDArray[np.intp] | slice) -> _Queue:
        return _Queue(self.at_ns[wanted], self.place[wanted])


_NONE = _Queue(np.zeros(0, np.int64), np.zeros(0, np.int32))


class Underway:
    """See the module. `len` is how many there are; the memory is that of the most there were at once."""

    def __init__(self) -> None:
        self._packets = np.zeros((FIRST_ROOM, 0), np.uint8)
        self._lengths = np.zeros(FIRST_ROOM, np.uint32)
        self._free = np.arange(FIRST_ROOM, dtype=np.int32)
        self._frees = FIRST_ROOM
        self._near = _NONE
        self._far: list[_Queue] = []
        self._horizon_ns = 0

    def __len__(self) -> int:
        return len(self._free) - self._frees

    def add(self, at_ns: NDArray[np.int64], packets: NDArray[np.uint8]) -> None:
        """Let n packets, (n, length), arrive at these times."""
        count, length = packets.shape
        self._make_room(count, length)
        self._frees -= count
        place = self._free[self._frees : self._frees + count].copy()
        self._packets[place, :length] = packets
        self._lengths[place] = length
        new = _Queue(at_ns, place)
        is_near = at_ns < self._horizon_ns
        if is_near.any():
            self._near = _in_order([self._near, new.of(is_near)])
            new = new.of(~is_near)
        if len(new.place):
            self._far.append(new)

    def next_ns(self) -> int | None:
        """When the next one arrives; None if there is none."""
        if not len(self._near.place) and not self._look_further():
            return None
        return int(self._near.at_ns[0])

    def take(self, now_ns: int, most: int) -> Arrivals:
        """The first `most` of those that have arrived by now."""
        taken = [_NONE]
        while most > 0:
            count = min(int(np.searchsorted(self._near.at_ns, now_ns, side="right")), most)
            taken.append(self._near.of(slice(count)))
            self._near = self._near.of(slice(count, None))
            most -= count
            if len(self._near.place) or not self._look_further():
                break
        at_ns, place = (np.concatenate(columns) for columns in zip(*taken, strict=True))
        self._free[self._frees : self._frees + len(place)] = place
        self._frees += len(place)
        return Arrivals(self._packets[place], self._lengths[place], at_ns)

    def _look_further(self) -> bool:
        """Put the packets of the next span in order; whether there are any."""
        if not self._far:
            return False
        far = _Queue(*(np.concatenate(columns) for columns in zip(*self._far, strict=True)))
        self._horizon_ns = int(far.at_ns.min()) + SPAN_NS
        is_near = far.at_ns < self._horizon_ns
        self._near = _in_order([far.of(is_near)])
        rest = far.of(~is_near)
        self._far = [rest] if len(rest.place) else []
        return True

    def _make_room(self, count: int, length: int) -> None:
        room, width = self._packets.shape
        if self._frees >= count and width >= length:
            return
        more = room
        while more - room + self._frees < count:
            more *= 2
        packets = np.zeros((more, max(width, length)), np.uint8)
        packets[:room, :width] = self._packets
        self._packets = packets
        self._lengths = np.concatenate([self._lengths, np.zeros(more - room, np.uint32)])
        free = np.empty(more, np.int32)
        free[: self._frees] = self._free[: self._frees]
        free[self._frees : self._frees + more - room] = np.arange(room, more)
        self._free = free
        self._frees += more - room


def _in_order(queues: list[_Queue]) -> _Queue:
    at_ns, place = (np.concatenate(columns) for columns in zip(*queues, strict=True))
    order = np.argsort(at_ns, kind="stable")
    return _Queue(at_ns[order], place[order])
