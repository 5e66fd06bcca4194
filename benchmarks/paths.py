"""Fifty destinations, one trace each, by every tool: whole-process wall time, and hops found against the truth.

The tools run in turn, destination by destination, in one network namespace whose every route leads into a synthetic
internet (`allhops.testing.tun`): 8 to 25 hops, 30 to 150 ms, silent hops, silent destinations, and a name server
that takes 20 ms. Each tool runs with its defaults, names included, and once more without names. Nobody limits its
ICMP there, so that no tool pays for what the one before it used up.
"""

from __future__ import annotations

import re
import shutil
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allhops.testing import generate
from allhops.testing.namespaces import Lab, tun_internet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


SEED = 2026
DESTINATIONS = 50
TIMEOUT_S = 120
ALLHOPS = str(Path(sys.executable).with_name("allhops"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A command line without its destination, and how to read rows out of what it prints."""

    name: str
    argv: Sequence[str]
    row: re.Pattern[str]
    """Groups: TTL, the rest of the row."""


_TRACEROUTE_ROW = re.compile(r"^ *(\d+)  (.*)$")
_MTR_ROW = re.compile(r"^ *(\d+)\.\|-- (.*)$")
_SCAMPER_ROW = re.compile(r"^ *(\d+)  (.*)$")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")

TOOLS = (
    Tool(name="allhops", argv=(ALLHOPS,), row=_TRACEROUTE_ROW),
    Tool(name="traceroute", argv=("traceroute",), row=_TRACEROUTE_ROW),
    Tool(name="mtr -r -c 1 -b", argv=("mtr", "-r", "-c", "1", "-b", "-w"), row=_MTR_ROW),
    Tool(name="allhops -n", argv=(ALLHOPS, "-n"), row=_TRACEROUTE_ROW),
    Tool(name="traceroute -n", argv=("traceroute", "-n"), row=_TRACEROUTE_ROW),
    Tool(name="mtr -r -c 1 -n", argv=("mtr", "-r", "-c", "1", "-n"), row=_MTR_ROW),
    Tool(name="scamper -p 10000", argv=("scamper", "-p", "10000", "-i"), row=_SCAMPER_ROW),
)


@dataclass(slots=True, kw_only=True)
class Run:
    """One tool on one destination."""

    tool: str
    destination: str
    silent_destination: bool
    silent_hops: int
    rtt_ms: float
    wall_s: float
    right: int
    wrong: int
    missed: int


def run(progress: Callable[[str], None]) -> dict[str, object]:
    """All tools on all destinations.

    Returns: what `report` prints, ready for JSON.
    """
    scenario = generate(
        SEED, destinations=DESTINATIONS, silent_hop_share=0.06, silent_destination_share=0.2, families=(4,), dns=True
    )
    destinations = [str(network.network_address) for path in scenario.paths for network in path.destinations]
    tools = [tool for tool in TOOLS if shutil.which(tool.argv[0])]
    runs = []
    with tun_internet(scenario) as lab:
        for number, destination in enumerate(destinations, start=1):
            progress(f"{number}/{len(destinations)} {destination}")
            runs += [_run(lab, tool, destination) for tool in tools]
    return {"seed": SEED, "destinations": len(destinations), "tools": _summary(runs), "against": _against(runs)}


def _run(lab: Lab, tool: Tool, destination: str) -> Run:
    assert lab.internet is not None
    started = time.perf_counter()
    result = lab.run([*tool.argv, destination], timeout=TIMEOUT_S)
    wall_s = time.perf_counter() - started
    found = _found(tool, result.stdout)
    truth = {hop.ttl: hop for hop in lab.internet.truth(destination)}
    answering = {ttl: str(hop.address) for ttl, hop in truth.items() if hop.address is not None}
    last = max(truth.values(), key=lambda hop: hop.ttl)
    return Run(
        tool=tool.name,
        destination=destination,
        silent_destination=last.address is None,
        silent_hops=len(truth) - len(answering) - (last.address is None),
        rtt_ms=last.rtt_ns / 1e6,
        wall_s=wall_s,
        right=sum(found.get(ttl) == address for ttl, address in answering.items()),
        wrong=sum(answering.get(ttl) != address for ttl, address in found.items()),
        missed=sum(ttl not in found for ttl in answering),
    )


def _found(tool: Tool, output: str) -> dict[int, str]:
    """TTL to the address on its row."""
    found = {}
    for line in output.splitlines():
        row = tool.row.match(line)
        address = _ADDRESS.search(row[2]) if row else None
        if row and address:
            found[int(row[1])] = address[0]
    return found


def _summary(runs: Sequence[Run]) -> list[dict[str, object]]:
    """One entry a tool: medians of wall time by sort of destination, and hops against the truth."""

    def median(of: Sequence[Run]) -> float | None:
        return round(statistics.median(each.wall_s for each in of), 3) if of else None

    summary: list[dict[str, object]] = []
    for tool in dict.fromkeys(each.tool for each in runs):
        own = [each for each in runs if each.tool == tool]
        reached = [each for each in own if not each.silent_destination]
        summary.append(
            {
                "tool": tool,
                "healthy_s": median([each for each in reached if not each.silent_hops]),
                "silent_hops_s": median([each for each in reached if each.silent_hops]),
                "silent_destination_s": median([each for each in own if each.silent_destination]),
                "total_s": round(sum(each.wall_s for each in own), 1),
                "slowest_s": round(max(each.wall_s for each in own), 2),
                "hops_right": sum(each.right for each in own),
                "hops_wrong": sum(each.wrong for each in own),
                "hops_missed": sum(each.missed for each in own),
            }
        )
    return summary


def _against(runs: Sequence[Run]) -> dict[str, dict[str, object]]:
    """Allhops against traceroute, pair by pair: defaults against defaults, and without names."""
    walls = {(each.tool, each.destination): each for each in runs}
    result: dict[str, dict[str, object]] = {}
    for ours, theirs in (("allhops", "traceroute"), ("allhops -n", "traceroute -n")):
        pairs = [
            (each, walls[theirs, each.destination])
            for each in runs
            if each.tool == ours and (theirs, each.destination) in walls
        ]
        if not pairs:
            continue
        ratios = [mine.wall_s / other.wall_s for mine, other in pairs]
        silent = [mine.wall_s / other.wall_s for mine, other in pairs if mine.silent_destination]
        result[f"{ours} / {theirs}"] = {
            "median_ratio": round(statistics.median(ratios), 3),
            "worst_ratio": round(max(ratios), 3),
            "slower_on": sum(ratio > 1 for ratio in ratios),
            "silent_destination_worst_ratio": round(max(silent), 3) if silent else None,
        }
    return result
