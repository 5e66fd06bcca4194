"""A thousand traces by two processes to one destination over an eight-fold diamond: each shows its own flow's path.

Which branch a flow took is heard on the forking router's wires: a reply given to the wrong trace would show another.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from allhops.testing.namespaces import diamond, importing_us

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.testing.namespaces import Lab

pytestmark = pytest.mark.lab

PROGRAM = str(pathlib.Path(__file__).with_name("unprivileged.py"))
BRANCHES = 8
TRACES, AT_ONCE = 500, 20
"""Of each of the two processes."""
PORT = 33_434
BACKENDS = {"raw": ["--stay", "--backend", "raw"], "errqueue": ["--backend", "errqueue"]}
LIMIT_S = 60
BY_PORTS = {"fib_multipath_hash_policy": 3, "fib_multipath_hash_fields": 0x37}
"""Addresses, protocol and ports of the packet, so that a port that is used twice has one branch. Policy 1 is the same,
but takes the hash that a sending socket left in the packet where there is one: over veth the client's, a random one."""
SO_RCVBUFFORCE, ETH_P_ALL, BUFFER = 33, 3, 64 << 20


@pytest.fixture(scope="module")
def branches() -> Iterator[Lab]:
    with diamond(BRANCHES, limits="off") as lab:
        with lab.enter("fork"):
            for family in ("ipv4", "ipv6"):
                for name, value in BY_PORTS.items():
                    pathlib.Path(f"/proc/sys/net/{family}/{name}").write_text(str(value))
        yield lab


class Tap:
    """Every packet that leaves by a device, kept by the kernel until it is asked for."""

    def __init__(self, device: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        self._socket.bind((device, ETH_P_ALL))

    def packets(self) -> Iterator[bytes]:
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, where = self._socket.recvfrom(64)
                if where[2] == socket.PACKET_OUTGOING:
                    yield packet

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def watched(lab: Lab) -> Iterator[dict[int, Tap]]:
    """Ears on the fork's way out to every branch."""
    with lab.enter("fork"):
        taps = {number: Tap(f"v{number}n") for number in range(1, BRANCHES + 1)}
    yield taps
    for tap in taps.values():
        tap.close()


def branches_of(taps: dict[int, Tap], version: int) -> dict[int, set[int]]:
    """By source port, the branches that probes went out to."""
    at = 20 if version == 4 else 40
    taken: dict[int, set[int]] = {}
    for number, tap in taps.items():
        for packet in tap.packets():
            if packet[0] >> 4 == version:
                taken.setdefault(int.from_bytes(packet[at : at + 2]), set()).add(number)
    return taken


def start(lab: Lab, version: int, backend: str) -> subprocess.Popen[str]:
    words = [lab.destinations[version], *BACKENDS[backend], "--traces", TRACES, "--at-once", AT_ONCE, "--max-ttl", 6]
    enter = ["ip", "netns", "exec", lab.client]
    argv = [*enter, sys.executable, PROGRAM, *map(str, words)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, env=importing_us(), text=True)


def assert_is_its_own(trace: dict[str, Any], branches: set[int], lab: Lab, version: int) -> None:
    (number,) = branches  # one flow, one way
    branch = f"10.200.{number}.2" if version == 4 else f"fd00:200:{number:x}::2"
    rows = [{probe["address"] for probe in hop} for hop in trace["hops"]]
    truth = [{str(address) for address in hop} for hop in lab.truth(version)]
    assert trace["stop_reason"] == "reached"
    assert [rows[0], *rows[3:]] == [truth[0], *truth[3:]]
    assert rows[1] == {branch}
    assert len(rows[2]) == 1
    assert rows[2] <= truth[2]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("second", ["raw", "errqueue"])
def test_no_reply_crosses_over(branches: Lab, second: str, version: int, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    with watched(branches) as taps:
        running = [start(branches, version, backend) for backend in ("raw", second)]
        results = [json.loads(program.communicate(timeout=LIMIT_S)[0]) for program in running]
        seconds = time.monotonic() - started
        taken = branches_of(taps, version)
    for told in results:
        assert len(told["traces"]) == TRACES
        for trace in told["traces"]:
            assert_is_its_own(trace, taken[trace["source_port"]], branches, version)
        counters = told["counters"]
        assert not any(counters[name] for name in ("forged", "malformed", "duplicate", "unnamed", "kernel_drops"))
    assert set.union(*taken.values()) == set(range(1, BRANCHES + 1))
    with capsys.disabled():
        foreign = [told["counters"]["foreign"] for told in results]
        print(f"\nraw + {second} IPv{version}: {2 * TRACES} traces in {seconds:.1f} s, foreign {foreign}, forged 0")
