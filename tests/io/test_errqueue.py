"""Probing without privilege over the loopback, on both event loops: real sockets, and the traps of real kernels.

Every packet here goes to 127.0.0.1 or ::1. The loopback answers each probe at once with a port unreachable, so every
send after the first meets a pending error.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from allhops.core.lanes import Block, Ring
from allhops.core.lanes.hearsay import NAMED_ALONE, NAMELESS, QUOTED_CHECKSUM, QUOTED_HEADER
from allhops.core.ledger import Counters
from allhops.errors import CapacityError, PrivilegeError, UsageError
from allhops.model import Evidence, PortState, ProbeState, Protocol, StopReason
from allhops.net import raw
from allhops.net.errqueue import ErrorQueueTransport, queue, queues, setup
from allhops.net.errqueue import transport as transport_module
from allhops.net.errqueue.arrivals import Arrivals
from allhops.net.errqueue.numbers import NUMBERS
from allhops.net.errqueue.places import Places
from allhops.net.errqueue.queue import IcmpTold, Told
from allhops.net.prober import Prober
from allhops.net.source import hold_port
from allhops.options import TraceOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from allhops.model import Address, Trace

LOOPBACK = {4: ip_address("127.0.0.1"), 6: ip_address("::1")}
BOTH = pytest.mark.parametrize("version", [4, 6])
PATIENCE_S = 2.0


@pytest.fixture
async def prober() -> AsyncIterator[Prober]:
    async with Prober(backend="errqueue") as prober:
        yield prober


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A TCP port of the loopback that is ours and refuses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture
def open_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def check(trace: Trace, address: Address, attempts: int) -> None:
    assert trace.stop_reason is StopReason.REACHED
    assert trace.backend == "errqueue"
    (hop,) = trace.hops
    assert [probe.state for probe in hop.probes] == [ProbeState.ANSWERED] * attempts
    for probe in hop.probes:
        assert probe.reply is not None
        assert probe.reply.address == address
        assert probe.reply.rtt_ns is not None
        assert 0 <= probe.reply.rtt_ns < PATIENCE_S * 1e9


# The traps


@BOTH
async def test_the_loop_hears_errors_after_the_first(prober: Prober, version: int) -> None:
    """uvloop stops watching a socket at its first EPOLLERR: the second trace, and the second error, would be silent."""
    for _ in range(3):
        check(await prober.trace(LOOPBACK[version], attempts=5, max_ttl=1), LOOPBACK[version], 5)


async def test_one_socket_is_heard_again_and_again() -> None:
    """The same on the bare transport: one flow, one error after the other, each awaited by itself."""
    woken = asyncio.Event()
    transport = ErrorQueueTransport()
    transport.open(woken.set, Counters())
    try:
        lease = transport.lease(LOOPBACK[4], TraceOptions())
        ring = Ring()
        for _ in range(4):
            block = udp_block(lease.source_port, 1)
            lease.send(block)
            assert block.handed == 1
            await asyncio.wait_for(woken.wait(), PATIENCE_S)
            transport.receive(ring)
            assert ring.count == 1
            woken.clear()
    finally:
        transport.close()


@BOTH
async def test_a_pending_error_costs_no_probe(prober: Prober, version: int) -> None:
    """It makes the next send fail without sending; what is sent and what is answered agree all the same."""
    trace = await prober.trace(LOOPBACK[version], attempts=10, max_ttl=3)
    assert trace.reached
    counters = prober.counters
    assert counters.matched == counters.sent
    assert counters.foreign == counters.forged == counters.unnamed == counters.malformed == 0


async def test_an_error_whose_entry_was_read_already_costs_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel queues the entry first and marks the socket afterwards: the mark alone is left for the next send."""
    transport = ErrorQueueTransport()
    transport.open(lambda: None, Counters())
    try:
        lease = transport.lease(LOOPBACK[4], TraceOptions())
        monkeypatch.setattr(lease, "sock", RefusingOnce(errno.ECONNREFUSED))
        block = udp_block(lease.source_port, 3)
        lease.send(block)
        assert (block.handed, list(block.errors)) == (3, [0, 0, 0])
        monkeypatch.undo()
    finally:
        transport.close()


async def test_a_socket_that_is_refused_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """No error was pending, so it is this machine that refuses: as in EPERM of a firewall."""
    transport = ErrorQueueTransport()
    transport.open(lambda: None, Counters())
    try:
        lease = transport.lease(LOOPBACK[4], TraceOptions())
        monkeypatch.setattr(lease, "sock", Refusing(errno.EPERM))
        block = udp_block(lease.source_port, 2)
        lease.send(block)
        assert (block.handed, list(block.errors)) == (2, [errno.EPERM, errno.EPERM])
        monkeypatch.setattr(lease, "sock", Refusing(errno.ENOBUFS))
        block = udp_block(lease.source_port, 2)
        lease.send(block)
        assert block.handed == 0, "a full queue is asked again later"
        monkeypatch.undo()
    finally:
        transport.close()


class Refusing:
    """A socket whose every send fails, and whose queues are empty."""

    type = socket.SOCK_DGRAM

    def __init__(self, code: int) -> None:
        self.code = code
        self.tries = 0

    def setsockopt(self, *arguments: object) -> None:
        pass

    def send(self, data: memoryview) -> int:
        self.tries += 1
        raise OSError(self.code, "no")

    def recvmsg(self, *arguments: object) -> None:
        raise BlockingIOError


class RefusingOnce(Refusing):
    """A socket of which every other send fails."""

    def send(self, data: memoryview) -> int:
        self.tries += 1
        if self.tries % 2:
            raise OSError(self.code, "no")
        return len(data)


def udp_block(source_port: int, probes: int, *, ttl: int = 1, mark: int = 0x0100) -> Block:
    """Whole IPv4 packets whose payload is as long as names them."""
    packet = bytearray(36)
    packet[0], packet[8], packet[9] = 0x45, ttl, 17
    packet[12:20] = bytes((127, 0, 0, 1)) * 2
    packets = bytearray()
    for index in range(probes):
        packet[28:36] = b"COOK" + (mark + index).to_bytes(2) + bytes(2)
        packets += packet
    return Block(list(range(probes)), packets, len(packet))


# Quotes that name nobody


def nameless(offender: str) -> Told:
    """A time exceeded whose quote ends with the ports."""
    icmp = IcmpTold(errno.EHOSTUNREACH, 2, 11, 0, 0, 0, ip_address(offender).packed)
    return Told(("127.0.0.1", 33_434), b"", time.time_ns(), 61, icmp)


async def test_a_nameless_reply_is_given_to_a_probe_only_when_it_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = ErrorQueueTransport()
    transport.open(lambda: None, Counters())
    try:
        lease = transport.lease(LOOPBACK[4], TraceOptions())
        told: list[Told] = []
        monkeypatch.setattr(queues, "read_error", lambda sock, numbers: told.pop() if told else stop())
        monkeypatch.setattr(lease, "sock", Swallowing())
        ring = Ring()

        def heard(offender: str) -> int:
            told.append(nameless(offender))
            lease._queues.drain_errors()  # type: ignore[attr-defined]  # a FlowLease's own
            lease._arrivals.move_to(ring)  # type: ignore[attr-defined]  # a FlowLease's own
            return ring.hearsay[ring.count - 1]

        lease.send(udp_block(lease.source_port, 1, ttl=3, mark=0x0300))
        lease.send(udp_block(lease.source_port, 1, ttl=4, mark=0x0400))
        assert heard("10.0.0.3") & NAMELESS
        later = time.time_ns() + 10**9
        monkeypatch.setattr(time, "time_ns", lambda: later)
        lease.send(udp_block(lease.source_port, 1, ttl=3, mark=0x0310))
        monkeypatch.setattr(time, "time_ns", lambda: later + 10**6)
        assert heard("10.0.0.3") == NAMED_ALONE | QUOTED_HEADER | QUOTED_CHECKSUM
        assert heard("10.0.0.3") & NAMELESS, "a copy of it names no further probe"
        monkeypatch.undo()
    finally:
        transport.close()


class Swallowing(Refusing):
    """A socket that takes everything."""

    def __init__(self) -> None:
        super().__init__(0)

    def send(self, data: memoryview) -> int:
        return len(data)


def stop() -> Told:
    raise BlockingIOError


async def test_while_somebody_sprays_ports_no_nameless_reply_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = ErrorQueueTransport()
    transport.open(lambda: None, Counters())
    try:
        lease = transport.lease(LOOPBACK[4], TraceOptions())
        assert transport._station is not None
        transport._station.misses.orphans -= 1_000
        told = [nameless("10.0.0.3")]
        monkeypatch.setattr(queues, "read_error", lambda sock, numbers: told.pop() if told else stop())
        monkeypatch.setattr(lease, "sock", Swallowing())
        lease.send(udp_block(lease.source_port, 1, ttl=3))
        lease._queues.drain_errors()  # type: ignore[attr-defined]  # a FlowLease's own
        ring = Ring()
        lease._arrivals.move_to(ring)  # type: ignore[attr-defined]  # a FlowLease's own
        assert ring.hearsay[0] & NAMELESS
        monkeypatch.undo()
    finally:
        transport.close()


# Buffers


async def test_a_nearly_full_buffer_is_told_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """What a full error queue drops is counted nowhere in the kernel."""
    counters = Counters()
    arrivals = Arrivals(counters, lambda: None)
    with caplog.at_level(logging.WARNING, "allhops"):
        arrivals.watch_fill(79_000, 100_000)
        assert not caplog.records
        arrivals.watch_fill(85_000, 100_000)
        arrivals.watch_fill(99_900, 100_000)
    assert len(caplog.records) == 1
    assert counters.kernel_drops == 1


async def test_a_buffer_that_overflows_is_seen_to_be_full() -> None:
    """Probes that nobody listens to in between: the smallest buffer there is holds two or three errors."""
    with hold_port(LOOPBACK[4], destination_port=33_434, source=None, source_port=None, interface=None) as sock:
        numbers = NUMBERS[4]
        setup.listen_to_errors(sock, numbers)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for _ in range(20):
            try:
                sock.send(b"probe")
            except OSError:
                sock.send(b"probe")
        booked, capacity = queue.fill(sock)
        counters = Counters()
        Arrivals(counters, lambda: None).watch_fill(booked, capacity)
        assert counters.kernel_drops == 1


async def test_buffers_are_grown_as_far_as_a_user_may() -> None:
    with hold_port(LOOPBACK[4], destination_port=33_434, source=None, source_port=None, interface=None) as sock:
        before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        setup.grow_buffer(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > before


# Which back end


async def test_raw_sockets_that_are_refused_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(raw, "open_receiver", refuse)
    async with Prober() as prober:
        trace = await prober.trace(LOOPBACK[4])
    assert trace.backend == "errqueue"
    with pytest.raises(PrivilegeError):
        await Prober(backend="raw").__aenter__()


async def test_where_nothing_is_allowed_the_doctor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "errors_are_told", lambda: False)
    with pytest.raises(PrivilegeError, match="doctor"):
        await Prober(backend="errqueue").__aenter__()


async def test_a_receiver_that_cannot_be_opened_leaves_none_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []

    def only_one(*arguments: object) -> socket.socket:
        if opened:
            raise OSError(errno.EMFILE, "Too many open files")
        opened.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        return opened[0]

    monkeypatch.setattr(raw, "open_receiver", only_one)
    with pytest.raises(CapacityError, match="Too many open files"):
        await Prober().__aenter__()
    assert opened[0].fileno() < 0


async def test_no_descriptors_are_not_taken_for_no_permission() -> None:
    prober = Prober(backend="errqueue")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(CapacityError, match="Too many open files"):
            await prober.__aenter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_back_end_that_there_is_not_is_refused() -> None:
    with pytest.raises(UsageError, match="backend"):
        Prober(backend="pigeons")


async def test_closed_ping_groups_are_named(prober: Prober, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PrivilegeError

    monkeypatch.setattr(transport_module, "hold_ping", refuse)
    with pytest.raises(PrivilegeError, match="ping_group_range"):
        await prober.trace(LOOPBACK[4], protocol=Protocol.ICMP)


# TCP


async def test_a_port_that_refuses_is_reached(prober: Prober, closed_port: int) -> None:
    trace = await prober.trace(LOOPBACK[4], protocol=Protocol.TCP, destination_port=closed_port, max_ttl=2)
    check(trace, LOOPBACK[4], 3)
    assert not trace.flow_constant
    reply = trace.hops[0].probes[0].reply
    assert reply is not None
    assert (reply.port_state, reply.reply_ttl, reply.icmp_type) == (PortState.CLOSED, None, None)
    assert reply.matched == (Evidence.DST, Evidence.SOCKET)


async def test_a_port_that_accepts_is_reached_and_reset(prober: Prober, open_port: int) -> None:
    trace = await prober.trace(LOOPBACK[4], protocol=Protocol.TCP, destination_port=open_port, max_ttl=2)
    check(trace, LOOPBACK[4], 3)
    reply = trace.hops[0].probes[0].reply
    assert reply is not None
    assert reply.port_state is PortState.OPEN


async def test_tcp_sockets_are_given_back(prober: Prober, closed_port: int) -> None:
    assert isinstance(prober.transport, ErrorQueueTransport)
    await prober.trace(LOOPBACK[4], protocol=Protocol.TCP, destination_port=closed_port)
    station = prober.transport._station
    assert station is not None
    assert (station.places.taken, len(station.watch), station.leases) == (0, 0, set())


async def test_a_source_port_cannot_be_kept_by_tcp(prober: Prober) -> None:
    with pytest.raises(UsageError, match="source_port"):
        await prober.trace(LOOPBACK[4], protocol=Protocol.TCP, source_port=40_000)


async def test_few_descriptors_are_enough(prober: Prober, closed_port: int) -> None:
    """Two places for ninety probes: they take turns."""
    assert isinstance(prober.transport, ErrorQueueTransport)
    assert prober.transport._station is not None
    object.__setattr__(prober.transport._station, "places", Places(2))
    check(
        await prober.trace(LOOPBACK[4], protocol=Protocol.TCP, destination_port=closed_port, max_ttl=4),
        LOOPBACK[4],
        3,
    )


async def test_no_descriptors_at_all_is_no_crash(prober: Prober, closed_port: int) -> None:
    """EMFILE from the kernel, in the middle of everything."""
    assert isinstance(prober.transport, ErrorQueueTransport)
    options = TraceOptions(protocol=Protocol.TCP, destination_port=closed_port)
    lease = prober.transport.lease(LOOPBACK[4], options)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    block = udp_block(lease.source_port, 3)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        lease.send(block)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert block.handed == 0
    assert prober.transport._station is not None
    assert prober.transport._station.places.limit == 1
    lease.close()


# Leftovers


@pytest.mark.parametrize("protocol", [Protocol.UDP, Protocol.TCP])
async def test_nothing_stays_open(protocol: Protocol, closed_port: int) -> None:
    transport = ErrorQueueTransport()
    async with Prober(transport=transport) as prober:
        port = closed_port if protocol is Protocol.TCP else None
        await prober.trace(LOOPBACK[4], protocol=protocol, destination_port=port)
        station = transport._station
        assert station is not None
        assert (len(station.watch), station.leases) == (0, set())
    assert station.watch._epoll.closed


async def test_what_a_service_answers_is_an_answer(prober: Prober) -> None:
    """A UDP service that sends the probe back: its datagram comes on the ordinary queue."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind(("127.0.0.1", 0))
        service.setblocking(False)

        def echo() -> None:
            data, where = service.recvfrom(2048)
            service.sendto(data, where)

        loop.add_reader(service, echo)
        try:
            port = service.getsockname()[1]
            trace = await prober.trace(LOOPBACK[4], destination_port=port, attempts=1, max_ttl=1)
        finally:
            loop.remove_reader(service)
    check(trace, LOOPBACK[4], 1)
    reply = trace.hops[0].probes[0].reply
    assert reply is not None
    assert reply.port_state is PortState.OPEN
    assert Evidence.COOKIE in reply.matched
