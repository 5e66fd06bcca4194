"""Blocks of a receive ring, as the kernel lays them out, without a kernel."""

from __future__ import annotations

import struct
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.core.lanes import ROW_ALIGNMENT, ROW_SIZE, Ring
from allhops.core.lanes.scalar import ScalarLane
from allhops.core.lanes.vector import VectorLane
from allhops.core.ledger import Counters
from allhops.model import Protocol
from allhops.net.batch import packet_ring
from allhops.net.batch.packet_ring import PacketRing
from allhops.wire.family import FAMILIES
from benchmarks.replies import MPLS, echo_reply, error_about, plan_for, probe_of

BLOCKS, BLOCK_SIZE = 3, 8_192
DESCRIPTOR, HEADER, PACKET = 48, struct.Struct("@IIIIIIHH"), 96
"""Bytes of struct tpacket_block_desc; struct tpacket3_hdr; where a packet stands after its header."""


class Kernel:
    """The other side of the shared memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(packet_ring, "BLOCKS", BLOCKS)
        monkeypatch.setattr(PacketRing, "note_drops", lambda ring: None)
        self.memory = bytearray(BLOCKS * BLOCK_SIZE)
        self.block = 0

    def ring(self, version: int = 4) -> PacketRing:
        ring = object.__new__(PacketRing)
        ring.family, ring._counters, ring._block, ring._block_size = FAMILIES[version], Counters(), 0, BLOCK_SIZE
        ring._ring = Ring(BLOCKS * BLOCK_SIZE // PACKET, bytearray())
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
        struct.pack_into("@IIIIII", self.memory, start, 3, 0, 1, len(packets), DESCRIPTOR, at - start)
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
def test_whatever_the_sizes_every_packet_is_read_once(blocks: list[list[int]], most: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        kernel = Kernel(monkeypatch)
        monkeypatch.setattr(packet_ring, "RING_PACKETS", most)
        ring, got = kernel.ring(), []
        for number, sizes in enumerate(blocks):
            kernel.retire([packet(size) for size in sizes])
            if kernel.is_handed_over(kernel.block) or number == len(blocks) - 1:
                got += [len(one) for one, _ in read(ring)]
                assert not any(map(kernel.is_handed_over, range(BLOCKS)))
    assert got == [size for sizes in blocks for size in sizes]


def test_a_packet_may_look_like_headers_inside(kernel: Kernel) -> None:
    """Then they are gone through one by one."""
    fake = HEADER.pack(8, 7, 0, 60, 60, 1, PACKET, PACKET)
    packets = [packet(60, number) for number in range(4)]
    packets[1] = packet(200, 1)[:8] + fake * 6
    packets[1] += bytes(200 - len(packets[1]))
    kernel.retire(packets)
    kernel.retire([packet(60, 4)])
    ring = kernel.ring()
    assert [one for one, _ in read(ring)] == [*packets, packet(60, 4)]


def test_spaces_may_look_even_and_are_not(kernel: Kernel) -> None:
    packets = [packet(size, number) for number, size in enumerate((80, 64, 96, 80))]
    kernel.retire(packets)
    assert [one for one, _ in read(kernel.ring())] == packets


def test_a_block_is_given_back_when_its_ring_has_been_read(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_ring, "RING_PACKETS", 6)
    ring = kernel.ring()
    for first in (0, 3, 6):
        kernel.retire([packet(60, number) for number in range(first, first + 3)])
    rings = ring.receive()
    for expected, handed_over in ((range(6), [True, True, True]), (range(6, 9), [False, False, True])):
        assert [one[0] for one, _ in packets_of(next(rings))] == list(expected)
        assert [kernel.is_handed_over(block) for block in range(BLOCKS)] == handed_over
    assert list(rings) == []
    assert not kernel.is_handed_over(2)


def test_who_does_not_read_on_leaves_the_rest_to_the_next_read(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_ring, "RING_PACKETS", 3)
    ring = kernel.ring()
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
    rings = ring.receive()
    next(rings)
    ring._look_at(b"")
    kernel.memory.clear()  # nothing looks at it any more
    assert list(rings) == []


@pytest.mark.parametrize("version", [4, 6])
def test_padding_is_no_part_of_a_packet(kernel: Kernel, version: int) -> None:
    """The ring shows it, but whoever reads packets goes by what they say of their length."""
    probe = probe_of(plan_for(Protocol.ICMP, version))
    packets = [echo_reply(probe), echo_reply(probe, payload=4), error_about(probe), error_about(probe, structure=MPLS)]
    for padding in (b"", b"\7" * 9, bytes(9)):
        kernel.retire([one + padding for one in packets])
        for fill in kernel.ring(version).receive():
            rows = ScalarLane(Counters()).unpack(fill)
            assert len(rows) == len(packets)
            assert VectorLane(Counters()).unpack(fill).rows() == rows
            bare = Ring()
            for number, one in enumerate(packets):
                bare.append(one, 7_000_000_000 + number)
            assert rows == ScalarLane(Counters()).unpack(bare)
        kernel.block = 0


def test_a_packet_longer_than_its_row_is_cut(kernel: Kernel) -> None:
    long = packet(3_000)
    kernel.retire([long, packet(50)])
    cut, whole = (one for one, _ in read(kernel.ring()))
    assert (cut, len(whole)) == (long[:ROW_SIZE], 50)


def test_rows_have_room_for_whole_words() -> None:
    """They are copied with what is left of their last word."""
    assert ROW_SIZE % ROW_ALIGNMENT == 0


@pytest.mark.parametrize(
    ("rate_pps", "mebibytes"), [(0.1, 2), (3_000, 2), (5_000, 4), (10_000, 8), (20_000, 16), (1e9, 16), (inf, 16)]
)
def test_memory_is_for_three_seconds_of_the_rate(rate_pps: float, mebibytes: int) -> None:
    assert packet_ring.block_size(rate_pps) * packet_ring.BLOCKS == mebibytes << 20
