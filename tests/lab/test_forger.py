"""A forger who knows every address of the path sprays 100,000 ICMP errors a second: no row changes."""

from __future__ import annotations

import asyncio
import json
import pathlib
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from allhops.model import Protocol
from allhops.net.prober import Prober
from allhops.testing.namespaces import chain, importing_us

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.model import Trace
    from allhops.testing.namespaces import Lab

pytestmark = pytest.mark.lab

FORGER = str(pathlib.Path(__file__).with_name("forger.py"))
ROUTERS = 5
RATE = 100_000
LEAST_SENT = 100_000
"""Forgeries while traces run, however slow the machine is: three for every source port."""
AT_ONCE = 4
CLIENTS_MAC = "02:00:00:00:00:01"
"""At its end of the first link of a chain."""


@pytest.fixture(scope="module")
def routers() -> Iterator[Lab]:
    with chain(ROUTERS, limits="off") as lab:
        with lab.enter():
            pathlib.Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
        yield lab


def start_forger(lab: Lab, version: int) -> subprocess.Popen[str]:
    """On the wire between the client and its first router, where every address can be claimed."""
    path = [str(address) for hop in lab.truth(version)[:-1] for address in hop]
    addresses = (lab.sources[version], lab.destinations[version], *path)
    words = ("v0f", CLIENTS_MAC, *map(str, addresses), "--rate", str(RATE))
    argv = ["ip", "netns", "exec", lab.nodes["r1"], sys.executable, FORGER, *words]
    program = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=importing_us(), text=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    return program


def errors_heard(version: int) -> int:
    """ICMP errors that this namespace was sent so far."""
    if version == 6:
        lines = pathlib.Path("/proc/thread-self/net/snmp6").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Icmp6InMsgs"))
    lines = pathlib.Path("/proc/thread-self/net/snmp").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Icmp: ") and line[6].isdigit()))


async def trace_meanwhile(lab: Lab, version: int, backend: str, protocol: Protocol) -> tuple[list[Trace], str]:
    """Traces until enough was forged, and how the counters stand."""
    traces: list[Trace] = []
    before = errors_heard(version)
    async with Prober(backend=backend) as prober:
        while errors_heard(version) - before < LEAST_SENT:
            some = (prober.trace(lab.destinations[version], protocol=protocol) for _ in range(AT_ONCE))
            traces += await asyncio.gather(*some)
        return traces, str(prober.counters)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("backend", "protocol"),
    [("raw", Protocol.UDP), ("raw", Protocol.ICMP), ("raw", Protocol.TCP), ("errqueue", Protocol.UDP)],
)
def test_no_row_changes(
    routers: Lab, backend: str, protocol: Protocol, version: int, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = [{str(address) for address in hop} for hop in routers.truth(version)]
    with start_forger(routers, version) as forger, routers.enter():
        started = time.process_time()
        traces, counters = asyncio.run(trace_meanwhile(routers, version, backend, protocol))
        cpu_s = time.process_time() - started
        told = json.loads(forger.communicate(timeout=10)[0])
    for trace in traces:
        rows = [{str(probe.reply.address) if probe.reply else None for probe in hop.probes} for hop in trace.hops]
        assert rows == truth
    with capsys.disabled():
        rate = told["sent"] / told["seconds"]
        print(f"\n{backend} {protocol} IPv{version}: {told['sent']} forgeries, {rate:,.0f} a second; ", end="")
        print(f"{len(traces)} traces, {cpu_s:.2f} s of CPU, 0 rows changed; {counters}")
