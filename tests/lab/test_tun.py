"""The TUN internet shows any program what the scenario says, when it says."""

from __future__ import annotations

import json
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from allhops.errors import UsageError
from allhops.testing import Internet, load_scenario
from allhops.testing.namespaces import Lab, chain, importing_us, tun_internet
from allhops.testing.tun import refuse_a_way_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.model import Address

pytestmark = pytest.mark.lab
BOTH = pytest.mark.parametrize("version", [4, 6])

SO_TIMESTAMPNS = 35
RTT_TOLERANCE_NS = 300_000
REPLY_SECONDS = 2.0
TRIES = 100


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with tun_internet("chain") as made:
        yield made


def icmp_socket(version: int) -> socket.socket:
    if version == 4:
        made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    else:
        made = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    return made


def udp_probe(destination: Address, ttl: int) -> int:
    """Send a probe; the result is when, by the wall clock, in nanoseconds."""
    with socket.socket(socket.AF_INET if destination.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as made:
        if destination.version == 4:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        sent_ns = time.time_ns()
        made.sendto(b"probe", (str(destination), 33434))
    return sent_ns


def reply(made: socket.socket) -> tuple[str, int]:
    """(responder, kernel receive stamp in nanoseconds) of the next ICMP error."""
    while select.select([made], (), (), REPLY_SECONDS)[0]:
        data, control, _, address = made.recvmsg(2048, 512)
        icmp_type = data[20] if made.family == socket.AF_INET else data[0]
        if icmp_type not in {1, 3, 11}:
            continue  # neighbour discovery, and our own host's view of the rest
        (stamp,) = [value for level, kind, value in control if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS)]
        seconds, nanoseconds = struct.unpack("qq", stamp)
        return address[0], seconds * 1_000_000_000 + nanoseconds
    pytest.fail("no reply")


@BOTH
def test_every_ttl_shows_its_responder_at_its_time(lab: Lab, version: int) -> None:
    assert lab.internet is not None
    destination = lab.destinations[version]
    with lab.enter(), icmp_socket(version) as made:
        for hop in lab.internet.truth(destination):
            for _ in range(TRIES):  # what else this machine does can only make a reply late
                sent_ns = udp_probe(destination, hop.ttl)
                responder, received_ns = reply(made)
                assert responder == str(hop.address)
                late_ns = received_ns - sent_ns - hop.rtt_ns
                assert late_ns >= 0
                if late_ns < RTT_TOLERANCE_NS:
                    break
            else:
                pytest.fail(f"TTL {hop.ttl} is always late")


@BOTH
@pytest.mark.needs("traceroute")
@pytest.mark.parametrize("option", ["-U", "-I", "-T"])
def test_traceroute_shows_the_truth(lab: Lab, version: int, option: str) -> None:
    result = lab.run(["traceroute", "-n", "-q", "1", option, str(lab.destinations[version])])
    shown = [line.split()[1] for line in result.stdout.splitlines()[1:]]
    assert [{text} for text in shown] == [{str(address) for address in level} for level in lab.truth(version)]


@pytest.mark.needs("traceroute")
def test_programs_find_the_names(lab: Lab) -> None:
    result = lab.run(["traceroute", "-4", "-q", "1", "destination.example.net"])
    assert "(203.0.113.9), 30 hops" in result.stdout
    assert "r1.example.net (10.0.0.1)" in result.stdout


def test_a_tcp_connection_meets_an_open_port(lab: Lab) -> None:
    with lab.enter(), socket.create_connection((str(lab.destinations[4]), 80), timeout=REPLY_SECONDS) as made:
        assert made.getpeername()[0] == str(lab.destinations[4])


def test_a_burst_is_taken_in_whole_and_counted() -> None:
    with (
        tun_internet("silent_destination") as lab,
        lab.enter(),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made,
    ):
        for _ in range(3000):
            made.sendto(b"probe", (str(lab.destinations[4]), 33434))
    assert lab.counters["silent"] == 3000
    assert lab.counters["refused"] == 0


def test_it_refuses_a_namespace_with_another_interface() -> None:
    with chain(0) as lab:
        result = lab.run([sys.executable, "-m", "allhops.testing.tun", "chain"])
    assert result.returncode == 2
    assert "has v0n, perhaps with a way out" in result.stderr
    assert result.stdout == ""


def test_it_refuses_the_namespace_this_machine_lives_in() -> None:
    with pytest.raises(UsageError, match="way out"):
        refuse_a_way_out()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_a_signal_and_says_what_it_counted(number: signal.Signals) -> None:
    argv = ["unshare", "--net", sys.executable, "-m", "allhops.testing.tun", "chain"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=importing_us()
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.stdout.readline() == b"ready\n"
        program.send_signal(number)
        assert program.wait(REPLY_SECONDS) == 0
        assert json.loads(program.stderr.read())["refused"] == 0


def test_a_mistake_in_the_scenario_is_said_in_a_sentence() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "allhops.testing.tun", "nowhere"],
        capture_output=True,
        text=True,
        env=importing_us(),
        check=False,
    )
    assert result.returncode == 2
    assert "nowhere: no such scenario" in result.stderr
    assert "Traceback" not in result.stderr


@BOTH
def test_a_slow_router_answers_after_those_behind_it(version: int) -> None:
    scenario = load_scenario("slow_first_hop")
    slow = Internet(scenario).truth(f"{scenario.paths[0].destinations[version == 6].network_address}")
    with tun_internet("slow_first_hop") as lab, lab.enter(), icmp_socket(version) as made:
        for hop in slow:
            udp_probe(lab.destinations[version], hop.ttl)
        responders = [reply(made)[0] for _ in slow]
    assert responders == [str(hop.address) for hop in sorted(slow, key=lambda hop: hop.rtt_ns)]
