"""Whole batches side by side with the peers: CPU a probe, peak rate, whole paths, probes an address.

Runs are interleaved, tool by tool within a round, and a table has the medians of the rounds. Every tool is asked the
same probes at the same rate; where it cannot, its remark says so. What was sent is counted by the interface.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import peers
from benchmarks.batch_lab import ROUTERS, chain_destinations, five_routers
from benchmarks.findings import gather, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.batch_lab import Ground, Ran
    from benchmarks.peers import Tool

SEED = 2026
CHAIN_TTL = ROUTERS + 1
SLACK_S = 60
"""More than any tool needs beyond its probes and their rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of it."""

    seconds: float = 10.0
    """Of sending, where a rate is held."""
    rounds: int = 3
    only: str = ""
    """Tools whose names begin so; all of them if it is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One batch that every tool runs."""

    destinations: Sequence[str]
    max_ttl: int
    rate_pps: int | None
    timeout_s: float

    def within(self, tool: Tool) -> Task:
        """What of it this tool can do in the time that it is meant to last."""
        count = len(self.destinations)
        if tool.most_pps and (self.rate_pps is None or self.rate_pps > tool.most_pps):
            count = round(count * tool.most_pps / (self.rate_pps or 10 * tool.most_pps))
        if tool.most_destinations:
            count = min(count, tool.most_destinations)
        return Task(
            destinations=self.destinations[:count],
            max_ttl=self.max_ttl,
            rate_pps=self.rate_pps,
            timeout_s=self.timeout_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run of one tool, judged."""

    tool: Tool
    ran: Ran
    addresses: int | None
    links: int | None
    right: int | None
    wrong: int | None
    missed: int | None
    complete: int | None

    @property
    def cpu_us(self) -> float:
        """CPU microseconds for each probe that left."""
        return self.ran.usage.cpu_s / max(1, self.ran.packets.sent) * 1e6


class ToolFailedError(Exception):
    """A tool did not do its work; the message has its last words."""


def run_tool(ground: Ground, tool: Tool, task: Task) -> Outcome:
    """One run, in a directory of its own, and the judgement of what it found."""
    own = task.within(tool)
    with tempfile.TemporaryDirectory(prefix="allhops-batch-") as name:
        job = peers.Job(
            ground=ground,
            destinations=own.destinations,
            max_ttl=own.max_ttl,
            rate_pps=own.rate_pps,
            seed=SEED,
            directory=Path(name),
        )
        tool.prepare(job)
        ran = ground.run(tool.command(job), log=job.directory / "log", timeout_s=own.timeout_s)
        if ran.usage.status not in tool.statuses:
            raise ToolFailedError(f"{tool.name}: status {ran.usage.status}: {ran.log[-500:]}")
        if tool.read is None:
            return Outcome(
                tool=tool, ran=ran, addresses=None, links=None, right=None, wrong=None, missed=None, complete=None
            )
        findings = gather(tool.read(job))
        asked = np.array([int(IPv4Address(each)) for each in own.destinations], np.uint32)
        verdict = judge(findings, ground.truth, asked, own.max_ttl)
    return Outcome(
        tool=tool,
        ran=ran,
        addresses=findings.addresses(),
        links=findings.links(),
        **verdict._asdict(),
    )


def rounds_of(
    ground: Ground, tools: Sequence[Tool], task: Callable[[Tool], Task], scale: Scale, progress: Callable[[str], None]
) -> dict[str, list[Outcome]]:
    """All tools that are here, once a round, by name."""
    here = [tool for tool in tools if tool.name.startswith(scale.only) and tool.is_here()]
    outcomes: dict[str, list[Outcome]] = {tool.name: [] for tool in here}
    for number in range(1, scale.rounds + 1):
        for tool in here:
            progress(f"round {number}/{scale.rounds}: {tool.name}")
            outcomes[tool.name].append(run_tool(ground, tool, task(tool)))
    return outcomes


def median(values: Sequence[float], digits: int = 2) -> float:
    """Rounded for a table."""
    return round(statistics.median(values), digits)


def cpu(progress: Callable[[str], None], scale: Scale) -> dict[str, object]:
    """CPU a probe at 10,000 and 50,000 pps through five routers, prober and routers on a CPU of their own each."""
    tables: dict[str, object] = {"seconds": scale.seconds, "rounds": scale.rounds}
    tools = [
        peers.allhops("jsonl"),
        peers.allhops("parquet"),
        peers.caracal(),
        peers.scamper(100, output="warts"),
        peers.zmap(),
        peers.masscan(),
        peers.fping(),
    ]
    with five_routers(split=True) as ground:
        for rate_pps in (10_000, 50_000):
            probes = round(rate_pps * scale.seconds)
            outcomes = rounds_of(ground, tools, lambda tool, p=probes, r=rate_pps: _held(tool, p, r), scale, progress)
            tables[f"cpu at {rate_pps} pps"] = [_cpu_row(runs, outcomes) for runs in outcomes.values()]
    return tables


def _held(tool: Tool, probes: int, rate_pps: int | None) -> Task:
    """So many probes, as echoes or as paths."""
    max_ttl = 1 if tool.one_probe_each else CHAIN_TTL
    return Task(
        destinations=chain_destinations(probes // max_ttl),
        max_ttl=max_ttl,
        rate_pps=rate_pps,
        timeout_s=probes / min(rate_pps or peers.SCAMPER_MOST_PPS, peers.SCAMPER_MOST_PPS) + SLACK_S,
    )


def _cpu_row(runs: Sequence[Outcome], outcomes: dict[str, list[Outcome]]) -> dict[str, object]:
    ours = next((own for name, own in outcomes.items() if name.startswith("allhops")), runs)
    spent = median([each.cpu_us for each in runs])
    return {
        "tool": runs[0].tool.name,
        "cpu_us_per_probe": spent,
        "least": round(min(each.cpu_us for each in runs), 2),
        "ratio": round(spent / median([each.cpu_us for each in ours], 4), 2),
        "user_us": median([each.ran.usage.user_s / each.ran.packets.sent * 1e6 for each in runs]),
        "pps": round(statistics.median(each.ran.mean_pps for each in runs)),
        "most_in_a_second": max(each.ran.most_in_a_second for each in runs),
        "probes": runs[0].ran.packets.sent,
        "back": min(each.ran.packets.received for each in runs),
        "wrong": _sum(runs, "wrong"),
        "missed": _sum(runs, "missed"),
        "rss_mb": round(max(each.ran.usage.peak_rss_bytes for each in runs) / 2**20),
        "remark": runs[0].tool.remark,
    }


def _sum(runs: Sequence[Outcome], name: str) -> object:
    """Over all rounds; a dash for a tool that finds no paths."""
    values = [getattr(each, name) for each in runs]
    return "-" if None in values else sum(values)


def peak(progress: Callable[[str], None], scale: Scale) -> dict[str, object]:
    """As fast as each tool goes through five routers, everything on both CPUs."""
    probes = round(PEAK_PPS * scale.seconds)
    tools = [
        peers.allhops("jsonl"),
        peers.allhops("parquet"),
        peers.caracal(),
        peers.scamper(100, output="warts"),
        peers.zmap(),
        peers.fping(),
    ]
    with five_routers(split=False) as ground:
        outcomes = rounds_of(ground, tools, lambda tool: _held(tool, probes, None), scale, progress)
    return {"probes": probes, "rounds": scale.rounds, "peak": [_peak_row(runs, outcomes) for runs in outcomes.values()]}


PEAK_PPS = 60_000
"""How many probes for each second of `Scale.seconds`: what the fastest need some four seconds for, of ten."""


def _peak_row(runs: Sequence[Outcome], outcomes: dict[str, list[Outcome]]) -> dict[str, object]:
    ours = next((own for name, own in outcomes.items() if name.startswith("allhops")), runs)
    reached = statistics.median(each.ran.mean_pps for each in runs)
    return {
        "tool": runs[0].tool.name,
        "pps": round(reached),
        "ratio": round(statistics.median(each.ran.mean_pps for each in ours) / reached, 2),
        "cpu_us_per_probe": median([each.cpu_us for each in runs]),
        "wall_s": median([each.ran.usage.wall_s for each in runs]),
        "probes": runs[0].ran.packets.sent,
        "back": min(each.ran.packets.received for each in runs),
        "wrong": _sum(runs, "wrong"),
        "missed": _sum(runs, "missed"),
        "rss_mb": round(max(each.ran.usage.peak_rss_bytes for each in runs) / 2**20),
        "remark": runs[0].tool.remark,
    }


def programs() -> dict[str, bool]:
    """Which peers this machine has."""
    return {name: shutil.which(name) is not None for name in ("scamper", "traceroute", "mtr", "zmap", "masscan", "fping")}
