"""Whole batches side by side: one task for every tool, run in turn, counted and judged.

Runs are interleaved, tool by tool within a round, and a table has the medians of the rounds. Every tool is asked the
same probes at the same rate; where it cannot, its remark says so. What was sent is counted by the interface.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import peers
from benchmarks.findings import coverage, gather, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.batch_lab import Ground, Ran
    from benchmarks.findings import Coverage, Findings, Verdict
    from benchmarks.peers import Tool

SEED = 2026
SLACK_S = 240
"""More than any tool needs beyond its probes and their rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of it."""

    seconds: float = 5.0
    """Of sending, where a rate is held."""
    rounds: int = 3
    only: str = ""
    """Tools whose names begin so; all of them if it is empty."""
    times: int = 10
    """How often a batch is killed."""
    most: int = 1_000_000
    """Largest batch of the growth."""


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
    findings: Findings | None
    """None for a tool that finds no paths."""
    verdict: Verdict | None
    """On what was measured."""
    shown: Verdict | None = None
    """The same on inherited hops too, where the tool has such."""
    coverage: Coverage | None = None
    """None for a tool whose flows are not known."""

    @property
    def wall_s(self) -> float:
        """From the process's start to its end."""
        return self.ran.usage.wall_s

    @property
    def probes_each(self) -> float:
        """Probes sent for each address found."""
        return self.ran.packets.sent / max(1, self.findings.addresses() if self.findings is not None else 0)

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
            return Outcome(tool=tool, ran=ran, findings=None, verdict=None)
        measured = tool.read(job)
        inherited = None if tool.read_inherited is None else tool.read_inherited(job)
        flows = None if tool.read_flows is None else tool.read_flows(job)
    findings = gather(measured)
    asked = np.array([int(IPv4Address(each)) for each in own.destinations], np.uint32)
    verdict = judge(findings, ground.truth, asked, own.max_ttl)
    shown = verdict
    if inherited is not None and len(inherited):
        shown = judge(gather(np.concatenate([measured, inherited])), ground.truth, asked, own.max_ttl)
    covered = None if flows is None else coverage(findings, flows, ground.truth, own.max_ttl)
    return Outcome(tool=tool, ran=ran, findings=findings, verdict=verdict, shown=shown, coverage=covered)


def rounds_of(
    ground: Ground, tools: Sequence[Tool], task: Callable[[Tool], Task], scale: Scale, progress: Callable[[str], None]
) -> dict[str, list[Outcome]]:
    """All tools that are here, once a round, by name; one that fails says so on stderr and has no row."""
    here = [tool for tool in tools if tool.name.startswith(scale.only) and tool.is_here()]
    outcomes: dict[str, list[Outcome]] = {tool.name: [] for tool in here}
    for number in range(1, scale.rounds + 1):
        for tool in here:
            if tool.name not in outcomes:
                continue
            progress(f"round {number}/{scale.rounds}: {tool.name}")
            try:
                outcomes[tool.name].append(run_tool(ground, tool, task(tool)))
            except ToolFailedError as error:
                print(error, file=sys.stderr)
                del outcomes[tool.name]
    return outcomes


def times_ours(
    runs: Sequence[Outcome], outcomes: Mapping[str, Sequence[Outcome]], value: Callable[[Outcome], float]
) -> object:
    """Median over the first row's of ours; a dash where we did not run."""
    ours = next((own for name, own in outcomes.items() if name.startswith("allhops")), None)
    if ours is None:
        return "-"
    return round(statistics.median(map(value, runs)) / statistics.median(map(value, ours)), 2)


def told(runs: Sequence[Outcome], name: str) -> object:
    """One field of the verdicts on what was measured, the sum of all rounds; a dash for a tool that finds no paths."""
    return _sum([each.verdict for each in runs], name)


def told_with_inherited(runs: Sequence[Outcome], name: str) -> object:
    """The same on inherited hops too."""
    return _sum([each.shown for each in runs], name)


def _sum(verdicts: Sequence[Verdict | None], name: str) -> object:
    values = [getattr(each, name) for each in verdicts if each is not None]
    return sum(values) if values else "-"


def median(values: Sequence[float], digits: int = 2) -> float:
    """Rounded for a table."""
    return round(statistics.median(values), digits)
