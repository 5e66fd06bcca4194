"""A block handed to the kernel in slices: stamped, and with every refusal beside the probe that it is about.

A slice is one system call. What its probes share is the wall clock before and after it; between the two they left
one after the other, so their stamps are spread evenly.
"""

from __future__ import annotations

import errno
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allhops.errors import NETWORK_IS_DOWN
from allhops.net.batch.mmsg import MOST_MESSAGES, Messages
from allhops.net.raw_sockets import open_sender
from allhops.wire.family import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from allhops.core.lanes import Block
    from allhops.net.batch.wire import Way

LEAST_SLICE, SLICES = 64, 4
"""Probes in one system call at least, and calls for what is handed over together: the stamps of a slice err by a
part of its duration (64 probes: by 16 us in the median, 256: by up to 82), and smaller ones cost more: a packet
socket takes 0.62 us for each of 32 probes and 0.57 for each of 128."""
QUEUE_IS_FULL = (errno.EAGAIN, errno.ENOBUFS)
_SAME = {errno.ENXIO: errno.ENODEV}
"""What a packet socket says of an interface that is gone, and what everybody else says."""


class _Name(NamedTuple):
    """A socket address: where its fields stand."""

    size: int
    address: int
    scope: int | None
    """An interface, 32 bits."""


_NAMES = {4: _Name(size=16, address=4, scope=None), 6: _Name(size=28, address=8, scope=24)}
"""struct sockaddr_in and sockaddr_in6; both begin with the family, 16 bits."""


class Outgoing:
    """Headers for the packets of a block, aimed at as many of them as there are headers, once, until these have left.

    `write_names` is given whole packets, (n, size), and writes where they go into the first n of `messages.names`.
    """

    def __init__(self, name_size: int) -> None:
        self.messages = Messages(MOST_MESSAGES, name_size=name_size)
        self._block: Block | None = None
        self._first = 0

    def send(
        self, descriptor: int, block: Block, most: int, write_names: Callable[[NDArray[np.uint8]], None] | None = None
    ) -> None:
        """Send at most `most` more packets of a block, as `wire.BatchLease.send` says."""
        end = min(len(block), block.handed + most)
        a_slice = max(LEAST_SLICE, -(-most // SLICES))
        goes_on = True
        while goes_on and block.handed < end:
            aimed_to = self._aim(block, write_names)
            goes_on = self._hand_over(descriptor, block, min(end, aimed_to), a_slice)

    def _aim(self, block: Block, write_names: Callable[[NDArray[np.uint8]], None] | None) -> int:
        """Have headers for the next packet of the block; behind which one they end."""
        most = self.messages.most
        first = block.handed // most * most
        last = min(first + most, len(block))
        if block is not self._block or first != self._first:
            if write_names is not None:
                write_names(np.frombuffer(block.packets, np.uint8).reshape(-1, block.size)[first:last])
            self.messages.aim(block.packets, first * block.size, block.size, block.size, last - first)
            self._block, self._first = block, first
        return last

    def _hand_over(self, descriptor: int, block: Block, end: int, a_slice: int) -> bool:
        """Send what is aimed at, up to `end`; whether there is a point in going on."""
        places, clocks = [block.handed], [time.time_ns()]
        goes_on = True
        while goes_on and block.handed < end:
            at = block.handed
            taken, code = self.messages.send(descriptor, at - self._first, min(a_slice, end - at))
            if code in QUEUE_IS_FULL:
                goes_on = False
            elif code and code != errno.EINTR:
                block.errors[at] = code = _SAME.get(code, code)
                taken = 1
                goes_on = code not in NETWORK_IS_DOWN
            block.handed += taken
            places.append(block.handed)
            clocks.append(time.time_ns())
        _stamp(block, places, clocks)
        return goes_on


def _stamp(block: Block, places: list[int], clocks: list[int]) -> None:
    """Spread the probes between two readings of the clock evenly; `places` are how many had been handed at each."""
    first, last = places[0], places[-1]
    since_ns = np.array(clocks) - clocks[0]  # a float has no room for nanoseconds since 1970
    spread = np.interp(np.arange(first, last), places, since_ns).astype(np.int64)
    np.frombuffer(block.sent_ns, np.int64)[first:last] = clocks[0] + spread


class RawSender:
    """A raw socket that takes whole IP packets, whichever next hop they need. Raises: as `open_sender`."""

    def __init__(self, version: int, interface: str | None) -> None:
        self._family, self._name = FAMILIES[version], _NAMES[version]
        self._sock = open_sender(version, interface)
        self._outgoing = Outgoing(self._name.size)
        self._outgoing.messages.names.view(np.uint16)[:, 0] = self._sock.family

    def send(self, block: Block, most: int, way: Way) -> None:
        """Send packets whose headers say where to."""
        self._outgoing.send(self._sock.fileno(), block, most, partial(self._write_names, way))

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def _write_names(self, way: Way, packets: NDArray[np.uint8]) -> None:
        names = self._outgoing.messages.names[: len(packets)]
        size, source, target = self._family.address_size, self._family.destination_offset, self._name.address
        names[:, target : target + size] = packets[:, source : source + size]
        if self._name.scope is not None:
            names.view(np.uint32)[:, self._name.scope // 4] = way.interface
