"""Labs of real kernels show what they say they show, and leave nothing behind."""

from __future__ import annotations

import os
import pathlib
import select
import socket
import subprocess
import sys
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from allhops.errors import UsageError
from allhops.testing.namespaces import (
    NETNS_DIRECTORY,
    RESOLVER_DIRECTORY,
    Lab,
    LabError,
    chain,
    diamond,
    remove_stale,
    tun_internet,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.model import Address

pytestmark = pytest.mark.lab
BOTH = pytest.mark.parametrize("version", [4, 6])

IP_RECVERR, IPV6_RECVERR = 11, 25
MSG_ERRQUEUE = 0x2000
REPLY_SECONDS = 2.0


def udp_socket(version: int) -> socket.socket:
    """An unprivileged prober's socket: it hears the ICMP errors about what it sent."""
    made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    if version == 4:
        made.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    return made


def send(made: socket.socket, destination: Address, ttl: int) -> None:
    if destination.version == 4:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
    made.sendto(b"probe", (str(destination), 33434))


def responder(made: socket.socket, seconds: float = REPLY_SECONDS) -> Address | None:
    """Who sent the next ICMP error, None when none comes."""
    waiting = select.poll()
    waiting.register(made, select.POLLERR)
    if not waiting.poll(seconds * 1000):
        return None
    _, control, _, _ = made.recvmsg(2048, 512, MSG_ERRQUEUE)
    (data,) = [data for level, kind, data in control if (level, kind) in {(0, IP_RECVERR), (41, IPV6_RECVERR)}]
    offender = data[16:]  # behind struct sock_extended_err: a sockaddr_in or sockaddr_in6
    family = int.from_bytes(offender[:2], sys.byteorder)
    return ip_address(offender[4:8] if family == socket.AF_INET else offender[8:24])


def ask(version: int, destination: Address, ttl: int) -> Address | None:
    with udp_socket(version) as made:
        send(made, destination, ttl)
        return responder(made)


@pytest.fixture(scope="module")
def five() -> Iterator[Lab]:
    with chain(5, limits="off") as lab:
        yield lab


@BOTH
def test_every_ttl_of_a_chain_shows_its_router(five: Lab, version: int) -> None:
    destination, truth = five.destinations[version], five.truth(version)
    assert len(truth) == 6
    assert truth[-1] == {destination}
    with five.enter():
        assert [frozenset({ask(version, destination, ttl)}) for ttl in range(1, 7)] == list(truth)


@BOTH
@pytest.mark.needs("traceroute")
def test_traceroute_agrees(five: Lab, version: int) -> None:
    result = five.run(["traceroute", "-n", "-q", "1", str(five.destinations[version])])
    shown = [line.split()[1] for line in result.stdout.splitlines()[1:]]
    assert [{text} for text in shown] == [{str(address) for address in level} for level in five.truth(version)]


def test_there_is_no_way_out(five: Lab) -> None:
    for node in five.nodes:
        result = five.run(["ip", "-brief", "link"], node=node)
        names = [line.split()[0].partition("@")[0] for line in result.stdout.splitlines()]
        assert all(name == "lo" or name[0] == "v" for name in names)
    assert not set(five.run(["ip", "-brief", "link"]).stdout.split()) & {"eth0"}


def test_a_thread_comes_back_where_it_was(five: Lab) -> None:
    before = os.readlink("/proc/thread-self/ns/net")
    with five.enter("r1"):
        assert os.readlink("/proc/thread-self/ns/net") != before
    assert os.readlink("/proc/thread-self/ns/net") == before


def answered(lab: Lab, version: int, probes: int) -> int:
    """How many of `probes` at once the first router answers."""
    with lab.enter(), udp_socket(version) as made:
        for _ in range(probes):
            while True:
                try:
                    send(made, lab.destinations[version], 1)
                    break
                except OSError:  # an older error, and this one was not sent
                    continue
        count = 0
        while responder(made, 0.1):
            count += 1
        return count


def test_limits_are_those_of_linux_or_those_that_were_asked() -> None:
    with chain(1) as lab:
        assert answered(lab, 4, 12) == 6
    with chain(1, limits="off") as lab:
        assert answered(lab, 4, 12) == 12
    with chain(1, limits={"icmp_ratemask": 0}) as lab:
        assert answered(lab, 4, 12) == 12


@BOTH
def test_a_diamond_shows_all_its_branches(version: int) -> None:
    with diamond(3, limits="off") as lab, lab.enter():
        destination, truth = lab.destinations[version], lab.truth(version)
        for ttl, level in enumerate(truth, 1):
            seen = {ask(version, destination, ttl) for _ in range(40 if len(level) > 1 else 3)}
            assert seen == level


def test_labs_leave_nothing_behind() -> None:
    with tun_internet("demo") as lab:
        name = lab.client
        assert (NETNS_DIRECTORY / name).exists()
        assert "192.0.2.53" in (RESOLVER_DIRECTORY / name / "resolv.conf").read_text()
    assert not (NETNS_DIRECTORY / name).exists()
    assert not (RESOLVER_DIRECTORY / name).exists()


def test_what_a_killed_process_left_is_removed() -> None:
    with subprocess.Popen(["true"]) as child:
        pass
    name = f"allhops-{child.pid}-1-client"
    subprocess.run(["ip", "netns", "add", name], check=True)
    remove_stale()
    assert not pathlib.Path(NETNS_DIRECTORY, name).exists()


def test_a_lab_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="n_routers"), chain(1000):
        pass
    with pytest.raises(UsageError, match="width"), diamond(1):
        pass
    with pytest.raises(LabError, match="icmp_ratelimits = 1"), chain(1, limits={"icmp_ratelimits": 1}):
        pass
