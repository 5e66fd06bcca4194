"""Path MTU discovery against real kernels: small links, black holes, tunnels, and what the kernel remembers."""

from __future__ import annotations

import json
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from allhops.model import Protocol, StopReason
from allhops.net.interface_mtu import interface_mtu
from allhops.net.prober import Prober
from allhops.options import TraceOptions
from allhops.testing.namespaces import chain, tun_internet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.model import Trace
    from allhops.testing.namespaces import Lab

pytestmark = pytest.mark.lab

VERSIONS = (4, 6)
BACKENDS = ("raw", "errqueue")
PROTOCOLS = (Protocol.UDP, Protocol.ICMP)
ROUTERS = 5
NARROW, NARROWER = 1400, 1300
EXPECTED = [1500] * 2 + [NARROW] * 2 + [NARROWER] * 2
PROGRAM = str(Path(__file__).with_name("unprivileged.py"))


def ip(lab: Lab, node: str, command: str) -> None:
    result = lab.run(["ip", *command.split()], node=node)
    assert result.returncode == 0, result.stderr


def narrow(lab: Lab, number: int, mtu: int) -> None:
    """Set the MTU of the link behind a router, at both of its ends."""
    far = "host" if number == ROUTERS else f"r{number + 1}"
    ip(lab, f"r{number}", f"link set v{number}n mtu {mtu}")
    ip(lab, far, f"link set v{number}f mtu {mtu}")


@contextmanager
def two_bottlenecks(limits: Any = "off") -> Iterator[Lab]:
    with chain(ROUTERS, limits=limits) as lab:
        narrow(lab, 2, NARROW)
        narrow(lab, 4, NARROWER)
        lab.run(["sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"])
        yield lab


@pytest.fixture(scope="module")
def narrow_chain() -> Iterator[Lab]:
    with two_bottlenecks() as lab:
        yield lab


@pytest.fixture
def client(narrow_chain: Lab) -> Iterator[Lab]:
    with narrow_chain.enter():
        yield narrow_chain


async def discover(destination: object, backend: str, protocol: Protocol = Protocol.UDP) -> Trace:
    async with Prober(backend=backend) as prober:
        trace = await prober.trace(str(destination), discover_mtu=True, protocol=protocol)
        assert prober.counters.forged == 0
        return trace


def sizes(trace: Trace) -> list[int | None]:
    return [hop.mtu for hop in trace.hops]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("version", VERSIONS)
async def test_every_hop_has_its_mtu_whatever_the_kernel_remembers(
    client: Lab, version: int, backend: str, protocol: Protocol
) -> None:
    """Also the second time, when the kernel's own idea of the path is its narrowest link."""
    for _ in range(2):
        trace = await discover(client.destinations[version], backend, protocol)
        assert trace.stop_reason is StopReason.REACHED
        assert sizes(trace) == EXPECTED
        assert trace.path_mtu == NARROWER
        for hop, possible in zip(trace.hops, client.truth(version), strict=True):
            assert {probe.reply.address for probe in hop.probes if probe.reply} == possible
            assert all(probe.reply for probe in hop.probes)
    assert "mtu 1300" in client.run(["ip", "route", "get", str(client.destinations[version])]).stdout


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("version", VERSIONS)
async def test_default_limits_are_enough(version: int, protocol: Protocol) -> None:
    with two_bottlenecks("default") as lab, lab.enter():
        trace = await discover(lab.destinations[version], "raw", protocol)
        assert sizes(trace) == EXPECTED
        assert all(probe.reply for hop in trace.hops for probe in hop.probes)


@pytest.mark.needs("traceroute")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_text_is_that_of_traceroute(client: Lab, version: int) -> None:
    destination = str(client.destinations[version])
    theirs = client.run(["traceroute", "--mtu", "-n", destination]).stdout
    ours = client.run([sys.executable, "-m", "allhops", "--mtu", "-n", destination]).stdout
    assert without_times(ours) == without_times(theirs)
    assert ours.count(" F=") == 3


def without_times(text: str) -> list[str]:
    return re.sub(r"\d+\.\d{3} ms", "TIME ms", text).rstrip("\n").splitlines()


@pytest.mark.needs("tracepath")
@pytest.mark.parametrize("version", VERSIONS)
async def test_the_path_mtu_is_that_of_tracepath(client: Lab, version: int) -> None:
    destination = str(client.destinations[version])
    theirs = re.search(r"Resume: pmtu (\d+)", client.run(["tracepath", "-n", destination]).stdout)
    assert theirs is not None
    assert (await discover(destination, "raw")).path_mtu == int(theirs[1])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_black_hole(version: int, backend: str, protocol: Protocol) -> None:
    """A firewall that eats "fragmentation needed" and "packet too big", in a world of default limits."""
    with chain(ROUTERS) as lab, lab.enter():
        lab.run(["sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"])
        narrow(lab, 3, 1411)
        for rule in ("icmp type destination-unreachable icmp code frag-needed", "icmpv6 type packet-too-big"):
            for line in ("add table inet t", "add chain inet t o { type filter hook output priority 0 ; }"):
                assert lab.run(["nft", *line.split()], node="r3").returncode == 0
            assert lab.run(["nft", *f"add rule inet t o {rule} drop".split()], node="r3").returncode == 0
        trace = await discover(lab.destinations[version], backend, protocol)
        assert trace.stop_reason is StopReason.REACHED
        assert sizes(trace) == [1500] * 3 + [1411] * 3
        assert trace.path_mtu == 1411


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_without_privilege(client: Lab, version: int, backend: str) -> None:
    """As nobody: "auto" falls back, and what the error queue tells suffices."""
    argv = [sys.executable, PROGRAM, str(client.destinations[version]), "--discover-mtu"]
    done = client.run([*argv, *(["--backend", "errqueue"] if backend == "errqueue" else [])])
    assert done.returncode == 0, done.stderr
    (trace,) = json.loads(done.stdout)["traces"]
    assert trace["backend"] == "errqueue"
    assert trace["mtu"] == EXPECTED
    assert trace["path_mtu"] == NARROWER


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_probe_larger_than_the_interface_takes_is_refused_once(
    client: Lab, version: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can tell the interface's MTU, and the guess is too large: sending says so, and the search goes on."""
    monkeypatch.setattr("allhops.net.raw.interface_mtu", lambda *_: 9000)
    monkeypatch.setattr("allhops.net.errqueue.transport.interface_mtu", lambda *_: 9000)
    trace = await discover(client.destinations[version], backend)
    assert sizes(trace) == EXPECTED


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("destination", ["127.0.0.1", "::1"])
async def test_the_loopback_takes_as_much_as_may_be_asked(
    client: Lab, destination: str, backend: str, protocol: Protocol
) -> None:
    assert sizes(await discover(destination, backend, protocol)) == [65_000]


def test_the_interface_is_asked_not_the_path(client: Lab) -> None:
    for version in VERSIONS:
        destination, source = client.destinations[version], client.sources[version].packed
        assert interface_mtu(destination, source, TraceOptions()) == 1500
        ip(client, "client", "link set v0n mtu 1450")
        assert interface_mtu(destination, source, TraceOptions(interface="v0n")) == 1450
        assert interface_mtu(destination, source, TraceOptions()) == 1450
        assert interface_mtu(destination, source, TraceOptions(interface="lo")) == 65_536
        assert interface_mtu(destination, source, TraceOptions(interface="none")) == 1500
        ip(client, "client", "link set v0n mtu 1500")


@pytest.mark.parametrize("scenario", ["two_bottlenecks", "black_hole", "mtu_zero", "tunnel", "mtu_lies"])
async def test_the_simulated_internet_is_no_different_behind_a_real_kernel(scenario: str) -> None:
    """The same scenarios as on the virtual clock; the TUN device takes 1,500 bytes."""
    expected = {
        "two_bottlenecks": [1500] * 4 + [1400] * 2,
        "black_hole": [1500] * 3 + [1438] * 3,
        "mtu_zero": [1500] * 2 + [1300] * 4,
        "tunnel": [1500] * 2 + [1476] + [1444] * 3,
        "mtu_lies": [1500] * 2 + [1420] * 2 + [1380] * 2,
    }
    with tun_internet(scenario) as lab, lab.enter():
        for version in VERSIONS:
            assert sizes(await discover(lab.destinations[version], "raw")) == expected[scenario]
