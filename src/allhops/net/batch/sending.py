"""A block handed to the kernel in slices: stamped, and with every refusal beside the probe that it is about.

A slice is one system call. What its probes share is the wall clock before and after it; between the two they left
one after the other, so their stamps are spread evenly.
"""

from __future__ import annotations

import errno
import time
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

SLICE = 32
"""Probes in one system call. With 128 a probe costs no less (0.97 us by a packet socket, 0.92 with 32), and a slice's
stamps err by a part of its duration: with 64 probes by 16 us in the median, with 256 by up to 82."""
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


def hand_over(
    descriptor: int, messages: Messages, block: Block, most: int, name: Callable[[NDArray[np.uint8]], None]
) -> None:
    """Send at most `most` more packets of a block, as `wire.BatchLease.send` says.

    `name` is given whole packets, (n, size), and writes where they go into the first n of `messages.names`.
    """
    end = min(len(block), block.handed + most)
    packets = np.frombuffer(block.packets, np.uint8).reshape(-1, block.size)
    while block.handed < end:
        start = block.handed
        count = min(end - start, messages.most)
        name(packets[start : start + count])
        messages.aim(block.packets, start * block.size, block.size, block.size, count)
        if not _send_aimed(descriptor, messages, block, count):
            break
    messages.release()


def _send_aimed(descriptor: int, messages: Messages, block: Block, count: int) -> bool:
    """Send messages 0 to `count`; whether there is a point in going on."""
    start, end = block.handed, block.handed + count
    places, clocks = [start], [time.time_ns()]
    goes_on = True
    while goes_on and block.handed < end:
        at = block.handed
        taken, code = messages.send(descriptor, at - start, min(SLICE, end - at))
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
        self._messages = Messages(MOST_MESSAGES, name_size=self._name.size)
        self._messages.names.view(np.uint16)[:, 0] = self._sock.family

    def send(self, block: Block, most: int, way: Way) -> None:
        """Send packets whose headers say where to."""
        if self._name.scope is not None:
            self._messages.names.view(np.uint32)[:, self._name.scope // 4] = way.interface
        hand_over(self._sock.fileno(), self._messages, block, most, self._write_names)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def _write_names(self, packets: NDArray[np.uint8]) -> None:
        size, source, target = self._family.address_size, self._family.destination_offset, self._name.address
        self._messages.names[: len(packets), target : target + size] = packets[:, source : source + size]
