"""Batches through five routers: CPU a probe, peak rate, and how far the RTT is from the wire's."""

from __future__ import annotations

import os
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import peers
from benchmarks.batch_lab import ROUTERS, chain_destinations, five_routers
from benchmarks.batches import SLACK_S, Outcome, Scale, Task, median, rounds_of, run_tool, times_ours, told
from benchmarks.wire_clock import WireTimes, listening, wire_times

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from benchmarks.batch_lab import Ground
    from benchmarks.findings import Findings
    from benchmarks.peers import Tool

CHAIN_TTL = ROUTERS + 1
RATES_PPS = (10_000, 50_000)
PEAK_PPS = 60_000
"""Probes for each second of `Scale.seconds`, at the peak: what the fastest need a third of that time for."""


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
        for rate_pps in RATES_PPS:
            probes = round(rate_pps * scale.seconds)
            outcomes = rounds_of(ground, tools, partial(_held, probes, rate_pps), scale, progress)
            tables[f"cpu at {rate_pps} pps"] = [_cpu_row(runs, outcomes) for runs in outcomes.values()]
    return tables


def _held(probes: int, rate_pps: int | None, tool: Tool) -> Task:
    """So many probes, as echoes or as paths."""
    max_ttl = 1 if tool.one_probe_each else CHAIN_TTL
    return Task(
        destinations=chain_destinations(probes // max_ttl),
        max_ttl=max_ttl,
        rate_pps=rate_pps,
        timeout_s=probes / min(rate_pps or peers.SCAMPER_MOST_PPS, peers.SCAMPER_MOST_PPS) + SLACK_S,
    )


def _cpu_row(runs: Sequence[Outcome], outcomes: dict[str, list[Outcome]]) -> dict[str, object]:
    return {
        "tool": runs[0].tool.name,
        "cpu_us_per_probe": median([each.cpu_us for each in runs]),
        "least": round(min(each.cpu_us for each in runs), 2),
        "times_ours": times_ours(runs, outcomes, lambda run: run.cpu_us),
        "user_us": median([each.ran.usage.user_s / each.ran.packets.sent * 1e6 for each in runs]),
        "pps": round(statistics.median(each.ran.mean_pps for each in runs)),
        "most_in_a_second": max(each.ran.most_in_a_second for each in runs),
        "probes": runs[0].ran.packets.sent,
        "back": min(each.ran.packets.received for each in runs),
        "wrong": told(runs, "wrong"),
        "missed": told(runs, "missed"),
        "rss_mb": round(max(each.ran.usage.peak_rss_bytes for each in runs) / 2**20),
        "remark": runs[0].tool.remark,
    }


def peak(progress: Callable[[str], None], scale: Scale) -> dict[str, object]:
    """As fast as each tool goes through five routers, everything on both CPUs."""
    probes = round(PEAK_PPS * scale.seconds)
    tools = [
        peers.allhops("jsonl"),
        peers.allhops("parquet"),
        peers.allhops_shards(len(os.sched_getaffinity(0))),
        peers.caracal(),
        peers.scamper(100, output="warts"),
        peers.zmap(),
        peers.fping(),
    ]
    with five_routers(split=False) as ground:
        outcomes = rounds_of(ground, tools, partial(_held, probes, None), scale, progress)
    return {"probes": probes, "rounds": scale.rounds, "peak": [_peak_row(runs, outcomes) for runs in outcomes.values()]}


def _peak_row(runs: Sequence[Outcome], outcomes: dict[str, list[Outcome]]) -> dict[str, object]:
    return {
        "tool": runs[0].tool.name,
        "pps": round(statistics.median(each.ran.mean_pps for each in runs)),
        "times_ours": times_ours(runs, outcomes, lambda run: run.ran.mean_pps),
        "cpu_us_per_probe": median([each.cpu_us for each in runs]),
        "wall_s": median([each.ran.usage.wall_s for each in runs]),
        "probes": runs[0].ran.packets.sent,
        "back": min(each.ran.packets.received for each in runs),
        "wrong": told(runs, "wrong"),
        "missed": told(runs, "missed"),
        "rss_mb": round(max(each.ran.usage.peak_rss_bytes for each in runs) / 2**20),
        "remark": runs[0].tool.remark,
    }


RTT_PPS = 50_000
RTT_MOST_S = 4.0
"""A minute of captured packets would not tell more."""


def rtt(progress: Callable[[str], None], scale: Scale) -> dict[str, object]:
    """What each tool says of a round trip, minus what the kernel's stamps of the same two packets say."""
    probes = round(RTT_PPS * min(scale.seconds, RTT_MOST_S))
    tools = [peers.allhops("jsonl"), peers.caracal(), peers.scamper(100)]
    rows = []
    with five_routers(split=True) as ground:
        for tool in (each for each in tools if each.name.startswith(scale.only) and each.is_here()):
            runs = []
            for number in range(1, scale.rounds + 1):
                progress(f"round {number}/{scale.rounds}: {tool.name}")
                runs.append(_rtt_errors(ground, tool, _held(probes, RTT_PPS, tool)))
            errors, true = (np.concatenate(each) for each in zip(*runs, strict=True))
            rows.append(_rtt_row(tool, errors, true))
    return {"probes": probes, "asked_pps": RTT_PPS, "rounds": scale.rounds, "rtt error, us": rows}


def _rtt_errors(ground: Ground, tool: Tool, task: Task) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What the tool says minus the truth, and the truth, ns, of all probes that both have."""
    with tempfile.TemporaryDirectory(prefix="allhops-rtt-") as directory:
        capture = Path(directory, "capture")
        with listening(ground, capture):
            findings = run_tool(ground, tool, task).findings
        times = wire_times(capture)
    assert findings is not None  # these tools find paths
    return _differences(findings, times)


def _differences(findings: Findings, times: WireTimes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    stamped = times.destination.astype(np.uint64) << np.uint64(8) | times.ttl
    order = np.argsort(stamped)
    stamped, truth = stamped[order], times.rtt_ns[order]
    said = findings.destination.astype(np.uint64) << np.uint64(8) | findings.ttl
    at = np.minimum(np.searchsorted(stamped, said), len(stamped) - 1)
    both = (stamped[at] == said) & (findings.rtt_ns >= 0)
    return findings.rtt_ns[both] - truth[at[both]], truth[at[both]]


def _rtt_row(tool: Tool, errors: NDArray[np.int64], true: NDArray[np.int64]) -> dict[str, object]:
    low, high = np.percentile(errors, (5, 95)) / 1e3
    return {
        "tool": tool.name,
        "median_error": round(float(np.median(errors)) / 1e3, 1),
        "median_size": round(float(np.median(np.abs(errors))) / 1e3, 1),
        "p5": round(float(low), 1),
        "p95": round(float(high), 1),
        "p99_size": round(float(np.percentile(np.abs(errors), 99)) / 1e3, 1),
        "true_rtt_median": round(float(np.median(true)) / 1e3, 1),
        "probes": len(errors),
        "remark": tool.remark,
    }
