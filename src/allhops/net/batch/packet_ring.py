"""Packets that the kernel has written into memory which we share with it: a TPACKET_V3 ring, read block by block.

A block is ours once it is full or has waited `RETIRE_MS`; the packets of all that are ours are copied into a `Ring` by
a few operations, not one a packet, and the blocks are given back. The socket shows IP packets without a link header,
from all interfaces: VLAN tags are off already, and what leaves this machine is not shown. Needs CAP_NET_RAW.

Source: packet(7), Linux Documentation/networking/packet_mmap.rst.
"""

from __future__ import annotations

import mmap
import socket
import struct
from typing import TYPE_CHECKING

import numpy as np

from allhops.core.lanes import ROW_ALIGNMENT, ROW_SIZE
from allhops.errors import CapacityError
from allhops.net.batch.neighbours import ETHERTYPES
from allhops.net.filters import answers_arriving, attach
from allhops.net.raw_sockets import SO_TIMESTAMPNS, count_drops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from allhops.core.lanes import Ring
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
        self._look_at(None)
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
            self._look_at(mmap.mmap(self.sock.fileno(), BLOCK_SIZE * BLOCKS))

    def drain(self, ring: Ring) -> None:
        """Read until no block is ours or the ring is full."""
        if not len(self._words):
            return
        room, packets = ring.capacity - ring.count, [_NOTHING]
        read: list[int] = []
        while room and len(read) < BLOCKS and (len(self._waiting) or self._open_block()):
            packets.append(self._waiting[:room])
            room -= len(packets[-1])
            self._waiting = self._waiting[len(packets[-1]) :]
            if not len(self._waiting):
                read.append(self._block)
                self._block = (self._block + 1) % BLOCKS
        self._copy(ring, np.concatenate(packets))  # all at once: most of what it costs is for each operation
        for block in read:
            self._give_back(block)
        self.note_drops()

    def note_drops(self) -> None:
        """Count what found no room in the ring."""
        counts = self.sock.getsockopt(_SOL_PACKET, _STATISTICS, _COUNTS.size)
        _, drops, _ = _COUNTS.unpack(counts)
        if drops:
            count_drops(self._counters, drops)

    def close(self) -> None:
        """Close socket and memory."""
        memory = self._map
        self._look_at(None)  # a map that is looked at cannot be closed
        if memory is not None:
            memory.close()
        self.sock.close()

    def _look_at(self, memory: mmap.mmap | None) -> None:
        """Look at this memory: in the two widths that its fields have."""
        seen = memory or b""
        self._map = memory
        self._halves: NDArray[np.uint16] = np.frombuffer(seen, np.uint16)
        self._words: NDArray[np.uint32] = np.frombuffer(seen, np.uint32)

    def _open_block(self) -> bool:
        """Find the packets of the next block; whether it is ours."""
        start = self._block * BLOCK_SIZE
        block = self._words[start // 4 : (start + BLOCK_SIZE) // 4]
        if not block[_STATUS] & _IS_OURS:
            return False
        self._waiting = start + _positions(block, int(block[_COUNT]), int(block[_FIRST]))
        return True

    def _give_back(self, block: int) -> None:
        self._words[block * BLOCK_SIZE // 4 + _STATUS] = 0

    def _copy(self, ring: Ring, packets: NDArray[np.int64]) -> None:
        """Append these to a ring that has room for them."""
        start, end = ring.count, ring.count + len(packets)
        heads = packets // 4
        seconds, nanoseconds = self._words[heads + _SECONDS], self._words[heads + _NANOSECONDS]
        np.frombuffer(ring.stamps_ns, np.int64)[start:end] = seconds.astype(np.int64) * _NS_PER_S + nanoseconds
        sizes = np.minimum(self._words[heads + _CAPTURED], ROW_SIZE).astype(np.int64)
        starts = np.empty_like(packets)
        begins = packets + self._halves[packets // 2 + _NET]
        widths = -(-sizes // ROW_ALIGNMENT)
        for width in np.flatnonzero(np.bincount(widths)).tolist():
            alike = np.flatnonzero(widths == width)
            size = width * ROW_ALIGNMENT
            rows = self._windows(size)[begins[alike] // ROW_ALIGNMENT].view(np.uint8).reshape(-1, size)
            np.ndarray(rows.shape, np.uint8, ring.octets, ring.end)[:] = rows
            sizes[alike] = np.minimum(sizes[alike], self._said(rows))
            starts[alike] = ring.end + np.arange(len(alike)) * size
            ring.end += rows.nbytes
        np.frombuffer(ring.starts, np.int64)[start:end] = starts
        np.frombuffer(ring.lengths, np.uint32)[start:end] = sizes
        ring.count = end

    def _windows(self, size: int) -> NDArray[np.void]:
        """So many bytes of the memory from wherever a packet may begin: one copy a packet, whatever its size."""
        count = (self._words.nbytes - size) // ROW_ALIGNMENT + 1
        return np.ndarray((count,), f"V{size}", self._words, 0, (ROW_ALIGNMENT,))

    def _said(self, rows: NDArray[np.uint8]) -> NDArray[np.int64]:
        """How long packets say they are: what a link has padded is no part of them."""
        at = self.family.length_offset
        said = rows[:, at].astype(np.int64) << 8 | rows[:, at + 1]
        return said if self.family.length_covers_header else said + self.family.header_size


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
