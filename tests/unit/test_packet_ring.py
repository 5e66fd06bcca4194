"""Blocks of a receive ring, as the kernel lays them out, without a kernel."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.core.lanes import ROW_ALIGNMENT, ROW_SIZE, Ring
from allhops.core.ledger import Counters
from allhops.net.batch import packet_ring
from allhops.net.batch.packet_ring import PacketRing
from allhops.wire.family import FAMILIES

BLOCKS, BLOCK_SIZE = 3, 8_192
DESCRIPTOR, HEADER, PACKET = 48, struct.Struct("@IIIIIIHH"), 96
"""Bytes of struct tpacket_block_desc; struct tpacket3_hdr; where a packet stands after its header."""


class Kernel:
    """The other side of the shared memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(packet_ring, "BLOCKS", BLOCKS)
        monkeypatch.setattr(packet_ring, "BLOCK_SIZE", BLOCK_SIZE)
        monkeypatch.setattr(PacketRing, "note_drops", lambda ring: None)
        self.memory = bytearray(BLOCKS * BLOCK_SIZE)
        self.block = 0

    def ring(self, version: int = 4, capacity: int = 64) -> PacketRing:
        ring = object.__new__(PacketRing)
        ring.family, ring._counters, ring._block = FAMILIES[version], Counters(), 0
        ring._ring = Ring(capacity, bytearray())
        ring._waiting = np.zeros(0, np.int64)
        ring._look_at(self.memory)
        return ring

    def retire(self, packets: list[bytes]) -> None:
        """Fill a block and hand it over."""
        start = self.block * BLOCK_SIZE
        assert not self.is_handed_over(self.block)
        at = start + DESCRIPTOR
        for number, packet in enumerate(packets):
            step = (PACKET + len(packet) + 7) // 8 * 8
            after = step if number + 1 < len(packets) else 0  # of the last one the kernel says nothing
            HEADER.pack_into(self.memory, at, after, 7, number, len(packet), len(packet), 1, PACKET, PACKET)
            self.memory[at + PACKET : at + PACKET + len(packet)] = packet
            at += step
        assert at <= start + BLOCK_SIZE
        struct.pack_into("@IIIII", self.memory, start, 3, 0, 1, len(packets), DESCRIPTOR)
        self.block = (self.block + 1) % BLOCKS

    def is_handed_over(self, block: int) -> bool:
        return bool(self.memory[block * BLOCK_SIZE + 8] & 1)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def packet(size: int, filler: int = 7, version: int = 4) -> bytes:
    """One that says how long it is."""
    said = size if version == 4 else size - 40
    at = FAMILIES[version].length_offset
    return bytes([filler]) * at + said.to_bytes(2) + bytes([filler]) * (size - at - 2)


def read(ring: PacketRing) -> list[tuple[bytes, int]]:
    return [one for fill in ring.receive() for one in packets_of(fill)]


def packets_of(ring: Ring) -> list[tuple[bytes, int]]:
    return [(bytes(view), stamp) for view, stamp in ring.packets()]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("sizes", [[56] * 9, [56, 57, 1_000, 56], [61], [100, 100, 101, 100]])
def test_a_block_becomes_rows(kernel: Kernel, version: int, sizes: list[int]) -> None:
    packets = [packet(size, number, version) for number, size in enumerate(sizes)]
    ring = kernel.ring(version)
    assert read(ring) == []
    kernel.retire(packets)
    assert read(ring) == [(one, 7_000_000_000 + number) for number, one in enumerate(packets)]
    assert read(ring) == []
    assert not kernel.is_handed_over(0)


@given(st.lists(st.lists(st.integers(40, 700), max_size=9), min_size=1, max_size=9), st.integers(1, 12))
def test_whatever_the_sizes_every_packet_is_read_once(blocks: list[list[int]], capacity: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        kernel = Kernel(monkeypatch)
        ring, got = kernel.ring(capacity=capacity), []
        for sizes in blocks:
            kernel.retire([packet(size) for size in sizes])
            for fill in ring.receive():
                assert fill.count <= capacity
                got += [len(one) for one, _ in packets_of(fill)]
            assert not kernel.is_handed_over((kernel.block - 1) % BLOCKS)
    assert got == [size for sizes in blocks for size in sizes]


def test_a_block_is_given_back_when_a_ring_has_been_read_that_has_its_last_packet(kernel: Kernel) -> None:
    ring = kernel.ring(capacity=3)
    kernel.retire([packet(60, number) for number in range(5)])
    kernel.retire([packet(60, number) for number in range(5, 8)])
    fills = ring.receive()
    for expected, is_handed_over in (([0, 1, 2], [True, True]), ([3, 4, 5], [True, True]), ([6, 7], [False, True])):
        assert [one[0] for one, _ in packets_of(next(fills))] == expected
        assert [kernel.is_handed_over(0), kernel.is_handed_over(1)] == is_handed_over
    assert list(fills) == []
    assert not kernel.is_handed_over(1)


def test_who_does_not_read_on_leaves_the_rest_to_the_next_read(kernel: Kernel) -> None:
    ring = kernel.ring(capacity=3)
    kernel.retire([packet(60, number) for number in range(3)])
    kernel.retire([packet(60, number) for number in range(3, 5)])
    for fill in ring.receive():
        assert [one[0] for one, _ in packets_of(fill)] == [0, 1, 2]
        assert kernel.is_handed_over(0)
        break
    assert [kernel.is_handed_over(0), kernel.is_handed_over(1)] == [False, True]
    assert [one[0] for one, _ in read(ring)] == [3, 4]


def test_a_ring_may_be_closed_while_it_is_read(kernel: Kernel) -> None:
    ring = kernel.ring()
    kernel.retire([packet(60)])
    fills = ring.receive()
    next(fills)
    ring._look_at(b"")
    kernel.memory.clear()  # nothing looks at it any more
    assert list(fills) == []


@pytest.mark.parametrize("version", [4, 6])
def test_padding_is_no_part_of_a_packet(kernel: Kernel, version: int) -> None:
    short = packet(41, version=version)
    kernel.retire([short + bytes(9)])
    assert [one for one, _ in read(kernel.ring(version))] == [short]


def test_a_packet_longer_than_its_row_is_cut(kernel: Kernel) -> None:
    long = packet(3_000)
    kernel.retire([long, packet(50)])
    cut, whole = (one for one, _ in read(kernel.ring()))
    assert (cut, len(whole)) == (long[:ROW_SIZE], 50)


def test_rows_have_room_for_whole_words() -> None:
    """They are copied with what is left of their last word."""
    assert ROW_SIZE % ROW_ALIGNMENT == 0
