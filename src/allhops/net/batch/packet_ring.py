"""Packets that the kernel has written into memory which we share with it: a TPACKET_V3 ring, read block by block.

A block is ours once it is full or has waited `RETIRE_MS`. Its packets are read where they lie: a `Ring` looks into the
memory, found by a few operations for all blocks that are ours, not one a packet, and a block is given back when that
ring has been read. The socket shows IP packets without a link header, from all interfaces: VLAN tags are off already,
and what leaves this machine is not shown. Needs CAP_NET_RAW.

Source: packet(7), Linux Documentation/networking/packet_mmap.rst.
"""

from __future__ import annotations

import mmap
import socket
import struct
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from allhops.core.lanes import Ring
from allhops.errors import CapacityError
from allhops.net.batch.blocks import COUNT, IS_OURS, STATUS, show
from allhops.net.batch.neighbours import ETHERTYPES
from allhops.net.batch.wire import RING_PACKETS
from allhops.net.filters import answers_arriving, attach
from allhops.net.raw_sockets import SO_TIMESTAMPNS, count_drops

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from allhops.core.ledger import Counters
    from allhops.net.filters import Expected
    from allhops.wire.family import Family

BLOCKS = 64
LEAST_BLOCK_SIZE, MOST_BLOCK_SIZE = 1 << 15, 1 << 18
"""Bytes, powers of two: together 2 to 16 MiB. The largest hold some 80,000 ICMP errors; memory that nobody needs costs
0.1 ms a MiB to be taken, and belongs to the process."""
HELD_S, REPLY_SIZE = 3.0, 208
"""Seconds of the rate that there is room for, several times what passes between two looks; bytes of most replies."""
RETIRE_MS = 20
"""After which a block is ours though it is not full. The kernel's stamps say when packets came, whatever this is."""
_FRAME_SIZE = 2_048
"""Only a divisor: packets of this version of the ring take the room that they need."""

_SOL_PACKET = 263
_RX_RING, _STATISTICS, _VERSION = 5, 6, 10
"""PACKET_*."""
_VERSION_3 = 2
_REQUEST = struct.Struct("@7I")
"""struct tpacket_req3: block size, blocks, frame size, frames, retire time, private bytes, features."""
_COUNTS = struct.Struct("@III")
"""struct tpacket_stats_v3: packets, drops, freezes, each since it was last asked."""
_LEAST_SPACE = 96
"""Bytes that a packet takes in a block at least: what the kernel says of it."""


def block_size(rate_pps: float) -> int:
    """Bytes of each block for the replies to so many probes a second."""
    size = LEAST_BLOCK_SIZE
    while size < MOST_BLOCK_SIZE and size * BLOCKS < rate_pps * HELD_S * REPLY_SIZE:
        size *= 2
    return size


class PacketRing:
    """One family's packets from all interfaces. Nothing is let through, and no memory taken, until `admit`.

    It has room for the replies to `rate_pps` probes a second.
    Raises: OSError.
    """

    def __init__(self, family: Family, counters: Counters, rate_pps: float = inf) -> None:
        self.family = family
        self._counters = counters
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETHERTYPES[family.version]))
        try:
            self.sock.setblocking(False)
            attach(self.sock, answers_arriving(family, (), (), ()))
            self.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)  # stamps of arrival, not of being written here
            self.sock.setsockopt(_SOL_PACKET, _VERSION, _VERSION_3)
        except BaseException:
            self.sock.close()
            raise
        self._block_size = block_size(rate_pps)
        self._ring = Ring(RING_PACKETS + self._block_size // _LEAST_SPACE, bytearray())
        self._map: mmap.mmap | None = None
        self._look_at(b"")
        self._block = 0

    def admit(self, sources: Sequence[bytes], expected: Sequence[Expected], ports: Sequence[int]) -> None:
        """Let through what comes to these addresses about these flows and cookies, or to these TCP ports.

        Raises: CapacityError when there is no memory for the ring.
        """
        try:
            self.share()
        except OSError as error:
            raise CapacityError(f"no ring for packets: {error.strerror}") from error
        attach(self.sock, answers_arriving(self.family, sources, expected, ports))

    def share(self) -> None:
        """Take the memory, if that was not done yet. Raises: OSError."""
        if self._map is None:
            size = self._block_size
            frames = size * BLOCKS // _FRAME_SIZE
            request = _REQUEST.pack(size, BLOCKS, _FRAME_SIZE, frames, RETIRE_MS, 0, 0)
            self.sock.setsockopt(_SOL_PACKET, _RX_RING, request)
            self._map = mmap.mmap(self.sock.fileno(), size * BLOCKS)
            self._look_at(self._map)

    def receive(self) -> Iterator[Ring]:
        """The packets of blocks that are ours, a ring at a time. They are given back when it has been read."""
        self.note_drops()
        while blocks := self._take():
            show(self._ring, self._words, blocks)
            try:
                if self._ring.count:
                    yield self._ring
            finally:
                if len(self._words):  # or it was closed meanwhile
                    self._words[[block.start + STATUS for block in blocks]] = 0

    def note_drops(self) -> None:
        """Count what found no room in the ring."""
        counts = self.sock.getsockopt(_SOL_PACKET, _STATISTICS, _COUNTS.size)
        _, drops, _ = _COUNTS.unpack(counts)
        if drops:
            count_drops(self._counters, drops)

    def close(self) -> None:
        """Close socket and memory."""
        self._look_at(b"")  # a map that is looked at cannot be closed
        if self._map is not None:
            self._map.close()
        self.sock.close()

    def _look_at(self, memory: mmap.mmap | bytes | bytearray) -> None:
        """Look at this memory: as packets, and as fields."""
        self._ring.octets = memoryview(memory)
        self._words: NDArray[np.uint32] = np.frombuffer(self._ring.octets, np.uint32)

    def _take(self) -> list[slice]:
        """The words of the next blocks that are ours, until together they fill a ring."""
        blocks: list[slice] = []
        size, room = self._block_size // 4, RING_PACKETS
        while len(self._words) and room > 0 and len(blocks) < BLOCKS:
            start = self._block * size
            if not self._words[start + STATUS] & IS_OURS:
                break
            blocks.append(slice(start, start + size))
            room -= int(self._words[start + COUNT])
            self._block = (self._block + 1) % BLOCKS
        return blocks
