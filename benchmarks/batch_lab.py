"""Where batches are measured: five routers and a host that owns half of 10.0.0.0/8, or a synthetic internet.

Both are network namespaces without a way out. Nobody limits its ICMP in them, so that no tool pays for what the one
before it used up. Packets are counted by the interface that they leave through and come in by, whatever a tool says.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
import re
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allhops.testing.namespaces import Lab, chain
from benchmarks.process import LOOK_EVERY_S, Usage, as_installed, measure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from benchmarks.findings import Truth

ROUTERS = 5
HOST_PREFIX = "10.0.0.0/9"
"""All of it is the host's: it answers each address itself. The routers' own addresses are in 10.200.0.0/16."""
FIRST_DESTINATION = int(IPv4Address("10.0.1.0"))
STRIDE = 11
"""Between destinations, so that they are no run of neighbours; prime to the size of the prefix."""
PROBER_CPU, ROUTER_CPU = 0, 1
ELSEWHERE = f"for file in /sys/class/net/*/queues/rx-0/rps_cpus; do echo {1 << ROUTER_CPU:x} > $file; done"
"""Shell: what arrives is worked on by the routers' CPU."""


class Packets(NamedTuple):
    """What the prober's interface has carried."""

    sent: int
    received: int


class Traffic:
    """What passes an interface while a tool runs, looked at again and again: how fast it sent."""

    def __init__(self, interface: str) -> None:
        self._line = re.compile(rf"^ *{re.escape(interface)}:(.*)$", re.MULTILINE)
        self._looks: list[tuple[float, int]] = []

    def look(self, process: int, now: float) -> None:
        """Note what was sent by `now`, in the namespace of that process."""
        try:
            found = self._line.search(pathlib.Path(f"/proc/{process}/net/dev").read_text())
        except OSError:  # it has ended meanwhile
            return
        if found:  # not yet in its namespace otherwise
            self._looks.append((now, int(found[1].split()[9])))

    def mean_pps(self) -> float:
        """From the last look before anything was sent to the first after everything was."""
        sending = [at for at, (before, after) in enumerate(itertools.pairwise(self._looks)) if before[1] != after[1]]
        if not sending:
            return 0.0
        first, last = self._looks[sending[0]], self._looks[sending[-1] + 1]
        return (last[1] - first[1]) / (last[0] - first[0])

    def most_in_a_second(self) -> int:
        """Most packets between two looks that are a second apart, or a look more."""
        most = start = 0
        for now, sent in self._looks:
            while now - self._looks[start][0] > 1.0 + LOOK_EVERY_S / 2:
                start += 1
            most = max(most, sent - self._looks[start][1])
        return most


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One tool's run."""

    usage: Usage
    packets: Packets
    mean_pps: float
    most_in_a_second: int
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A namespace to probe from, and what a tool must be told about it."""

    lab: Lab
    interface: str
    gateway_mac: str | None
    """None where packets leave without a link header."""
    truth: Truth
    prober_cpu: int | None
    """Where probers run; None: wherever the kernel likes."""

    def run(self, argv: Sequence[str], *, log: pathlib.Path, timeout_s: float) -> Ran:
        """Run a prober and count what passed meanwhile."""
        pin = [] if self.prober_cpu is None else ["taskset", "--cpu-list", str(self.prober_cpu)]
        traffic = Traffic(self.interface)
        before = self.packets()
        usage = measure(
            ["ip", "netns", "exec", self.lab.client, *pin, *argv],
            log=log,
            timeout_s=timeout_s,
            environment=as_installed(),
            look=traffic.look,
        )
        after = self.packets()
        return Ran(
            usage=usage,
            packets=Packets(after.sent - before.sent, after.received - before.received),
            mean_pps=traffic.mean_pps(),
            most_in_a_second=traffic.most_in_a_second(),
            log=log.read_text(errors="replace"),
        )

    def packets(self) -> Packets:
        """Counters of the prober's interface."""
        listing = subprocess.run(
            ["ip", "-netns", self.lab.client, "-json", "-statistics", "link", "show", "dev", self.interface],
            check=True,
            capture_output=True,
        )
        counters = json.loads(listing.stdout)[0]["stats64"]
        return Packets(counters["tx"]["packets"], counters["rx"]["packets"])


@contextlib.contextmanager
def five_routers(*, split: bool) -> Iterator[Ground]:
    """A prober, five routers in a row, and a host behind them that owns `HOST_PREFIX`.

    `split`: probers have one CPU and the routers' work is done on another, so that a tool's CPU is its own. Otherwise
    each packet is carried to its end by whoever sends it, and a tool's CPU has the routers' work in it.
    """
    with chain(ROUTERS, families=(4,), limits="off") as lab:
        for role in lab.nodes:
            # Router solicitations and group reports would be counted among the probes.
            lab.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"], node=role).check_returncode()
            if split:
                lab.run(["sh", "-c", ELSEWHERE], node=role).check_returncode()
        lab.run(["ip", "route", "add", "local", HOST_PREFIX, "dev", "lo"], node="host").check_returncode()
        yield Ground(
            lab=lab,
            interface="v0n",
            gateway_mac="02:00:00:00:00:02",
            truth=chain_truth(lab),
            prober_cpu=PROBER_CPU if split else None,
        )


def chain_destinations(count: int) -> list[str]:
    """Addresses of the host, each once."""
    return [str(IPv4Address(FIRST_DESTINATION + STRIDE * number)) for number in range(count)]


def chain_truth(lab: Lab) -> Truth:
    """At each TTL from 1 the five routers, then the destination, whatever the flow."""
    routers = [int(next(iter(responders)) or 0) for responders in lab.paths[4][:-1]]

    def truth(
        destination: NDArray[np.uint32], source_port: NDArray[np.uint16], destination_port: NDArray[np.uint16]
    ) -> NDArray[np.uint32]:
        paths = np.empty((len(destination), len(routers) + 1), np.uint32)
        paths[:, :-1] = routers
        paths[:, -1] = destination
        return paths

    return truth
