"""Windows of many destinations without any privilege, over real routers: nothing lost, all as raw sockets see it."""

from __future__ import annotations

import asyncio
import errno
import json
import pathlib
import sys
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest

from allhops.core.lanes.hearsay import NAMED_ALONE
from allhops.core.lanes.scalar import ScalarLane
from allhops.core.ledger import ANSWERED, IN_FLIGHT, Counters, Ledger
from allhops.core.plan import Plan
from allhops.errors import AllhopsError, SendError
from allhops.model import Protocol
from allhops.net.batch.group import Group
from allhops.net.errqueue.batch import ErrorQueueWire
from allhops.options import TraceOptions
from allhops.testing.namespaces import Lab, chain, tun_internet
from allhops.wire.probes import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.lab

PROGRAM = str(pathlib.Path(__file__).with_name("unprivileged_window.py"))
ROUTERS = 4
NETWORKS = {4: "10.77.0.0/16", 6: "fd00:77::/64"}
FEW, MANY = 40, 300
BOTH = pytest.mark.parametrize("version", [4, 6])
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
PROTOCOLS = pytest.mark.parametrize("protocol", ["udp", "icmp"])
PATIENCE_S = 5.0
NOT_COMPARED = ("hearsay", "rtt_ms")


def open_ping_groups(lab: Lab) -> None:
    with lab.enter():
        pathlib.Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")


@pytest.fixture(scope="module")
def routers() -> Iterator[Lab]:
    """A chain whose host has all addresses of two networks."""
    with chain(ROUTERS, limits="off") as lab:
        open_ping_groups(lab)
        for version, network in NETWORKS.items():
            words = ["ip", f"-{version}", "route", "add", "local", network, "dev", "lo"]
            assert lab.run(words, node="host").returncode == 0
        yield lab


def destinations(version: int, count: int) -> list[str]:
    network = ip_network(NETWORKS[version])
    return [str(network[1 + nth]) for nth in range(count)]


def run(lab: Lab, *words: object) -> dict[str, Any]:
    result = lab.run([sys.executable, PROGRAM, *map(str, words)])
    assert result.returncode == 0, result.stderr
    told: dict[str, Any] = json.loads(result.stdout)
    return told


@BOTH
@LOOPS
@PROTOCOLS
def test_what_nobody_may_see_is_what_root_sees(routers: Lab, protocol: str, loop: str, version: int) -> None:
    words = (*destinations(version, FEW), "--protocol", protocol, "--loop", loop, "--max-ttl", ROUTERS + 2)
    without, with_root = run(routers, *words), run(routers, *words, "--raw")
    assert not any(without["capabilities"].values())
    assert set(without["ways"]) == {routers.sources[version].packed.hex()}
    (window,), (expected,) = without["windows"], with_root["windows"]
    for column in expected:
        if column not in NOT_COMPARED:
            assert window[column] == expected[column], column
    truth = [str(address) for hop in routers.truth(version) for address in hop]
    assert set(window["state"]) == {ANSWERED}
    for ttl, responder in zip(window["ttl"], window["responder"], strict=True):
        # Over IPv6 the host sends its errors from an address of its own.
        assert responder == truth[ttl - 1] if ttl <= ROUTERS else responder in (truth[-1], *words)


@BOTH
@PROTOCOLS
def test_windows_at_once_lose_nothing_and_never_mix(routers: Lab, protocol: str, version: int) -> None:
    """Four leases with the same cookie, thousands of probes: nearly every send meets a pending error."""
    words = (*destinations(version, MANY), "--protocol", protocol, "--windows", 4, "--max-ttl", ROUTERS + 1)
    told = run(routers, *words)
    assert len(told["windows"]) == 4
    for window in told["windows"]:
        assert set(window["state"]) == {ANSWERED}
        assert set(window["error"]) == {0}
    counters = told["counters"]
    assert counters["matched"] == 4 * MANY * (ROUTERS + 1)
    others = ("foreign", "forged", "unnamed", "malformed", "duplicate", "late", "kernel_drops")
    assert not any(counters[name] for name in others), counters


@BOTH
def test_a_ttl_asked_alone_is_named_although_its_router_quotes_8_bytes(version: int) -> None:
    """In the burst the replies of rows 2 and 3 name nobody; those of 4 and 5 quote too little for any socket."""
    with tun_internet("short_quotes") as lab:
        possible = [{str(address) for address in hop if address} for hop in lab.truth(version)]
        told = run(lab, lab.destinations[version], "--timeout", 0.5, "--again", 2)
    (window,) = told["windows"]
    assert [state == ANSWERED for state in window["state"]] == [True, False, False, False, False, True]
    for responder, state, may_be in zip(window["responder"], window["state"], possible, strict=False):
        assert state != ANSWERED or responder in may_be
    assert told["counters"]["unnamed"] == 2
    ((responder, answered),) = told["again"]
    assert answered
    assert responder in possible[1]
    assert told["again_hearsay"][0] & NAMED_ALONE


@BOTH
@PROTOCOLS
def test_what_is_larger_than_the_interface_takes_says_so(routers: Lab, protocol: str, version: int) -> None:
    """EMSGSIZE is told on the error queue as well, by this machine: that explains no pending error."""
    words = (*destinations(version, 3), "--protocol", protocol, "--size", 1_501, "--dont-fragment", "--max-ttl", 2)
    (window,) = run(routers, *words)["windows"]
    assert window["error"] == [errno.EMSGSIZE] * 6


def test_closed_ping_groups_say_what_would_open_them() -> None:
    with chain(1, limits="off") as lab:
        result = lab.run([sys.executable, PROGRAM, str(lab.destinations[4]), "--protocol", "icmp"])
    assert result.returncode != 0
    assert "PrivilegeError" in result.stderr
    assert "ping_group_range='0 2147483647'" in result.stderr


def test_labels_are_read_from_the_error_queue() -> None:
    with tun_internet("mpls") as lab:
        words = (lab.destinations[4], "--max-ttl", len(lab.truth(4)))
        (window,), (expected,) = run(lab, *words)["windows"], run(lab, *words, "--raw")["windows"]
    assert window["extensions"] == expected["extensions"]
    assert any("label" in text for text in window["extensions"])


def test_a_destination_without_a_way_stands_in_the_place_of_its_way(routers: Lab) -> None:
    network = "203.0.113.0/24"
    with routers.enter():
        wire = ErrorQueueWire()
        assert routers.run(["ip", "route", "add", "unreachable", network]).returncode == 0
        near, none = wire.ways(Group.of([ip_address("10.77.0.1"), ip_address("203.0.113.1")]), TraceOptions()).kinds
    assert not isinstance(near, AllhopsError)
    assert isinstance(none, SendError)


async def test_link_local_destinations_are_on_the_interface_of_their_way(routers: Lab) -> None:
    for node, device, address in (("client", "v0n", "fe80::1"), ("r1", "v0f", "fe80::2")):
        words = ["ip", "-6", "addr", "replace", f"{address}/64", "dev", device, "nodad"]
        assert routers.run(words, node=node).returncode == 0
    destination, counters = ip_address("fe80::2%v0n"), Counters()
    with routers.enter():
        wire = ErrorQueueWire()
        wire.open(counters)
        try:
            (way,) = wire.ways(Group.of([destination]), TraceOptions()).kinds
            assert not isinstance(way, AllhopsError)
            lease = wire.lease(way, TraceOptions())
            plan = Plan(
                layout=LAYOUTS[Protocol.UDP, 6],
                options=TraceOptions(),
                destinations=(destination.packed,),
                source=lease.source,
                source_ports=(lease.source_port,),
                key=1,
                cookie=b"lab!",
                size=80,
            )
            lane, ledger = ScalarLane(counters), Ledger(plan.slots, counters)
            block = lane.launch(plan, [plan.slot(0, 1, 0)])
            ledger.state[0] = IN_FLIGHT
            lease.send(block, 1)
            assert (block.handed, block.errors[0]) == (1, 0)
            async with asyncio.timeout(PATIENCE_S):
                while ledger.state[0] == IN_FLIGHT:
                    await asyncio.sleep(0.001)
                    answered = [lane.record(plan, ledger, lane.unpack(ring)) for ring in wire.receive()]
            assert answered == [[0]]
        finally:
            wire.close()
