"""Generated topologies under the weather of real networks, and the judge of what traces say about them.

Each seed makes one internet of its own: 8 to 25 hops, shared near hops, diamonds with branches of equal and unequal
length that balance by flow, NATs, silent routers and destinations, open and closed TCP ports, up to 30 % of all
probes or replies lost, duplicates, replies out of order, and in half of them Linux's limits on ICMP errors.

    python -m benchmarks.topologies [--count 500] [--backend raw|errqueue] [--protocol udp] [--family 4]

plays them all behind one TUN device (root), traces every destination over real sockets, and prints what was wrong.
tests/sansio and tests/lab ask the same judge.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path as File
from random import Random
from typing import TYPE_CHECKING

from allhops.core.lanes.scalar import ScalarLane
from allhops.core.ledger import Counters
from allhops.model import Protocol, ReplyKind, StopReason
from allhops.net.prober import Prober
from allhops.options import TraceOptions
from allhops.testing import Internet, Scenario, generate
from allhops.testing.namespaces import tun_internet
from allhops.testing.scenario import (
    LINUX_GLOBAL_LIMIT,
    LINUX_LIMIT,
    LINUX_LIMIT_IPV6,
    Diamond,
    HostBehaviour,
    NatRestores,
    Path,
    Router,
    Step,
    TcpAnswer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from allhops.core.plan import Plan
    from allhops.model import Address, Hop, Trace

MOST_LOSS = 0.3
"""Of probes and replies together; a fifth of the topologies lose nothing."""
JITTER_MS = 50.0
ROUTERS_EACH, DESTINATIONS_EACH = 1024, 4
"""Addresses set aside for one topology among many."""
AT_ONCE = 24
"""Traces at a time over real sockets: what one process plays of an internet in real time."""

Truth = tuple[frozenset["Address | None"], ...]
"""For every TTL from 1 to the destination, whom this trace may show there; None is silence."""


# Topologies


def topology(seed: int, destinations: int = 1) -> Scenario:
    """The internet of a seed."""
    random = Random(seed)
    loss = max(0.0, random.uniform(-MOST_LOSS / 4, MOST_LOSS))
    there = loss * random.random()
    limited = random.random() < 0.5
    scenario = generate(
        seed,
        destinations=destinations,
        min_hops=4,
        max_hops=25,
        silent_hop_share=random.choice((0.0, 0.1, 0.25)),
        silent_destination_share=0.2,
        load_balanced_share=0.7,
        nat_share=0.3,
        loss=(loss - there) / (1 - there),
        duplicate=random.choice((0, 0, 1, 3)),
        jitter_ms=random.choice((0.0, JITTER_MS)),
        limit=LINUX_LIMIT if limited else None,
        limit_ipv6=LINUX_LIMIT_IPV6 if limited else None,
        global_limit=LINUX_GLOBAL_LIMIT if limited else None,
        dns=False,
    )
    routers = dict(scenario.routers)
    paths = tuple(_roughened(path, routers, random, there) for path in scenario.paths)
    return replace(scenario, routers=routers, paths=paths)


def _roughened(path: Path, routers: dict[str, Router], random: Random, forward_loss: float) -> Path:
    """A path that loses probes, whose host may listen on TCP, and whose diamond may have branches of unequal length."""
    last = path.hops[-1]
    assert isinstance(last, Step)  # no path ends in a diamond
    host = routers[last.router]
    if random.random() < 0.5 and host.host == HostBehaviour():
        routers[host.key] = replace(host, host=HostBehaviour(tcp=TcpAnswer.OPEN))
    stretches = random.random() < 0.3
    hops = tuple(_stretched(hop, routers) if stretches and isinstance(hop, Diamond) else hop for hop in path.hops)
    return replace(path, hops=hops, forward_loss=forward_loss)


def _stretched(diamond: Diamond, routers: dict[str, Router]) -> Diamond:
    """The diamond with one more router on its last branch."""
    (step,) = diamond.branches[-1]
    assert isinstance(step, Step)  # the generator's diamonds have one router on each branch
    number = len(routers)
    model = routers[step.router]
    more = replace(
        model,
        key=f"r{number}",
        name=f"longer{number}.example.net",
        silent=False,
        ipv4=model.ipv4 and model.ipv4 + ROUTERS_EACH // 2,
        ipv6=model.ipv6 and model.ipv6 + ROUTERS_EACH // 2,
    )
    routers[more.key] = more
    return replace(diamond, branches=(*diamond.branches[:-1], (step, replace(step, router=more.key))))


def side_by_side(scenarios: Sequence[Scenario]) -> Scenario:
    """One internet of many that share nothing but the vantage point."""
    routers: dict[str, Router] = {}
    paths: list[Path] = []
    for number, scenario in enumerate(scenarios):
        prefix = f"t{number}"
        for router in scenario.routers.values():
            shift = number * (DESTINATIONS_EACH if router.key.startswith("d") else ROUTERS_EACH)
            routers[prefix + router.key] = replace(
                router,
                key=prefix + router.key,
                ipv4=router.ipv4 and router.ipv4 + shift,
                ipv6=router.ipv6 and router.ipv6 + shift,
            )
        paths += (_renamed_path(path, prefix, number * DESTINATIONS_EACH) for path in scenario.paths)
    return Scenario(routers=routers, paths=tuple(paths), vantage=scenarios[0].vantage, origin="side by side")


def _renamed_path(path: Path, prefix: str, shift: int) -> Path:
    destinations = tuple(ip_network(network.network_address + shift) for network in path.destinations)
    return replace(path, destinations=destinations, hops=_renamed(path.hops, prefix))


def _renamed(hops: tuple[Step | Diamond, ...], prefix: str) -> tuple[Step | Diamond, ...]:
    return tuple(
        replace(hop, router=prefix + hop.router)
        if isinstance(hop, Step)
        else replace(hop, branches=tuple(_renamed(branch, prefix) for branch in hop.branches))
        for hop in hops
    )


# The judge


def truth_of(internet: Internet, plan: Plan, *, flow_constant: bool) -> Truth:
    """What a trace by this plan must show."""
    protocol = plan.options.protocol
    address = (IPv4Address if plan.layout.family.version == 4 else IPv6Address)(plan.destinations[0])
    if not flow_constant:
        return internet.possible(address, protocol=protocol)
    packet = bytes(ScalarLane(Counters()).launch(plan, [0]).packets)
    return tuple(frozenset({hop.address}) for hop in internet.truth(address, packet=packet, protocol=protocol))


def faults(trace: Trace, truth: Truth, is_explained: Callable[[int], bool]) -> list[str]:
    """What is wrong with a trace, one sentence each.

    `is_explained` says of a TTL whether loss or limits can be the reason that nothing was heard.
    """
    found = [sentence for hop in trace.hops for sentence in _faults_of(hop, truth, is_explained)]
    ends = None not in truth[-1]
    if ends and trace.stop_reason is not StopReason.REACHED and not is_explained(len(truth)):
        found.append(f"ended {trace.stop_reason}, though the destination answers at {len(truth)}")
    if not ends and trace.stop_reason is not StopReason.GAP_LIMIT:
        found.append(f"ended {trace.stop_reason}, though the destination is silent")
    return found


def _faults_of(hop: Hop, truth: Truth, is_explained: Callable[[int], bool]) -> list[str]:
    replies = [probe.reply for probe in hop.probes if probe.reply is not None]
    if hop.ttl > len(truth):
        return [f"TTL {hop.ttl}: {reply.address} beyond the destination at {len(truth)}" for reply in replies]
    expected = truth[hop.ttl - 1]
    wrong = [
        f"TTL {hop.ttl}: {reply.address}, not {_names(expected)}" for reply in replies if reply.address not in expected
    ]
    arrived = {reply.kind is ReplyKind.DESTINATION for reply in replies}
    if True in arrived and not expected & truth[-1]:
        wrong.append(f"TTL {hop.ttl}: the destination, which is at {len(truth)}")
    if not replies and None not in expected and not is_explained(hop.ttl):
        wrong.append(f"TTL {hop.ttl}: silent, though {_names(expected)} was heard")
    return wrong


def _names(addresses: Collection[Address | None]) -> str:
    return " or ".join(map(str, addresses))


# Over real sockets


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One destination of one topology."""

    seed: int
    address: Address
    loses: bool
    """Whether loss or limits may silence a row."""
    foreign_from: int | None
    """First TTL whose quotes show an address that is not ours, because a NAT does not look into ICMP errors: a kernel
    hands those to no socket but a raw one."""

    def explains(self, ttl: int, backend: str) -> bool:
        """Whether this row may be silent although somebody answers there."""
        is_behind = self.foreign_from is not None and ttl >= self.foreign_from
        return self.loses or (backend == "errqueue" and is_behind)


@dataclass(slots=True, kw_only=True)
class Score:
    """What came of many traces."""

    backend: str
    protocol: Protocol
    version: int
    traces: int = 0
    rows: int = 0
    named: int = 0
    """Rows with an answer; all of them were compared with the truth."""
    probes: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.backend} {self.protocol} IPv{self.version}: {self.traces} topologies, {self.probes} probes, "
            f"{self.named} of {self.rows} rows named, {len(self.wrong)} wrong, {self.seconds:.1f} s"
        )


def cases_of(scenarios: Iterable[tuple[int, Scenario]], version: int) -> list[Case]:
    """The destinations of scenarios that stand side by side, by seed."""
    return [
        Case(
            seed=seed,
            address=network.network_address + number * DESTINATIONS_EACH,
            loses=any(router.loss or router.limit for router in scenario.routers.values())
            or any(path.forward_loss for path in scenario.paths),
            foreign_from=path.nat.after_ttl + 1 if path.nat and path.nat.restores is NatRestores.NOTHING else None,
        )
        for number, (seed, scenario) in enumerate(scenarios)
        for path in scenario.paths
        for network in path.destinations
        if network.version == version
    ]


async def score(internet: Internet, cases: Sequence[Case], backend: str, protocol: Protocol) -> Score:
    """Trace every case from the namespace that this thread is in, `AT_ONCE` at a time, and judge."""
    total = Score(backend=backend, protocol=protocol, version=cases[0].address.version)
    options = TraceOptions(protocol=protocol)
    places = asyncio.Semaphore(AT_ONCE)
    started = time.monotonic()

    async def one(prober: Prober, case: Case) -> None:
        async with places:
            tracing = await prober.start(case.address, options)
            trace = await tracing.result()
        truth = truth_of(internet, tracing.plan, flow_constant=bool(trace.flow_constant))
        found = faults(trace, truth, lambda ttl: case.explains(ttl, backend))
        total.wrong += (f"seed {case.seed} {case.address}: {fault}" for fault in found)
        total.traces += 1
        total.rows += len(trace.hops)
        total.named += sum(any(probe.reply for probe in hop.probes) for hop in trace.hops)

    async with Prober(backend=backend) as prober:
        await asyncio.gather(*(one(prober, case) for case in cases))
        total.probes = prober.counters.sent
        if prober.counters.forged:
            total.wrong.append(f"{prober.counters.forged} replies of an honest internet were called forged")
    total.seconds = time.monotonic() - started
    return total


def play(seeds: Iterable[int], backend: str, protocol: Protocol, version: int) -> Score:
    """All these topologies side by side behind one TUN device, traced by one protocol over one family."""
    scenarios = [(seed, topology(seed)) for seed in seeds]
    with tun_internet(side_by_side([scenario for _, scenario in scenarios])) as lab, lab.enter():
        assert lab.internet is not None  # it is a TUN lab
        File("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
        return asyncio.run(score(lab.internet, cases_of(scenarios, version), backend, protocol))


def main() -> int:
    """Play, print a line for each protocol and family, and all that was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.topologies", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=500, help="topologies")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--backend", choices=("raw", "errqueue"), default="errqueue")
    parser.add_argument("--protocol", type=Protocol, choices=list(Protocol), help="all of them if none is named")
    parser.add_argument("--family", type=int, choices=(4, 6), help="both if none is named")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("topologies: they need a network namespace: run as root", file=sys.stderr)
        return 3
    seeds = range(options.first, options.first + options.count)
    protocols = [options.protocol] if options.protocol else list(Protocol)
    versions = [options.family] if options.family else [4, 6]
    wrong = 0
    for protocol in protocols:
        for version in versions:
            one = play(seeds, options.backend, protocol, version)
            print(one, flush=True)
            print(*one.wrong, sep="\n", end="\n" if one.wrong else "")
            wrong += len(one.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
