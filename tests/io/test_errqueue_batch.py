"""Windows without privilege over the loopback, on both event loops: real sockets and their traps, many destinations.

Every packet here goes to 127.0.0.0/8 or ::1. The loopback answers each probe at once with a port unreachable, so every
send after the first meets a pending error.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from contextlib import contextmanager
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING

import pytest

from allhops.core.lanes.hearsay import NAMED_ALONE, NAMELESS, QUOTED_CHECKSUM, QUOTED_HEADER
from allhops.core.lanes.scalar import ScalarLane
from allhops.core.ledger import ANSWERED, IN_FLIGHT, Counters, Ledger
from allhops.core.plan import Plan
from allhops.errors import AllhopsError, PrivilegeError, UsageError
from allhops.model import Protocol
from allhops.net.batch.group import Group
from allhops.net.batch.wire import Way
from allhops.net.errqueue import batch, queues, window
from allhops.net.errqueue.batch import ErrorQueueWire
from allhops.net.errqueue.queue import IcmpTold, Told
from allhops.options import TraceOptions
from allhops.wire.probes import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from allhops.core.lanes import Block
    from allhops.model import Address
    from allhops.net.errqueue.window import WindowLease

FIRST = IPv4Address("127.1.0.1")
PATIENCE_S = 5.0
BEAT_S = 0.001
MANY = 400


class Bench:
    """A wire, one lease on it, and what becomes of the probes of its plan."""

    def __init__(self, destinations: Sequence[Address], options: TraceOptions) -> None:
        self.counters = Counters()
        self.wire = ErrorQueueWire()
        self.wire.open(self.counters)
        (way,) = self.wire.ways(Group.of(destinations), options).kinds
        assert isinstance(way, Way)
        self.way: Way = way
        self.lease: WindowLease = self.wire.lease(self.way, options)
        layout = LAYOUTS[options.protocol, destinations[0].version]
        self.plan = Plan(
            layout=layout,
            options=options,
            destinations=tuple(destination.packed for destination in destinations),
            source=self.lease.source,
            source_ports=(self.lease.source_port,),
            key=0xBEEF,
            cookie=b"cook",
            size=layout.family.default_size,
        )
        self.lease.expect(self.plan.cookie)
        self.lane = ScalarLane(self.counters)
        self.ledger = Ledger(self.plan.slots, self.counters)

    def block(self, ttls: Sequence[int], attempts: int = 1) -> Block:
        """Probes to all destinations."""
        slots = [
            self.plan.slot(course, ttl, attempt)
            for attempt in range(attempts)
            for ttl in ttls
            for course in range(self.plan.courses)
        ]
        for slot in slots:
            self.ledger.state[slot] = IN_FLIGHT
        return self.lane.launch(self.plan, slots)

    def read(self) -> None:
        """What has come."""
        self.hearsay()

    async def read_all(self) -> None:
        """Whenever the wire says so, until nothing is in flight."""
        async with asyncio.timeout(PATIENCE_S):
            while self.ledger.state.count(IN_FLIGHT):
                self.read()
                await asyncio.sleep(BEAT_S)

    def hearsay(self) -> list[int]:
        """Of what has come, which is entered."""
        came: list[int] = []
        for ring in self.wire.receive():
            self.lane.record(self.plan, self.ledger, self.lane.unpack(ring))
            came += ring.hearsay[: ring.count]
        return came


@contextmanager
def bench(destinations: Sequence[Address] = (FIRST,), **options: object) -> Iterator[Bench]:
    made = Bench(destinations, TraceOptions(**options))  # type: ignore[arg-type]  # any of them
    try:
        yield made
    finally:
        made.wire.close()


async def test_a_pending_error_costs_no_probe() -> None:
    """It makes the next send fail without sending; whom the probe was for, and what was sent, agree all the same."""
    destinations = [FIRST + nth for nth in range(MANY)]
    with bench(destinations) as at:
        block = at.block([1, 2], attempts=2)
        while block.handed < len(block):
            at.lease.send(block, 300)
        await at.read_all()
        assert set(block.errors) == {0}
        assert at.counters.matched == len(block) == 4 * MANY
        assert at.counters == Counters(matched=4 * MANY)
        for slot, sent_ns in zip(block.slots, block.sent_ns, strict=True):
            destination = at.plan.destination_of(at.plan.course_of(slot))
            assert at.ledger.responder_of(slot, 4) == destination
            assert 0 <= at.ledger.received_ns[slot] - sent_ns < PATIENCE_S * 1e9


async def test_ipv6() -> None:
    with bench([ip_address("::1")]) as at:
        block = at.block(range(1, 31), attempts=3)
        at.lease.send(block, len(block))
        await at.read_all()
        assert at.counters == Counters(matched=90)


async def test_the_loop_hears_errors_after_the_first() -> None:
    """uvloop stops watching a socket at its first EPOLLERR."""
    with bench() as at:
        for ttl in range(1, 5):
            at.lease.send(at.block([ttl]), 1)
            await at.read_all()
        assert at.counters.matched == 4


async def test_no_more_is_sent_than_asked() -> None:
    with bench([FIRST + nth for nth in range(20)]) as at:
        block = at.block([1])
        for most, handed in ((0, 0), (7, 7), (1, 8), (100, 20), (5, 20)):
            at.lease.send(block, most)
            assert block.handed == handed
        assert list(block.sent_ns) == sorted(block.sent_ns)
        await at.read_all()


async def test_windows_at_once_hear_only_their_own() -> None:
    with bench() as one:
        other = one.wire.lease(one.way, TraceOptions())
        assert other.source_port != one.lease.source_port
        one.lease.send(one.block([1]), 1)
        other.send(one.block([2]), 1)
        flows = {row.probe.flow for ring in one.wire.receive() for row in one.lane.unpack(ring)}
        assert flows == {one.lease.source_port, other.source_port}
        other.close()
        with pytest.raises(UsageError, match="in use"):
            one.wire.lease(one.way, TraceOptions(source_port=one.lease.source_port))


async def test_closing_leaves_nothing_behind() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with bench() as at:
        port = at.lease.source_port
        at.wire.lease(at.way, TraceOptions()).close()
        at.lease.send(at.block([1]), 1)
    assert sorted(os.listdir("/proc/self/fd")) == before
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", port))
    assert at.hearsay() == []
    at.wire.close()


# Refusals


@pytest.fixture
async def refused(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Bench, list[int]]]:
    """Four probes, and the errnos that the sends in turn are to end in; 0 is a message sent."""
    with bench([FIRST + nth for nth in range(4)]) as at:
        codes: list[int] = []

        def send(descriptor: int, first: int, count: int) -> tuple[int, int]:
            code = codes.pop(0)
            return (0, code) if code else (1, 0)

        monkeypatch.setattr(at.lease._outbox, "send", send)
        yield at, codes


async def test_an_error_whose_entry_was_read_already_costs_no_probe(refused: tuple[Bench, list[int]]) -> None:
    at, codes = refused
    codes += [errno.ECONNREFUSED, 0, 0, errno.EHOSTUNREACH, 0, 0]
    block = at.block([1])
    at.lease.send(block, 4)
    assert (block.handed, list(block.errors), codes) == (4, [0] * 4, [])


async def test_what_this_machine_refuses_says_so(refused: tuple[Bench, list[int]]) -> None:
    at, codes = refused
    codes += [0, errno.EPERM, errno.EPERM, 0, 0]
    block = at.block([1])
    at.lease.send(block, 4)
    assert (block.handed, list(block.errors), codes) == (4, [0, errno.EPERM, 0, 0], [])
    assert all(block.sent_ns)
    assert len(at.lease._in_flight) == 3


async def test_a_full_queue_is_asked_again_later(refused: tuple[Bench, list[int]]) -> None:
    at, codes = refused
    codes += [0, errno.ENOBUFS]
    block = at.block([1])
    at.lease.send(block, 4)
    assert (block.handed, list(block.errors)) == (1, [0] * 4)
    codes += [0, 0, 0]
    at.lease.send(block, 4)
    assert block.handed == 4


async def test_a_network_that_is_down_is_found_once(refused: tuple[Bench, list[int]]) -> None:
    at, codes = refused
    codes += [0, errno.ENETUNREACH, errno.ENETUNREACH]
    block = at.block([1])
    at.lease.send(block, 4)
    assert (block.handed, list(block.errors)) == (2, [0, errno.ENETUNREACH, 0, 0])


# Replies that name no probe


def nameless(destination: Address, offender: str) -> Told:
    """A time exceeded whose quote ends with the ports."""
    icmp = IcmpTold(errno.EHOSTUNREACH, 2, 11, 0, 0, 0, ip_address(offender).packed)
    return Told((str(destination), 33_434), b"", time.time_ns(), 61, icmp)


@pytest.fixture
async def swallowed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Bench, list[Told]]]:
    """Two destinations, nothing is really sent, and the error queue has what stands in the list."""
    with bench([FIRST, FIRST + 1]) as at:
        told: list[Told] = []

        def read_error(sock: object, numbers: object) -> Told:
            if not told:
                raise BlockingIOError
            return told.pop(0)

        monkeypatch.setattr(queues, "read_error", read_error)
        monkeypatch.setattr(at.lease._outbox, "send", lambda descriptor, first, count: (count, 0))
        yield at, told


async def test_a_nameless_reply_is_given_to_a_probe_only_when_it_is_alone(swallowed: tuple[Bench, list[Told]]) -> None:
    at, told = swallowed
    at.lease.send(at.block([3]), 2)
    told.append(nameless(FIRST, "192.0.2.3"))
    at.lease._queues.drain_errors()
    assert at.hearsay() == [NAMED_ALONE | QUOTED_HEADER | QUOTED_CHECKSUM]
    slot = at.plan.slot(0, 3, 0)
    assert at.ledger.state[slot] == ANSWERED
    assert at.ledger.responder_of(slot, 4) == ip_address("192.0.2.3").packed
    assert at.ledger.quoted_ttl[slot] == 0, "nobody saw it"
    at.lease.send(at.block([4, 5]), 4)
    told += [nameless(FIRST, "192.0.2.4"), nameless(FIRST + 1, "192.0.2.4")]
    at.lease._queues.drain_errors()
    assert all(hearsay & NAMELESS for hearsay in at.hearsay())


async def test_while_somebody_sprays_ports_no_nameless_reply_is_believed(swallowed: tuple[Bench, list[Told]]) -> None:
    at, told = swallowed
    at.wire._transport.station.misses.orphans -= 1_000
    at.lease.send(at.block([3]), 2)
    told.append(nameless(FIRST, "192.0.2.3"))
    at.lease._queues.drain_errors()
    (hearsay,) = at.hearsay()
    assert hearsay & NAMELESS


# Buffers


async def test_a_buffer_that_overflows_is_counted() -> None:
    """Probes that nobody listens to in between: the smallest buffer there is holds two or three errors."""
    with bench() as at:
        at.lease.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for _ in range(20):
            try:
                at.lease.sock.sendto(b"probe", (str(FIRST), 33_434))
            except OSError:
                at.lease.sock.sendto(b"probe", (str(FIRST), 33_434))
        at.read()
        assert at.counters.kernel_drops == 1


# What is not possible


async def test_tcp_needs_raw_sockets() -> None:
    with bench() as at:
        tcp = TraceOptions(protocol=Protocol.TCP)
        with pytest.raises(UsageError, match="needs raw sockets"):
            at.wire.ways(Group.of([FIRST]), tcp)
        with pytest.raises(UsageError, match="sudo"):
            at.wire.lease(at.way, tcp)


async def test_an_interface_or_source_that_there_is_not() -> None:
    with bench() as at:
        with pytest.raises(UsageError, match="nowhere0"):
            at.wire.ways(Group.of([FIRST]), TraceOptions(interface="nowhere0"))
        with pytest.raises(UsageError, match="not an address of this machine"):
            at.wire.ways(Group.of([FIRST]), TraceOptions(source="192.0.2.77"))


async def test_closed_ping_groups_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with bench() as at:
        monkeypatch.setattr("allhops.net.source._open_ping", lambda version: None)
        with pytest.raises(PrivilegeError, match="ping_group_range"):
            at.wire.lease(at.way, TraceOptions(protocol=Protocol.ICMP))


async def test_old_kernels_take_no_ttl_for_a_ping_over_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    with bench([ip_address("::1")]) as at:
        monkeypatch.setattr(batch, "_kernel", lambda: (5, 15))
        with pytest.raises(UsageError, match=r"Linux 5\.18"):
            at.wire.lease(at.way, TraceOptions(protocol=Protocol.ICMP))


def test_this_kernel_has_a_version() -> None:
    assert batch._kernel() == tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])


async def test_where_there_is_no_error_queue_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with bench() as at:

        def listen(*arguments: object) -> None:
            raise OSError(errno.ENOPROTOOPT, "no such option")

        monkeypatch.setattr(window, "listen_to_errors", listen)
        before = sorted(os.listdir("/proc/self/fd"))
        with pytest.raises(AllhopsError):
            at.wire.lease(at.way, TraceOptions())
        assert sorted(os.listdir("/proc/self/fd")) == before
