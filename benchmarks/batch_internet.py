"""Batches into a synthetic internet behind a TUN device: whole paths, and probes for each address found.

Paths of 8 to 20 hops, 30 to 150 ms, silent routers and mostly silent destinations. What is right is what
`SyntheticInternet` says of the flow that the tool used. An inherited hop is judged by the same flow, though another one
met it: in the columns that begin with `shown` inherited hops count too, and `shown_elsewhere` has those whose own flow
meets another router, as past a load balancer.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from allhops.testing import SyntheticInternet
from allhops.testing.namespaces import synthetic_internet
from benchmarks import peers
from benchmarks.batch_lab import PROBER_CPU, ROUTER_CPU, Ground
from benchmarks.batches import (
    SEED,
    SLACK_S,
    Outcome,
    Scale,
    Task,
    median,
    rounds_of,
    times_ours,
    told,
    told_with_inherited,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.peers import Tool

MAX_TTL = 30
RATE_PPS = 10_000
"""What Debian's scamper can do."""
PATHS_OF = (1_000, 10_000)
"""Destinations whose whole paths are asked for."""
PROCESSES_MOST = 1_000
"""Destinations that a process each is started for: ten thousand take minutes."""
PROBES_OF = 30_000
DEVICE = "allhops0"
"""How the programs behind a TUN device call it."""
DOUBLETREE = "-f 10 -Z lss"


@contextlib.contextmanager
def internet_of(destinations: int) -> Iterator[tuple[Ground, SyntheticInternet]]:
    """A namespace whose every route leads there."""
    internet = SyntheticInternet(SEED, destinations=destinations)

    def truth(
        destination: NDArray[np.uint32], source_port: NDArray[np.uint16], destination_port: NDArray[np.uint16]
    ) -> NDArray[np.uint32]:
        return internet.true_responders(destination, source_port, destination_port)

    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {ROUTER_CPU})  # the program behind the device inherits it; the prober has the other
    with synthetic_internet(internet) as lab:
        os.sched_setaffinity(0, everywhere)
        lab.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]).check_returncode()
        yield (
            Ground(lab=lab, interface=DEVICE, gateway_mac=None, truth=truth, prober_cpu=PROBER_CPU),
            internet,
        )


def paths(progress: Callable[[str], None], scale: Scale) -> dict[str, object]:
    """Whole paths of 1,000 and 10,000 destinations at a limit of 10,000 pps."""
    tables: dict[str, object] = {"rate_pps": RATE_PPS, "rounds": scale.rounds, "seed": SEED}
    for count in PATHS_OF:
        tools = [
            peers.allhops("jsonl"),
            peers.allhops("jsonl", strategy="whole"),
            peers.allhops("jsonl", strategy="frugal"),
            peers.scamper(1_000),
            peers.scamper(2_000),
            peers.scamper(500, trace="-N 4", label="scamper -N 4"),
        ]
        if count <= PROCESSES_MOST:
            tools.append(peers.traceroute(50))
        with internet_of(count) as (ground, internet):
            destinations = _destinations(internet)
            outcomes = rounds_of(ground, tools, partial(_task, destinations), scale, progress)
        tables[f"whole paths of {count}"] = [_paths_row(runs, outcomes) for runs in outcomes.values()]
    return tables


def probes(progress: Callable[[str], None], scale: Scale) -> dict[str, object]:
    """Probes for each address found: frugal against Doubletree, and each of the two without its savings."""
    tools = [
        peers.allhops("jsonl", strategy="frugal"),
        peers.scamper(1_000, trace=DOUBLETREE, label="scamper Doubletree"),
        peers.allhops("jsonl"),
        peers.scamper(1_000),
    ]
    with internet_of(PROBES_OF) as (ground, internet):
        destinations = _destinations(internet)
        outcomes = rounds_of(ground, tools, partial(_task, destinations), scale, progress)
        there = {"interfaces": len(internet.interfaces()), "links": len(internet.links())}
    rows = [_probes_row(runs, outcomes) for runs in outcomes.values()]
    return {"destinations": PROBES_OF, "there are, on any flow": there, "rounds": scale.rounds, "probes": rows}


def _destinations(internet: SyntheticInternet) -> list[str]:
    return [str(IPv4Address(number)) for number in internet.destinations().tolist()]


def _task(destinations: Sequence[str], tool: Tool) -> Task:
    return Task(
        destinations=destinations,
        max_ttl=MAX_TTL,
        rate_pps=RATE_PPS,
        timeout_s=len(destinations) * MAX_TTL / RATE_PPS + SLACK_S,
    )


def _paths_row(runs: Sequence[Outcome], outcomes: dict[str, list[Outcome]]) -> dict[str, object]:
    return {
        "tool": runs[0].tool.name,
        "wall_s": median([each.wall_s for each in runs]),
        "times_ours": times_ours(runs, outcomes, lambda run: run.wall_s),
        "probes": runs[0].ran.packets.sent,
        "most_in_a_second": max(each.ran.most_in_a_second for each in runs),
        "right": told(runs, "right"),
        "wrong": told(runs, "wrong"),
        "missed": told(runs, "missed"),
        "shown_right": told_with_inherited(runs, "right"),
        "shown_elsewhere": told_with_inherited(runs, "wrong"),
        "shown_missed": told_with_inherited(runs, "missed"),
        "shown_complete": told_with_inherited(runs, "complete"),
        "cpu_s": median([each.ran.usage.cpu_s for each in runs]),
        "rss_mb": round(max(each.ran.usage.peak_rss_bytes for each in runs) / 2**20),
        "remark": runs[0].tool.remark,
    }


def _probes_row(runs: Sequence[Outcome], outcomes: dict[str, list[Outcome]]) -> dict[str, object]:
    return {
        "tool": runs[0].tool.name,
        "probes_per_address": median([each.probes_each for each in runs]),
        "times_ours": times_ours(runs, outcomes, lambda run: run.probes_each),
        "probes": round(statistics.median(each.ran.packets.sent for each in runs)),
        "addresses": round(statistics.median(_addresses(each) for each in runs)),
        "coverage_%": _coverage(runs),
        "links": round(statistics.median(0 if each.findings is None else each.findings.links() for each in runs)),
        "right": told(runs, "right"),
        "wrong": told(runs, "wrong"),
        "shown_right": told_with_inherited(runs, "right"),
        "shown_elsewhere": told_with_inherited(runs, "wrong"),
        "wall_s": median([each.wall_s for each in runs]),
        "remark": runs[0].tool.remark,
    }


def _addresses(outcome: Outcome) -> int:
    return 0 if outcome.findings is None else outcome.findings.addresses()


def _coverage(runs: Sequence[Outcome]) -> str:
    """Per cent, the median of the rounds; a dash for a tool whose flows are not known."""
    percents = [each.coverage.percent for each in runs if each.coverage is not None]
    return f"{statistics.median(percents):.2f}" if percents else "-"
