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
from typing import TYPE_CHECKING

import numpy as np

from allhops.core.lanes import ROW_ALIGNMENT, ROW_SIZE, Ring
from allhops.errors import CapacityError
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

BLOCK_SIZE, BLOCKS = 1 << 18, 64
"""Bytes, and how many: 16 MiB hold some 80,000 ICMP errors."""
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
_STATUS, _COUNT, _FIRST = 2, 3, 4
"""32-bit words of struct tpacket_block_desc: whose it is, how many packets, where the first is."""
_IS_OURS = 1
"""TP_STATUS_USER; 0 is the kernel's."""
_NEXT, _SECONDS, _NANOSECONDS, _CAPTURED = 0, 1, 2, 3
"""32-bit words of struct tpacket3_hdr."""
_NET = 13
"""Its 16-bit word that says where the IP header is, bytes from its own start."""
_HEADER_SIZE = 48
_NS_PER_S = 1_000_000_000
_NOTHING = np.zeros(0, np.int64)


class PacketRing:
    """One family's packets from all interfaces. Nothing is let through, and no memory taken, until `admit`.

    Raises: OSError.
    """

    def __init__(self, family: Family, counters: Counters) -> None:
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
        self._ring = Ring(RING_PACKETS, bytearray())
        self._map: mmap.mmap | None = None
        self._look_at(b"")
        self._block = 0
        self._waiting = _NOTHING
        """Where the packets of the current block are that have not been read yet."""

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
            frames = BLOCK_SIZE * BLOCKS // _FRAME_SIZE
            request = _REQUEST.pack(BLOCK_SIZE, BLOCKS, _FRAME_SIZE, frames, RETIRE_MS, 0, 0)
            self.sock.setsockopt(_SOL_PACKET, _RX_RING, request)
            self._map = mmap.mmap(self.sock.fileno(), BLOCK_SIZE * BLOCKS)
            self._look_at(self._map)

    def receive(self) -> Iterator[Ring]:
        """The packets of blocks that are ours, a ring at a time. Blocks that have been read through are given back."""
        self.note_drops()
        ring = self._ring
        while len(self._words):
            read = self._fill()
            try:
                if ring.count:
                    yield ring
            finally:
                self._give_back(read)
            if ring.count < ring.capacity:
                return

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
        """Look at this memory: as packets, and in the widths that its fields have."""
        self._ring.octets = memoryview(memory)
        self._halves: NDArray[np.uint16] = np.frombuffer(self._ring.octets, ">u2")
        self._words: NDArray[np.uint32] = np.frombuffer(self._ring.octets, np.uint32)

    def _fill(self) -> list[int]:
        """Have the ring show what waits, until no block is ours or it is full; blocks that were read through."""
        room, packets = self._ring.capacity, [_NOTHING]
        read: list[int] = []
        while room and len(read) < BLOCKS and (len(self._waiting) or self._open_block()):
            packets.append(self._waiting[:room])
            room -= len(packets[-1])
            self._waiting = self._waiting[len(packets[-1]) :]
            if not len(self._waiting):
                read.append(self._block)
                self._block = (self._block + 1) % BLOCKS
        self._show(np.concatenate(packets))  # all at once: most of what it costs is for each operation
        return read

    def _open_block(self) -> bool:
        """Find the packets of the next block; whether it is ours."""
        start = self._block * BLOCK_SIZE
        block = self._words[start // 4 : (start + BLOCK_SIZE) // 4]
        if not block[_STATUS] & _IS_OURS:
            return False
        self._waiting = start + _positions(block, int(block[_COUNT]), int(block[_FIRST]))
        return True

    def _give_back(self, blocks: list[int]) -> None:
        for block in blocks:
            if len(self._words):  # or it was closed meanwhile
                self._words[block * BLOCK_SIZE // 4 + _STATUS] = 0

    def _show(self, packets: NDArray[np.int64]) -> None:
        """Have the ring say where these are, how long, and when they came."""
        ring, count = self._ring, len(packets)
        places = (len(self._words) * 4 - _HEADER_SIZE) // ROW_ALIGNMENT
        anywhere = np.ndarray((places,), f"V{_HEADER_SIZE}", self._words, 0, (ROW_ALIGNMENT,))
        headers = anywhere[packets // ROW_ALIGNMENT].view(np.uint32).reshape(count, _HEADER_SIZE // 4)
        starts = packets + headers.view(np.uint16)[:, _NET]
        seconds = headers[:, _SECONDS].astype(np.int64)
        np.frombuffer(ring.stamps_ns, np.int64)[:count] = seconds * _NS_PER_S + headers[:, _NANOSECONDS]
        np.frombuffer(ring.starts, np.int64)[:count] = starts
        # What a link has padded is no part of a packet: as long as it says, if it is all there.
        said = self._halves[(starts + self.family.length_offset) // 2].astype(np.uint32)
        said += 0 if self.family.length_covers_header else self.family.header_size
        captured = np.minimum(headers[:, _CAPTURED], ROW_SIZE)
        np.frombuffer(ring.lengths, np.uint32)[:count] = np.minimum(said, captured)
        ring.count = count


def _positions(block: NDArray[np.uint32], count: int, first: int) -> NDArray[np.int64]:
    """Where a block's packets begin, bytes. Each says where the next one is: mostly as far away as the last one was."""
    stride = int(block[first // 4 + _NEXT]) if count else 0
    if stride and first + (count - 1) * stride + _HEADER_SIZE <= 4 * len(block):
        positions = first + np.arange(count) * stride
        if (block[positions[:-1] // 4 + _NEXT] == stride).all():
            return positions
    positions = np.empty(count, np.int64)
    words = block.data
    at = first
    for place in range(count):
        positions[place] = at
        at += words[at // 4 + _NEXT]
    return positions
