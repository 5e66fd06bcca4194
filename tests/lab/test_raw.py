"""Raw sockets against real kernels, and against the TUN internet's real delays."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import allhops
from allhops.errors import CapacityError, SendError, UsageError
from allhops.model import ProbeState, ReplyKind, StopReason, Trace
from allhops.net.prober import Prober
from allhops.testing.namespaces import chain, diamond, tun_internet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.testing.namespaces import Lab

pytestmark = pytest.mark.lab

VERSIONS = (4, 6)
ROUTERS = 6


@pytest.fixture
def fresh_chain() -> Iterator[Lab]:
    """Routers and a host with the kernel's default limits, none of them used up."""
    with chain(ROUTERS) as lab, lab.enter():
        yield lab


@pytest.fixture(scope="module")
def free_chain() -> Iterator[Lab]:
    """Routers and a host that answer everything."""
    with chain(ROUTERS, limits="off") as lab:
        yield lab


@pytest.fixture
def client(free_chain: Lab) -> Iterator[Lab]:
    with free_chain.enter():
        yield free_chain


def assert_is_the_truth(trace: Trace, lab: Lab, *, complete: bool = True) -> None:
    truth = lab.truth(trace.address.version if trace.address else 4)
    assert len(trace.hops) == len(truth)
    for hop, possible in zip(trace.hops, truth, strict=True):
        heard = {probe.reply.address if probe.reply else None for probe in hop.probes}
        assert heard <= (possible if complete else possible | {None}), hop


@pytest.mark.parametrize("version", VERSIONS)
async def test_default_limits_show_every_hop_with_three_rtts(fresh_chain: Lab, version: int) -> None:
    trace = await allhops.trace(fresh_chain.destinations[version])
    assert trace.stop_reason is StopReason.REACHED
    assert_is_the_truth(trace, fresh_chain)
    for hop in trace.hops:
        assert [probe.state for probe in hop.probes] == [ProbeState.ANSWERED] * 3
    assert {probe.reply.kind for probe in trace.hops[-1].probes if probe.reply} == {ReplyKind.DESTINATION}


@pytest.mark.parametrize("version", VERSIONS)
async def test_reply_and_quoted_ttl_are_those_of_the_packets(client: Lab, version: int) -> None:
    trace = await allhops.trace(client.destinations[version])
    for hop in trace.hops:
        for probe in hop.probes:
            assert probe.reply is not None
            assert probe.reply.reply_ttl == 64 - (hop.ttl - 1)
            assert probe.reply.quoted_ttl == probe.probe_ttl - (hop.ttl - 1)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_diamond_shows_one_path_that_exists(version: int) -> None:
    with diamond(4, limits="off") as lab, lab.enter():
        for _ in range(10):
            trace = await allhops.trace(lab.destinations[version])
            assert_is_the_truth(trace, lab)
            for hop in trace.hops:
                assert len({probe.reply.address for probe in hop.probes if probe.reply}) == 1


@pytest.mark.parametrize("version", VERSIONS)
async def test_twenty_traces_at_once_do_not_mix(client: Lab, version: int) -> None:
    async with Prober() as prober:
        traces = await asyncio.gather(*(prober.trace(client.destinations[version]) for _ in range(20)))
        assert prober.counters.forged == 0
    for trace in traces:
        assert_is_the_truth(trace, client)


def test_two_processes_do_not_mix(client: Lab) -> None:
    program = (
        "import asyncio, sys, allhops\n"
        "async def main():\n"
        "    for _ in range(5):\n"
        "        traces = await allhops.trace_many(sys.argv[1:] * 10, rate_pps=None)\n"
        "        for trace in traces:\n"
        "            print(*(probe.reply.address for hop in trace.hops for probe in hop.probes))\n"
        "asyncio.run(main())\n"
    )
    arguments = [sys.executable, "-c", program, str(client.destinations[4])]
    processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    expected = " ".join(str(address) for hop in client.truth(4) for address in hop for _ in range(3))
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert output.splitlines() == [expected] * 50


def shell(command: str) -> str:
    """Output of a command in the namespace that this thread is in."""
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout


@pytest.fixture
def firewall(client: Lab) -> Iterator[None]:
    """Drops our own UDP before it leaves."""
    shell("nft add table inet allhops")
    shell("nft add chain inet allhops out { type filter hook output priority 0 ; }")
    shell("nft add rule inet allhops out meta l4proto udp drop")
    yield
    shell("nft delete table inet allhops")


@pytest.fixture
def dead_end(client: Lab, request: pytest.FixtureRequest) -> Iterator[str]:
    """An address whose route is of the asked kind."""
    shell(f"ip route add {request.param} 198.51.100.0/24")
    yield "198.51.100.1"
    shell(f"ip route del {request.param} 198.51.100.0/24")


@pytest.fixture
def slow_queue(client: Lab) -> Iterator[None]:
    """A queue on the way out that holds a dozen probes and drains slowly."""
    device = shell(f"ip -o -4 addr show to {client.sources[4]}").split()[1]
    shell(f"tc qdisc add dev {device} root tbf rate 400kbit burst 1600 limit 1000")
    yield
    shell(f"tc qdisc del dev {device} root")


@pytest.fixture
def broadcast(client: Lab) -> Iterator[str]:
    shell("ip addr add 198.18.9.1/24 brd 198.18.9.255 dev lo")
    yield "198.18.9.255"
    shell("ip addr del 198.18.9.1/24 dev lo")


@pytest.fixture
def no_file_left() -> Iterator[None]:
    """The next file descriptor would be one too many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("firewall")
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_local_firewall_is_not_silence(client: Lab, version: int) -> None:
    trace = await allhops.trace(client.destinations[version])
    assert trace.stop_reason is StopReason.LOCAL_ERROR
    assert "firewall" in (trace.error or "")


@pytest.mark.parametrize(
    ("dead_end", "sentence"),
    [("blackhole", "discards"), ("prohibit", "prohibited"), ("unreachable", "no route")],
    indirect=["dead_end"],
)
async def test_routes_that_lead_nowhere_say_so(dead_end: str, sentence: str) -> None:
    with pytest.raises(SendError, match=sentence):
        await allhops.trace(dead_end)
    (trace,) = await allhops.trace_many([dead_end])
    assert trace.stop_reason is StopReason.LOCAL_ERROR


@pytest.mark.usefixtures("slow_queue")
async def test_a_full_local_queue_is_not_silence(client: Lab) -> None:
    """Every probe is sent in the end, and none is printed as silence."""
    assert_is_the_truth(await allhops.trace(client.destinations[4]), client)


async def test_broadcast_is_refused_with_the_reason(broadcast: str) -> None:
    with pytest.raises(UsageError, match="broadcast"):
        await allhops.trace(broadcast)


async def test_source_and_interface_that_are_not_ours(client: Lab) -> None:
    destination = client.destinations[4]
    with pytest.raises(UsageError, match="not an address of this machine"):
        await allhops.trace(destination, source="198.51.100.77")
    with pytest.raises(UsageError, match="no interface"):
        await allhops.trace(destination, interface="nosuch0")
    with pytest.raises(UsageError, match="IPv6"):
        await allhops.trace(destination, source="2001:db8::1")


async def test_a_chosen_source_port_is_used(client: Lab) -> None:
    trace = await allhops.trace(client.destinations[4], source_port=45_678)
    assert trace.flow is not None
    assert trace.flow.source_port == 45_678


async def test_a_source_port_that_is_in_use_is_refused(client: Lab) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("0.0.0.0", 45_678))
        with pytest.raises(UsageError, match="in use"):
            await allhops.trace(client.destinations[4], source_port=45_678)


async def test_too_many_files_is_a_capacity_error(client: Lab, request: pytest.FixtureRequest) -> None:
    async with Prober() as prober:
        request.getfixturevalue("no_file_left")
        with pytest.raises(CapacityError, match="ulimit"):
            await prober.trace(client.destinations[4])


async def test_nothing_stays_open(client: Lab) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for version in VERSIONS:
        await allhops.trace(client.destinations[version])
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("scenario", ["chain", "silent_hops", "slow_first_hop", "diamond_flow", "rate_limited"])
async def test_the_tun_internet_shows_the_truth(scenario: str, version: int) -> None:
    with tun_internet(scenario) as lab, lab.enter():
        trace = await allhops.trace(lab.destinations[version])
    assert_is_the_truth(trace, lab)


@pytest.mark.parametrize("version", VERSIONS)
async def test_rtts_are_the_truth(version: int) -> None:
    """Never shorter than the path, and on time in at least one of ten traces: a busy machine can only add to an RTT."""
    rtts_ms: dict[int, list[float]] = {}
    with tun_internet("chain") as lab, lab.enter():
        assert lab.internet is not None
        truth = lab.internet.truth(lab.destinations[version])
        for _ in range(10):
            trace = await allhops.trace(lab.destinations[version])
            for hop in trace.hops:
                replies = [probe.reply for probe in hop.probes if probe.reply is not None]
                rtts_ms.setdefault(hop.ttl, []).extend((reply.rtt_ns or 0) / 1e6 for reply in replies)
    errors_ms = [min(rtts_ms[expected.ttl]) - expected.rtt_ns / 1e6 for expected in truth]
    assert min(errors_ms) > -0.05
    assert max(errors_ms) < 0.3
    assert statistics.median(errors_ms) < 0.1
