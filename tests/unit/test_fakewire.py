"""A batch's wire in memory: replies come when they are due, with the stamps of the model, and faults as asked."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import numpy as np
import pytest

from allhops.core.lanes.scalar import ScalarLane
from allhops.core.ledger import Counters
from allhops.core.plan import Plan
from allhops.errors import CapacityError, SendError, UsageError
from allhops.model import Protocol
from allhops.net.batch.group import Group
from allhops.options import TraceOptions
from allhops.testing import FakeWire, SyntheticInternet, fakewire
from allhops.testing.fakewire import PORTS, FakeWireLease
from allhops.wire.probes import LAYOUTS

if TYPE_CHECKING:
    from allhops.core.lanes import Block

COURSES = 200
OPTIONS = TraceOptions()


class Clock:
    """Stands still."""

    now = 12.5

    def __call__(self) -> float:
        return self.now


def made_wire(**faults: float) -> tuple[FakeWire, Clock, Counters]:
    clock, counters = Clock(), Counters()
    wire = FakeWire(SyntheticInternet(4, destinations=COURSES), clock=clock, **faults)
    wire.open(counters)
    return wire, clock, counters


def leased(wire: FakeWire) -> FakeWireLease:
    (way,) = wire.ways(Group.of([IPv4Address("16.0.0.1")]), OPTIONS).kinds
    assert not isinstance(way, Exception)
    return wire.lease(way, OPTIONS)


def made_block(wire: FakeWire, lease: FakeWireLease, *, size: int = 60) -> Block:
    plan = Plan(
        layout=LAYOUTS[Protocol.UDP, 4],
        options=OPTIONS,
        destinations=tuple(address.to_bytes(4) for address in wire.internet.destinations().tolist()),
        source=lease.source,
        source_ports=(lease.source_port,),
        key=1,
        cookie=b"abcd",
        size=size,
    )
    slots = [plan.slot(course, ttl, 0) for course in range(COURSES) for ttl in range(1, 21)]
    return ScalarLane(Counters()).launch(plan, slots)


def receive(wire: FakeWire) -> list[tuple[int, bytes]]:
    return [(stamp_ns, bytes(packet)) for ring in wire.receive() for packet, stamp_ns in ring.packets()]


def drain(wire: FakeWire, clock: Clock) -> list[tuple[int, bytes]]:
    """All replies, in the order in which they come, with the clock set to when each is due."""
    came = list[tuple[int, bytes]]()
    while (at := wire.next_arrival()) is not None:
        clock.now = max(at, clock.now)
        arrived = receive(wire)
        assert arrived
        came += arrived
    return came


def test_a_ring_that_becomes_full_is_filled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakewire, "RING_PACKETS", 7)
    wire, clock, _ = made_wire()
    lease = leased(wire)
    lease.send(made_block(wire, lease), 100)
    clock.now += 60
    counts = [ring.count for ring in wire.receive()]
    assert counts[:-1] == [7] * (len(counts) - 1)
    assert sum(counts) == wire.tally.time_exceeded + wire.tally.reached > 7


def test_every_reply_comes_at_its_time_with_its_stamp() -> None:
    wire, clock, _ = made_wire()
    lease = leased(wire)
    block = made_block(wire, lease)
    lease.send(block, 100)
    clock.now += 0.004
    lease.send(block, len(block))
    assert block.handed == len(block)
    assert not any(block.errors)
    sent_ns = np.frombuffer(block.sent_ns, np.int64)
    assert (np.diff(sent_ns) != 0).nonzero()[0].tolist() == [99]
    packets = np.frombuffer(block.packets, np.uint8).reshape(len(block), -1)
    destination = packets[:, 16:20].copy().view(">u4")[:, 0].astype(np.uint32)
    ports = np.full(len(block), lease.source_port, np.uint16)
    met = wire.internet.answer(destination, packets[:, 8], ports)
    expected = np.sort((sent_ns + met.rtt_ns)[met.kind > 0])
    came = drain(wire, clock)
    assert [stamp_ns for stamp_ns, _ in came] == expected.tolist()
    assert wire.tally.probes == len(block)
    assert wire.tally.time_exceeded + wire.tally.reached == len(came)


def test_nothing_comes_before_its_time() -> None:
    wire, clock, _ = made_wire()
    lease = leased(wire)
    lease.send(made_block(wire, lease), 10_000)
    at = wire.next_arrival()
    assert at is not None
    clock.now = at - 0.000_001
    assert not receive(wire)
    clock.now = at
    assert receive(wire)


def test_probes_of_any_size_share_the_wire() -> None:
    wire, clock, _ = made_wire()
    lease = leased(wire)
    for size in (60, 1500, 60):
        lease.send(made_block(wire, lease, size=size), 10_000)
    came = drain(wire, clock)
    assert {len(packet) for _, packet in came} == {88, 576}
    assert sum(len(packet) == 88 for _, packet in came) == 2 * sum(len(packet) == 576 for _, packet in came)


def test_duplicates_come_as_often_as_asked() -> None:
    wire, clock, _ = made_wire(duplicates=0.25)
    lease = leased(wire)
    lease.send(made_block(wire, lease), 10_000)
    came = drain(wire, clock)
    assert len(came) / len(set(came)) == pytest.approx(1.25, abs=0.03)


def test_a_slow_receiver_loses_replies_and_counts_them() -> None:
    wire, clock, counters = made_wire(most_received_pps=1_000)
    lease = leased(wire)
    lease.send(made_block(wire, lease), 10_000)
    answered, came = 0, 0
    for _ in range(200):
        clock.now += 0.001
        arrived = len(receive(wire))
        assert arrived <= 300
        came += arrived
    answered = wire.tally.time_exceeded + wire.tally.reached
    assert wire.next_arrival() is None
    assert came + counters.kernel_drops == answered
    assert came < answered * 0.9


async def test_delays_are_the_loops() -> None:
    wire, counters = FakeWire(SyntheticInternet(4, destinations=COURSES)), Counters()
    wire.open(counters)
    lease = leased(wire)
    block = made_block(wire, lease)
    lease.send(block, 1)
    loop = asyncio.get_running_loop()
    at = wire.next_arrival()
    assert at is not None
    came = receive(wire)
    while not came:
        await asyncio.sleep(0)
        came = receive(wire)
    assert loop.time() >= at - 0.000_001
    assert came[0][0] > block.sent_ns[0]
    wire.close()
    assert wire.next_arrival() is None


def test_a_port_is_leased_once_and_given_back() -> None:
    wire, _, _ = made_wire()
    (way,) = wire.ways(Group.of([IPv4Address("16.0.0.1")]), OPTIONS).kinds
    assert not isinstance(way, Exception)
    leases = [wire.lease(way, OPTIONS) for _ in range(PORTS)]
    assert len({lease.source_port for lease in leases}) == PORTS
    with pytest.raises(CapacityError, match="in use"):
        wire.lease(way, OPTIONS)
    leases[3].close()
    assert wire.lease(way, OPTIONS).source_port == leases[3].source_port
    with pytest.raises(CapacityError, match="in use"):
        wire.lease(way, TraceOptions(source_port=leases[3].source_port))


def test_there_is_one_way_and_none_over_ipv6() -> None:
    wire, _, _ = made_wire()
    (way,) = wire.ways(Group.of([IPv4Address("16.0.0.1")]), OPTIONS).kinds
    (none,) = wire.ways(Group.of([IPv6Address("2001:db8::2")]), OPTIONS).kinds
    assert not isinstance(way, Exception)
    assert way.source == wire.internet.source.packed
    assert isinstance(none, SendError)
    with pytest.raises(UsageError, match="not the vantage point"):
        wire.ways(Group.of([IPv4Address("16.0.0.1")]), TraceOptions(source="192.0.2.77"))
