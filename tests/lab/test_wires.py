"""The wires of batches against real kernels: they hear the same, and lose nothing in silence."""

from __future__ import annotations

import asyncio
import os
import pathlib
import socket
import subprocess
import sys
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from allhops.core.lanes.departures import departures
from allhops.core.ledger import Counters
from allhops.errors import CapacityError, PrivilegeError, UsageError
from allhops.model import Protocol
from allhops.net.batch import neighbours, packet_ring, receiving, rings
from allhops.net.batch.choose import open_wire
from allhops.net.batch.group import Group
from allhops.net.batch.leases import MOST_LEASES
from allhops.net.batch.raw import RawWire
from allhops.net.batch.rings import RingWire
from allhops.net.batch.sending import RawSender
from allhops.options import TraceOptions
from allhops.testing.namespaces import chain, diamond, importing_us, tun_internet
from tests.lab.wires import COOKIE, PATIENCE_S, WIRES, Bench, opened, ready

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.core.lanes import Block
    from allhops.core.lanes.rows import ReplyRow
    from allhops.model import Address
    from allhops.net.batch.wire import Way
    from allhops.testing.namespaces import Lab

pytestmark = pytest.mark.lab

VERSIONS = (4, 6)
ROUTERS = 5
DESTINATIONS = 200
BEHIND = {4: ip_address("10.250.0.0"), 6: ip_address("fd00:250::")}
"""Addresses that the host at the end of the chain answers for, from here on."""
SECOND = {4: ip_address("10.251.0.0"), 6: ip_address("fd00:251::")}
"""The same, by the second interface."""
PORT = 45_678


def shell(command: str) -> str:
    done = subprocess.run(command, shell=True, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A chain, and beside it a link straight from the client to the host, which is the next hop of more addresses."""
    with chain(ROUTERS, limits="off") as lab:
        with lab.enter("host"):
            for version, network in (("-4", "10.250.0.0/15"), ("-6", "fd00:250::/31")):
                shell(f"ip {version} route add local {network} dev lo")
        client, host = lab.client, lab.nodes["host"]
        shell(f"ip -n {client} link add w0 type veth peer name w1 netns {host}")
        for node, device, last in ((client, "w0", 1), (host, "w1", 2)):
            shell(f"ip -n {node} link set {device} up")
            shell(f"ip -n {node} addr add 10.199.0.{last}/24 dev {device}")
            shell(f"ip -n {node} addr add fd00:199::{last}/64 dev {device} nodad")
        shell(f"ip -n {client} route add 10.251.0.0/16 via 10.199.0.2")
        shell(f"ip -n {client} -6 route add fd00:251::/32 via fd00:199::2")
        yield lab


@pytest.fixture
def client(lab: Lab) -> Iterator[Lab]:
    with lab.enter():
        yield lab


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest, client: Lab) -> RawWire | RingWire:
    """Each of them, in the client's namespace."""
    return WIRES[request.param]()


class Spy:
    """How many probes left by raw sockets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent = 0
        self.most: list[int] = []
        send = RawSender.send

        def spied(sender: RawSender, block: Block, most: int, way: Way) -> None:
            before = block.handed
            send(sender, block, most, way)
            self.sent += block.handed - before
            self.most.append(most)

        monkeypatch.setattr(RawSender, "send", spied)


@pytest.fixture
def by_raw(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


def addresses(first: Address, count: int = DESTINATIONS) -> list[Address]:
    return [first + number for number in range(1, count + 1)]


def options_for(protocol: Protocol = Protocol.UDP, **others: int) -> TraceOptions:
    return TraceOptions(protocol=protocol, max_ttl=ROUTERS + 1, attempts=1, source_port=PORT, **others)  # type: ignore[arg-type]  # all of them are numbers


async def probe(bench: Bench, destinations: list[Address], options: TraceOptions) -> tuple[list[ReplyRow], Block]:
    """Send a probe of each TTL to each destination, and wait for as many replies."""
    with bench.probing(bench.way(destinations[0], options), destinations, options) as probing:
        block = probing.launch()
        await probing.send(block)
        return await bench.rows_of(len(block)), block


def unstamped(rows: list[ReplyRow]) -> list[ReplyRow]:
    """Without when they came, in an order of their own."""
    return sorted((row._replace(stamp_ns=0) for row in rows), key=repr)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("protocol", Protocol)
async def test_both_wires_hear_the_same(client: Lab, by_raw: Spy, protocol: Protocol, version: int) -> None:
    options = options_for(protocol)
    heard = {}
    for name, make in WIRES.items():
        with opened(make(options)) as bench:
            rows, block = await probe(bench, addresses(BEHIND[version]), options)
            assert not any(block.errors)
            assert departures(block, 0, len(block)).all()
            assert (bench.counters.foreign, bench.counters.malformed, bench.counters.kernel_drops) == (0, 0, 0)
            heard[name] = unstamped(rows)
    assert heard["raw"] == heard["ring"]
    assert len(heard["raw"]) == DESTINATIONS * (ROUTERS + 1)
    assert by_raw.sent == DESTINATIONS * (ROUTERS + 1)  # those of the raw wire, and none of the ring's
    routers = set().union(*client.truth(version))
    assert {ip_address(row.responder) for row in heard["ring"]} <= routers | set(addresses(BEHIND[version]))


@pytest.mark.parametrize("version", VERSIONS)
async def test_both_wires_stamp_a_reply_alike(client: Lab, version: int) -> None:
    """One sends, both listen: by its cookie each reply is let in at either, whatever its port."""
    destinations = addresses(BEHIND[version], 20)
    with opened(RawWire()) as raw, opened(RingWire()) as ring:
        way = raw.way(destinations[0], options_for())
        with ring.probing(way, destinations, TraceOptions()), raw.probing(way, destinations, options_for()) as probing:
            block = probing.launch()
            await probing.send(block)
            count = len(block)
            assert sorted(await raw.rows_of(count), key=repr) == sorted(await ring.rows_of(count), key=repr)


async def test_stamps_of_both_ends_are_of_one_clock(wire: RawWire | RingWire) -> None:
    options = options_for()
    with ready(wire, addresses(BEHIND[4], 50), options) as (bench, probing):
        block = probing.launch()
        await probing.send(block)
        rows = await bench.rows_of(len(block))
        stamps = departures(block, 0, len(block)).tolist()
        assert stamps == sorted(stamps)
        assert min(row.stamp_ns for row in rows) >= stamps[0]


@pytest.mark.parametrize("version", VERSIONS)
async def test_two_next_hops_in_one_list(wire: RawWire | RingWire, by_raw: Spy, version: int) -> None:
    options = TraceOptions(max_ttl=ROUTERS + 1, attempts=1)
    with opened(wire) as bench:
        ways = bench.wire.ways(Group.of([BEHIND[version] + 1, SECOND[version] + 1]), options)
        first, second = (bench.way(network + 1, options) for network in (BEHIND[version], SECOND[version]))
        assert [ways.kinds[way] for way in ways.of] == [first, second]
        assert (first.interface != second.interface, first.source != second.source) == (True, True)
        far, near = addresses(BEHIND[version], 50), addresses(SECOND[version], 50)
        with bench.probing(first, far, options) as one, bench.probing(second, near, options) as other:
            blocks = one.launch(), other.launch()
            for probing, block in zip((one, other), blocks, strict=True):
                await probing.send(block)
            rows = await bench.rows_of(sum(map(len, blocks)))
    assert by_raw.sent == (sum(map(len, blocks)) if bench.wire.backend == "raw" else 0)
    straight = [row for row in rows if ip_address(row.probe.destination) in near]
    assert len(straight) == len(blocks[1])
    assert {row.quoted_ttl for row in straight} == set(range(1, ROUTERS + 2))  # one hop away at every TTL


@pytest.mark.parametrize("version", VERSIONS)
async def test_loopback_answers_on_both(wire: RawWire | RingWire, version: int) -> None:
    for protocol in Protocol:
        options = TraceOptions(protocol=protocol, max_ttl=3, attempts=1)
        loopback: Address = ip_address({4: "127.0.0.1", 6: "::1"}[version])
        with opened(type(wire)(options)) as bench:
            rows, _ = await probe(bench, [loopback], options)
        assert {row.responder for row in rows} == {loopback.packed}
        assert len(rows) == 3


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_destination_on_the_link_needs_no_router(wire: RawWire | RingWire, by_raw: Spy, version: int) -> None:
    options = TraceOptions(max_ttl=2, attempts=1)
    router = ip_address({4: "10.199.0.2", 6: "fd00:199::2"}[version])
    with opened(wire) as bench:
        assert bench.way(router, options).next_hop is None
        rows, block = await probe(bench, [router], options)
    assert by_raw.sent == len(block)
    assert {row.responder for row in rows} == {router.packed}


async def test_a_router_with_a_link_local_address(wire: RawWire | RingWire, by_raw: Spy, client: Lab) -> None:
    with client.enter("host"):
        (router,) = (line.split()[3] for line in shell("ip -o -6 addr show dev w1 scope link").splitlines())
    shell(f"ip -6 route add fd00:251:7::/48 via {router.split('/')[0]} dev w0")
    try:
        with opened(wire) as bench:
            first: Address = ip_address("fd00:251:7::")
            rows, block = await probe(bench, addresses(first, 5), TraceOptions(max_ttl=2, attempts=1))
    finally:
        shell("ip -6 route del fd00:251:7::/48")
    assert len(rows) == len(block)


# What stands in the way


@pytest.fixture
def slow_queue(client: Lab) -> Iterator[None]:
    """A queue on the way out that holds a dozen probes and drains slowly."""
    shell("tc qdisc add dev v0n root tbf rate 4mbit burst 1600 limit 1000")
    yield
    shell("tc qdisc del dev v0n root")


@pytest.mark.usefixtures("slow_queue")
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_full_queue_loses_nothing_in_silence(wire: RawWire | RingWire, version: int) -> None:
    options = options_for()
    destinations = addresses(BEHIND[version], 50)
    with ready(wire, destinations, options) as (bench, probing):
        block = probing.launch()
        probing.lease.send(block, len(block))
        assert 0 < block.handed < len(block)
        await probing.send(block)
        assert not any(block.errors)
        rows = await bench.rows_of(len(block))
        assert len(rows) == len(block)


async def test_most_is_most(wire: RawWire | RingWire) -> None:
    options = options_for()
    destinations = addresses(BEHIND[4], 50)
    with ready(wire, destinations, options) as (bench, probing):
        block = probing.launch()
        for most, handed in ((0, 0), (1, 1), (40, 41), (100, 141), (10_000, len(block))):
            probing.lease.send(block, most)
            assert block.handed == handed
        await bench.rows_of(len(block))


async def test_a_refused_probe_stands_alone(wire: RawWire | RingWire) -> None:
    """Larger than the interface's MTU: the kernel refuses each of them, and says why."""
    options = options_for(size=3_000)
    destinations = addresses(BEHIND[4], 3)
    with ready(wire, destinations, options) as (_, probing):
        block = probing.launch()
        probing.lease.send(block, len(block))
        assert block.handed == len(block)
        assert {os.strerror(code) for code in block.errors} == {"Message too long"}


async def test_an_interface_that_goes_down_stops_the_block_and_may_come_back(
    wire: RawWire | RingWire, client: Lab
) -> None:
    options = options_for()
    destinations = addresses(SECOND[4], 20)
    with ready(wire, destinations, options) as (bench, probing):
        block = probing.launch()
        probing.lease.send(block, 10)
        await bench.rows_of(10)
        default = shell("ip route show default").strip()
        shell(f"ip route del {default}; ip link set w0 down")
        try:
            probing.lease.send(block, len(block))
            assert block.handed == 11
            assert block.errors[10]
        finally:
            shell(f"ip link set w0 up; ip route add {default}; ip route add 10.251.0.0/16 via 10.199.0.2")
            shell("ip -6 addr add fd00:199::1/64 dev w0 nodad; ip -6 route add fd00:251::/32 via fd00:199::2")
        await probing.send(block)
        assert not any(block.errors[11:])
        await bench.rows_of(len(block) - 1)


async def test_a_next_hop_that_nobody_has_is_left_to_the_kernel(client: Lab, by_raw: Spy) -> None:
    shell("ip route add 10.66.0.0/16 via 10.199.0.77")
    options = options_for()
    try:
        with ready(RingWire(), addresses(ip_address("10.66.0.0"), 50), options) as (_, probing):
            block = probing.launch()
            probing.lease.send(block, len(block))
            assert block.handed == by_raw.sent == rings.MOST_UNRESOLVED
    finally:
        shell("ip route del 10.66.0.0/16")


async def test_a_next_hop_is_resolved_and_then_used(client: Lab, by_raw: Spy) -> None:
    shell("ip neigh flush dev w0")
    options = options_for()
    destinations = addresses(SECOND[4])
    with ready(RingWire(), destinations, options) as (bench, probing):
        block = probing.launch()
        await probing.send(block)
        assert len(await bench.rows_of(len(block))) == len(block)
    assert by_raw.sent < len(block)


async def test_the_neighbour_table_stays_as_it_was(client: Lab) -> None:
    options = options_for()
    before = shell("ip neigh show nud permanent")
    with opened(RingWire()) as bench:
        rows, block = await probe(bench, addresses(BEHIND[4], 5), options)
    assert len(rows) == len(block)
    assert before
    assert shell("ip neigh show nud permanent") == before


async def test_a_router_that_fails_over_is_followed(client: Lab, by_raw: Spy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "READ_AGAIN_S", 0.0)
    options = options_for()
    destinations = addresses(SECOND[4], 10)
    with ready(RingWire(), destinations, options) as (bench, probing):
        block = probing.launch()
        probing.lease.send(block, 30)
        await bench.rows_of(30)
        with client.enter("host"):
            shell("ip link set dev w1 address 02:00:00:00:99:99")
        shell("ip neigh replace 10.199.0.2 lladdr 02:00:00:00:99:99 dev w0")
        sent = by_raw.sent
        probing.lease.send(block, 30)
        await bench.rows_of(60)
        assert by_raw.sent == sent


@pytest.fixture
def narrow_way_back(client: Lab) -> Iterator[None]:
    """The host's answers leave it in fragments."""
    route = "route change 10.200.0.0/24 via 10.200.5.1"
    shell(f"ip -n {client.nodes['host']} {route} mtu lock 1000")
    yield
    shell(f"ip -n {client.nodes['host']} {route}")


@pytest.mark.usefixtures("narrow_way_back")
async def test_answers_in_fragments_are_whole(wire: RawWire | RingWire) -> None:
    options = options_for(Protocol.ICMP, size=1_500)
    destinations = addresses(BEHIND[4], 5)
    with ready(type(wire)(options), destinations, options) as (bench, probing):
        block = probing.launch([probing.plan.slot(course, ROUTERS + 1, 0) for course in range(len(destinations))])
        await probing.send(block)
        rows = await bench.rows_of(len(block))
        assert bench.lengths[0] == options.size
    assert {row.responder for row in rows} == {address.packed for address in destinations}


@pytest.mark.parametrize("name", WIRES)
async def test_what_finds_no_room_is_counted(
    client: Lab, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(receiving, "RECEIVE_BUFFER", 4_096)
    monkeypatch.setattr(packet_ring, "LEAST_BLOCK_SIZE", 4_096)
    monkeypatch.setattr(packet_ring, "MOST_BLOCK_SIZE", 4_096)
    monkeypatch.setattr(packet_ring, "BLOCKS", 2)
    options = options_for()
    destinations = addresses(BEHIND[4])
    with ready(WIRES[name](), destinations, options) as (bench, probing):
        block = probing.launch()
        while block.handed < len(block):  # and the loop does not run
            probing.lease.send(block, len(block))
        while bench.counters.kernel_drops + len(bench.rows) < len(block):
            await asyncio.sleep(0)
            bench.read()
            probing.lease.expect(COOKIE)  # raw sockets are asked when the filter changes
    assert bench.counters.kernel_drops > 0
    assert bench.counters.kernel_drops + len(bench.rows) == len(block)
    assert "receive buffer was full" in caplog.text


# Other links


async def test_a_device_without_link_header(by_raw: Spy) -> None:
    with tun_internet("chain") as lab, lab.enter():
        for version, destination in lab.destinations.items():
            for make in WIRES.values():
                by_raw.sent = 0
                options = TraceOptions(max_ttl=3, attempts=1)
                with opened(make()) as bench:
                    rows, block = await probe(bench, [destination], options)
                assert {ip_address(row.responder) for row in rows} <= set().union(*lab.truth(version))
                assert by_raw.sent == (len(block) if make is RawWire else 0)


@pytest.mark.parametrize("version", VERSIONS)
async def test_flows_stay_on_one_branch(version: int) -> None:
    options = TraceOptions(max_ttl=4, attempts=3)
    with diamond(4, limits="off") as lab, lab.enter():
        for make in WIRES.values():
            with ready(make(), [lab.destinations[version]], options) as (bench, probing):
                async with asyncio.timeout(PATIENCE_S):
                    while len({row.probe.mark for row in bench.rows}) < probing.plan.slots:  # new links take a moment
                        await probing.send(probing.launch())
                        await asyncio.sleep(0.01)
                        bench.read()
            assert len({row.responder for row in bench.rows}) == 4


# Beginning and end


def descriptors() -> set[str]:
    """Numbers of all that is open, and what each is."""
    numbers = [entry.name for entry in os.scandir("/proc/self/fd")]
    return {f"{number} {os.readlink(path)}" for number in numbers if os.path.lexists(path := f"/proc/self/fd/{number}")}


async def test_close_leaves_nothing_open(wire: RawWire | RingWire) -> None:
    wire = type(wire)(options_for(Protocol.ICMP, size=1_500))
    before = descriptors()
    wire.open(Counters())
    options = options_for()
    (way,) = wire.ways(Group.of([BEHIND[4] + 1]), options).kinds
    assert isinstance(way, tuple)
    first, second = wire.lease(way, options), wire.lease(way, TraceOptions(protocol=Protocol.TCP))
    assert descriptors() > before
    first.close()
    first.close()
    wire.close()
    second.close()
    assert descriptors() == before


async def test_leases_that_are_out_are_closed_with_the_wire(wire: RawWire | RingWire) -> None:
    options = options_for()
    wire.open(Counters())
    (way,) = wire.ways(Group.of([BEHIND[4] + 1]), options).kinds
    assert isinstance(way, tuple)
    wire.lease(way, options)
    with pytest.raises(UsageError, match="in use"):
        wire.lease(way, options)
    wire.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", PORT))


async def test_the_first_that_can_be_opened_is_the_best(client: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    options = options_for()
    for backend in ("auto", "ring", "raw"):
        wire = open_wire(backend, options, Counters())
        wire.close()
        assert wire.backend == (backend if backend != "auto" else "ring")

    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "not here")

    monkeypatch.setattr(packet_ring.PacketRing, "__init__", refuse)
    wire = open_wire("auto", options, Counters())
    wire.close()
    assert wire.backend == "raw"
    with pytest.raises(PrivilegeError):
        open_wire("ring", options, Counters())
    with pytest.raises(UsageError, match="backend"):
        open_wire("pigeons", options, Counters())


async def test_too_many_windows_are_refused(wire: RawWire | RingWire) -> None:
    options = TraceOptions()
    wire.open(Counters())
    try:
        (way,) = wire.ways(Group.of([BEHIND[4] + 1]), options).kinds
        assert isinstance(way, tuple)
        for number in range(MOST_LEASES):
            wire.lease(way, options).expect(number.to_bytes(4))
        with pytest.raises(CapacityError):
            wire.lease(way, options)
    finally:
        wire.close()


WITHOUT_PRIVILEGE = """
import asyncio, sys
from ipaddress import ip_address
from allhops.net.privileges import drop_to_caller
from allhops.options import TraceOptions
from allhops.model import Protocol
from tests.lab.wires import WIRES, opened
import allhops.core.lanes.dissect

async def main(name, protocol, *destinations):
    options = TraceOptions(protocol=Protocol(protocol), max_ttl=3, attempts=1)
    with opened(WIRES[name](options)) as bench:
        assert drop_to_caller({"SUDO_UID": "65534", "SUDO_GID": "65534"})
        for destination in map(ip_address, destinations):
            bench.rows.clear()
            with bench.probing(bench.way(destination, options), [destination], options) as probing:
                block = probing.launch()
                await probing.send(block)
                assert not any(block.errors)
                await bench.rows_of(len(block))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize("name", WIRES)
def test_what_is_open_works_on_without_privilege(lab: Lab, name: str, protocol: Protocol) -> None:
    """As after sudo: sockets are opened, then privileges are dropped, then windows begin."""
    destinations = [str(network[version] + 1) for version in VERSIONS for network in (BEHIND, SECOND)]
    root = pathlib.Path(__file__).parents[2]
    environment = importing_us()
    environment["PYTHONPATH"] += f"{os.pathsep}{root}"
    argv = [sys.executable, "-c", WITHOUT_PRIVILEGE, name, protocol.value, *destinations]
    done = lab.run(argv, env=environment)
    assert done.returncode == 0, done.stderr
