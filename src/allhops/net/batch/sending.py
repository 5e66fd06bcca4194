"""A block handed to the kernel in slices: stamped, and with every refusal beside the probe that it is about.

A slice is one system call. What its probes share is the wall clock before and after it: these are the block's marks.
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
    import socket

    from numpy.typing import NDArray

    from allhops.core.lanes import Block
    from allhops.net.batch.wire import Way

SLICE, MOST_SLICED = 96, 256
"""Probes in one system call, where no more than so many are handed over together, as they are at a pace. The stamps of
a slice err by a part of its duration: at 50,000 pps RTTs by 6 us in the median, with up to 64 in a call by 4. More
leave in one call: whoever wants all that this machine can do wants no more calls than it takes, at 5 to 10 us each
(`python -m benchmarks batch-send`)."""
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


class Sender:
    """A socket that takes whole packets, and messages for those of a block: aimed at once, until they have left."""

    def __init__(self, sock: socket.socket, name_size: int = 0) -> None:
        self._sock = sock
        self.messages = Messages(MOST_MESSAGES, name_size=name_size)
        self._block: Block | None = None
        self._header = b""
        self._first = self._last = 0
        """Probes of the block that the messages are aimed at, from one to before another."""

    def send(self, block: Block, most: int, way: Way, header: bytes = b"") -> None:
        """Send at most `most` more packets of a block, each behind `header`, as `wire.BatchLease.send` says."""
        at = block.handed
        end = min(at + most, len(block.slots))
        a_slice = SLICE if most <= MOST_SLICED else most
        descriptor = self._sock.fileno()
        before_ns = time.time_ns()
        while at < end:
            if block is not self._block or at >= self._last or header != self._header:
                self._aim(block, at, way, header)
                before_ns = time.time_ns()
            taken, code = self.messages.send(descriptor, at - self._first, min(a_slice, end - at, self._last - at))
            after_ns = time.time_ns()
            if code:
                if code in QUEUE_IS_FULL:
                    return
                if code == errno.EINTR:
                    continue
                block.errors[at] = code = _SAME.get(code, code)
                taken = 1
            block.marks += (at, before_ns), (at + taken, after_ns)
            block.handed = at = at + taken
            before_ns = after_ns
            if code in NETWORK_IS_DOWN:
                return

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def _aim(self, block: Block, first: int, way: Way, header: bytes) -> None:
        """Have messages for as many packets as there are messages, from one on."""
        begin = block.headroom - len(header)
        assert begin >= 0
        last = min(first + self.messages.most, len(block.slots))
        rows = np.frombuffer(block.packets, np.uint8).reshape(-1, block.stride)[first:last]
        rows[:, begin : block.headroom] = np.frombuffer(header, np.uint8)
        self._name(rows[:, block.headroom :], way)
        size = len(header) + block.size
        self.messages.aim(block.packets, first * block.stride + begin, block.stride, size, last - first)
        self._block, self._header, self._first, self._last = block, header, first, last

    def _name(self, packets: NDArray[np.uint8], way: Way) -> None:
        """Write into the messages' names where packets, (n, size), go, if the socket needs to be told."""


class RawSender(Sender):
    """A raw socket that takes whole IP packets, whichever next hop they need. Raises: as `open_sender`."""

    def __init__(self, version: int, interface: str | None) -> None:
        self._family, self._address = FAMILIES[version], _NAMES[version]
        sock = open_sender(version, interface)
        super().__init__(sock, self._address.size)
        self.messages.names.view(np.uint16)[:, 0] = sock.family

    def _name(self, packets: NDArray[np.uint8], way: Way) -> None:
        names = self.messages.names[: len(packets)]
        size, source, target = self._family.address_size, self._family.destination_offset, self._address.address
        names[:, target : target + size] = packets[:, source : source + size]
        if self._address.scope is not None:
            names.view(np.uint32)[:, self._address.scope // 4] = way.interface
