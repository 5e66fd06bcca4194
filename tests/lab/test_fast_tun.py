"""The computed internet behind a TUN device shows other people's tools the path that its model tells."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import numpy as np
import pytest

from allhops.testing import SyntheticInternet
from allhops.testing.namespaces import Lab, chain, importing_us, synthetic_internet

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.lab

BURST = 3_000
REPLY_SECONDS = 2.0
SPORT, DPORT = 40_000, 33_434


@pytest.fixture(scope="module")
def internet() -> SyntheticInternet:
    return SyntheticInternet(3, destinations=200, live_hosts=0.5, silent_routers=0.05)


@pytest.fixture(scope="module")
def lab(internet: SyntheticInternet) -> Iterator[Lab]:
    with synthetic_internet(internet) as made:
        yield made


def reachable(internet: SyntheticInternet, count: int) -> list[IPv4Address]:
    destinations = internet.destinations()
    size = len(destinations)
    met = internet.answer(destinations, np.full(size, 255, np.uint8), np.zeros(size, np.uint16))
    return [IPv4Address(address) for address in met.responder[met.responder > 0][:count].tolist()]


@pytest.mark.needs("traceroute")
@pytest.mark.parametrize("how", [["-U", "-p", str(DPORT)], ["-T", "-p", str(DPORT)]])
def test_traceroute_shows_the_path_of_its_flow(lab: Lab, internet: SyntheticInternet, how: list[str]) -> None:
    for destination in reachable(internet, 3):
        argv = ["traceroute", "-n", "-q", "1", *how, f"--sport={SPORT}", str(destination)]
        result = lab.run(argv)
        shown = [line.split()[1] for line in result.stdout.splitlines()[1:]]
        assert shown == [str(address or "*") for address in internet.path(destination, SPORT, DPORT)]


@pytest.mark.needs("traceroute")
def test_traceroute_by_echo_requests_arrives(lab: Lab, internet: SyntheticInternet) -> None:
    (destination,) = reachable(internet, 1)
    shown = lab.run(["traceroute", "-n", "-q", "1", "-w", "9,999,999", "-I", str(destination)]).stdout.splitlines()[1:]
    assert shown[-1].split()[1] == str(destination)
    assert len(shown) == internet.distances(np.array([int(destination)], np.uint32))[0]


@pytest.mark.needs("scamper")
def test_scamper_shows_the_path_of_its_flow(lab: Lab, internet: SyntheticInternet) -> None:
    destinations = [str(destination) for destination in reachable(internet, 5)]
    trace = f"trace -P udp-paris -s {SPORT} -d {DPORT} -q 1 -w 1"
    result = lab.run(["scamper", "-O", "json", "-c", trace, "-i", *destinations])
    traces = [json.loads(line) for line in result.stdout.splitlines()]
    found = {one["dst"]: one for one in traces if one["type"] == "trace"}
    assert found.keys() == set(destinations)
    for destination, one in found.items():
        hops = {hop["probe_ttl"]: hop["addr"] for hop in one.get("hops", [])}
        path = internet.path(destination, SPORT, DPORT)
        assert hops == {ttl: str(address) for ttl, address in enumerate(path, 1) if address}


def test_replies_are_never_early(lab: Lab, internet: SyntheticInternet) -> None:
    ports = np.array([SPORT], np.uint16)
    with (
        lab.enter(),
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as heard,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made,
    ):
        made.bind(("", SPORT))
        for destination in reachable(internet, 20):
            before_ns = time.monotonic_ns()
            made.sendto(b"", (str(destination), DPORT))
            assert select.select([heard], (), (), REPLY_SECONDS)[0]
            after_ns = time.monotonic_ns()
            packet, (responder, _) = heard.recvfrom(2048)
            assert (responder, packet[20:22]) == (str(destination), b"\3\3")
            told = internet.answer(np.array([int(destination)], np.uint32), np.array([64], np.uint8), ports, DPORT)
            assert after_ns - before_ns >= told.rtt_ns[0]


def test_a_burst_is_taken_in_whole_and_counted(internet: SyntheticInternet) -> None:
    with synthetic_internet(internet) as lab, lab.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 3)
        for _ in range(BURST):
            made.sendto(b"probe", (str(lab.destinations[4]), DPORT))
        time_left = time.monotonic() + REPLY_SECONDS
        while _icmp_received(lab) < BURST and time.monotonic() < time_left:
            select.select((), (), (), 0.01)
    assert lab.counters["probes"] == lab.counters["time_exceeded"] == BURST
    assert lab.counters["refused"] == 0
    assert lab.counters["sent"] == BURST


def _icmp_received(lab: Lab) -> int:
    """Time-exceeded messages that the client's kernel has seen."""
    names, values = (line.split() for line in lab.run(["cat", "/proc/net/snmp"]).stdout.splitlines() if "Icmp:" in line)
    return int(dict(zip(names, values, strict=True))["InTimeExcds"])


def test_it_refuses_a_namespace_with_another_interface() -> None:
    with chain(0) as lab:
        result = lab.run([sys.executable, "-m", "allhops.testing.fast_tun", '{"seed": 1}'])
    assert result.returncode == 2
    assert "has v0n, perhaps with a way out" in result.stderr


@pytest.mark.parametrize("model", ["nonsense", "[]", '{"seed": 1, "destinations": 0}', '{"sead": 1}'])
def test_a_mistake_in_the_model_is_said_in_a_sentence(model: str) -> None:
    argv = [sys.executable, "-m", "allhops.testing.fast_tun", model]
    result = subprocess.run(argv, capture_output=True, text=True, env=importing_us(), check=False)
    assert result.returncode == 2
    assert "synthetic internet" in result.stderr
    assert "Traceback" not in result.stderr
