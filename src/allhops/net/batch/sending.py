"""A block handed to the kernel in slices: stamped, and with every refusal beside the probe that it is about.

A slice is one system call. What its probes share is the wall clock before and after it: these are the block's marks.
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


class Outgoing:
    """Messages for the packets of a block, aimed at as many of them as there are messages, once, until these have left.

    `write_names` is given whole packets, (n, size), and writes where they go into the first n of `messages.names`.
    """

    def __init__(self, name_size: int = 0) -> None:
        self.messages = Messages(MOST_MESSAGES, name_size=name_size)
        self._block: Block | None = None
        self._first = 0
        self._header = b""

    def send(
        self,
        descriptor: int,
        block: Block,
        most: int,
        *,
        header: bytes = b"",
        write_names: Callable[[NDArray[np.uint8]], None] | None = None,
    ) -> None:
        """Send at most `most` more packets of a block, each behind `header`, as `wire.BatchLease.send` says."""
        end = min(len(block), block.handed + most)
        a_slice = SLICE if most <= MOST_SLICED else most
        goes_on = True
        while goes_on and block.handed < end:
            aimed_to = self._aim(block, header, write_names)
            goes_on = self._hand_over(descriptor, block, min(end, aimed_to), a_slice)

    def _aim(self, block: Block, header: bytes, write_names: Callable[[NDArray[np.uint8]], None] | None) -> int:
        """Have messages for the next packet of the block; behind which one they end."""
        most = self.messages.most
        first = block.handed // most * most
        last = min(first + most, len(block))
        if block is not self._block or first != self._first or header != self._header:
            begin = block.headroom - len(header)
            assert begin >= 0
            rows = np.frombuffer(block.packets, np.uint8).reshape(-1, block.stride)[first:last]
            rows[:, begin : block.headroom] = np.frombuffer(header, np.uint8)
            if write_names is not None:
                write_names(rows[:, block.headroom :])
            size = len(header) + block.size
            self.messages.aim(block.packets, first * block.stride + begin, block.stride, size, last - first)
            self._block, self._first, self._header = block, first, header
        return last

    def _hand_over(self, descriptor: int, block: Block, end: int, a_slice: int) -> bool:
        """Send what is aimed at, up to `end`; whether there is a point in going on."""
        at, before_ns = block.handed, time.time_ns()
        while at < end:
            taken, code = self.messages.send(descriptor, at - self._first, min(a_slice, end - at))
            after_ns = time.time_ns()
            if code:
                if code in QUEUE_IS_FULL:
                    return False
                if code == errno.EINTR:
                    continue
                block.errors[at] = code = _SAME.get(code, code)
                taken = 1
            block.marks += (at, before_ns), (at + taken, after_ns)
            block.handed = at = at + taken
            before_ns = after_ns
            if code in NETWORK_IS_DOWN:
                return False
        return True


class RawSender:
    """A raw socket that takes whole IP packets, whichever next hop they need. Raises: as `open_sender`."""

    def __init__(self, version: int, interface: str | None) -> None:
        self._family, self._name = FAMILIES[version], _NAMES[version]
        self._sock = open_sender(version, interface)
        self._outgoing = Outgoing(self._name.size)
        self._outgoing.messages.names.view(np.uint16)[:, 0] = self._sock.family

    def send(self, block: Block, most: int, way: Way) -> None:
        """Send packets whose headers say where to."""
        self._outgoing.send(self._sock.fileno(), block, most, write_names=partial(self._write_names, way))

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def _write_names(self, way: Way, packets: NDArray[np.uint8]) -> None:
        names = self._outgoing.messages.names[: len(packets)]
        size, source, target = self._family.address_size, self._family.destination_offset, self._name.address
        names[:, target : target + size] = packets[:, source : source + size]
        if self._name.scope is not None:
            names.view(np.uint32)[:, self._name.scope // 4] = way.interface
