"""ICMP and TCP over raw sockets, against real kernels: a listening socket, a closed port, ten traces at once."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import allhops
from allhops.model import Evidence, PortState, ProbeState, Protocol, ReplyKind, StopReason, Trace
from allhops.net.prober import Prober
from allhops.testing.namespaces import chain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.testing.namespaces import Lab

pytestmark = pytest.mark.lab

VERSIONS = (4, 6)
ROUTERS = 4
OPEN_PORT, CLOSED_PORT = 80, 81

LISTENER = f"""
import socket, sys
server = socket.create_server(("::", {OPEN_PORT}), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
print("listening", flush=True)
sys.stdin.read()
server.settimeout(0)
try:
    server.accept()
    print("accepted")
except BlockingIOError:
    print("none")
"""


@pytest.fixture(scope="module")
def free_chain() -> Iterator[Lab]:
    with chain(ROUTERS, limits="off") as lab:
        yield lab


@pytest.fixture
def client(free_chain: Lab) -> Iterator[Lab]:
    with free_chain.enter():
        yield free_chain


@pytest.fixture
def listener(client: Lab) -> Iterator[subprocess.Popen[str]]:
    command = ["ip", "netns", "exec", client.nodes["host"], sys.executable, "-c", LISTENER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "listening\n"
        yield program
        program.kill()


def assert_is_the_truth(trace: Trace, lab: Lab, version: int) -> None:
    assert trace.stop_reason is StopReason.REACHED
    truth = lab.truth(version)
    assert len(trace.hops) == len(truth)
    for hop, possible in zip(trace.hops, truth, strict=True):
        assert {probe.state for probe in hop.probes} == {ProbeState.ANSWERED}
        assert {probe.reply.address for probe in hop.probes if probe.reply} == possible


@pytest.mark.parametrize("version", VERSIONS)
async def test_icmp(client: Lab, version: int) -> None:
    trace = await allhops.trace(client.destinations[version], protocol=Protocol.ICMP)
    assert_is_the_truth(trace, client, version)
    assert trace.flow is not None
    assert trace.flow.destination_port is None
    for hop in trace.hops:
        for probe in hop.probes:
            assert probe.reply is not None
            assert {Evidence.DST, Evidence.COOKIE, Evidence.SEQUENCE, Evidence.IDENTIFIER} <= set(probe.reply.matched)
            assert probe.reply.flags == ()
    assert trace.hops[-1].probes[0].reply is not None
    assert trace.hops[-1].probes[0].reply.kind is ReplyKind.DESTINATION


@pytest.mark.parametrize("version", VERSIONS)
async def test_tcp_to_an_open_port_leaves_nothing_behind(
    client: Lab, listener: subprocess.Popen[str], version: int
) -> None:
    """Our kernel resets what the SYN-ACKs open: no half-open connection stays, and no connection is ever accepted."""
    trace = await allhops.trace(client.destinations[version], protocol=Protocol.TCP)
    assert_is_the_truth(trace, client, version)
    last = trace.hops[-1].probes[0].reply
    assert last is not None
    assert last.port_state is PortState.OPEN
    assert last.matched == ("dst", "ports", "cookie", "sequence")  # Linux echoes the timestamp
    states = client.run(["ss", "-Htan", "state", "all"], node="host").stdout.split("\n")
    assert [line.split()[0] for line in states if line] == ["LISTEN"]
    said, _ = listener.communicate(timeout=10)
    assert said == "none\n"


@pytest.mark.parametrize("version", VERSIONS)
async def test_tcp_to_a_closed_port(client: Lab, version: int) -> None:
    trace = await allhops.trace(client.destinations[version], protocol=Protocol.TCP, destination_port=CLOSED_PORT)
    assert_is_the_truth(trace, client, version)
    last = trace.hops[-1].probes[0].reply
    assert last is not None
    assert last.port_state is PortState.CLOSED
    assert last.matched == ("dst", "ports", "sequence")


@pytest.mark.parametrize("version", VERSIONS)
async def test_traces_of_every_protocol_side_by_side_take_nothing_from_each_other(
    client: Lab, listener: subprocess.Popen[str], version: int
) -> None:
    async with Prober() as prober:
        traces = await asyncio.gather(
            *(prober.trace(client.destinations[version], protocol=protocol) for protocol in Protocol for _ in range(7))
        )
        assert prober.counters.forged == prober.counters.malformed == 0
    for trace in traces:
        assert_is_the_truth(trace, client, version)
    flows = {(trace.protocol, trace.flow.source_port) for trace in traces if trace.flow}
    assert len(flows) == 21


@pytest.mark.parametrize("version", VERSIONS)
async def test_other_peoples_tcp_does_not_reach_us(client: Lab, listener: subprocess.Popen[str], version: int) -> None:
    async with Prober() as prober:
        await prober.trace(client.destinations[version], protocol=Protocol.TCP)
        foreign = prober.counters.foreign
        for _ in range(20):
            with socket.create_connection((str(client.destinations[version]), OPEN_PORT)) as stranger:
                stranger.send(b"hello")
        prober._on_readable()
        assert prober.counters.foreign == foreign


@pytest.mark.parametrize("protocol", [Protocol.ICMP, Protocol.TCP])
async def test_a_chosen_source_port_or_identifier_is_the_flows(client: Lab, protocol: Protocol) -> None:
    trace = await allhops.trace(client.destinations[4], protocol=protocol, source_port=50_123)
    assert_is_the_truth(trace, client, 4)
    assert trace.flow is not None
    assert trace.flow.source_port == 50_123


async def test_an_identifier_in_use_is_refused(client: Lab) -> None:
    async with Prober() as prober:
        options = allhops.TraceOptions(protocol=Protocol.ICMP, source_port=4711)
        lease = prober.transport.lease(client.destinations[4], options)
        with pytest.raises(allhops.UsageError, match="identifier 4711 is in use"):
            prober.transport.lease(client.destinations[4], options)
        lease.close()


async def test_a_flow_label_is_for_ipv6(client: Lab) -> None:
    trace = await allhops.trace(client.destinations[6], flow_label=0x12345)
    assert_is_the_truth(trace, client, 6)
    with pytest.raises(allhops.UsageError, match="leave it out, or ask for IPv6"):
        await allhops.trace(client.destinations[4], flow_label=0x12345)
