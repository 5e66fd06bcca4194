"""What the batch benchmarks read of the tools' results: the flow of each destination, answered or not."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, cast

import pytest

from benchmarks import peers

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.batch_lab import Ground

FIRST, SECOND = "10.0.0.1", "10.0.0.2"
NUMBERS = [10 << 24 | 1, 10 << 24 | 2]


@pytest.fixture
def job(tmp_path: Path) -> peers.Job:
    return peers.Job(
        ground=cast("Ground", None),  # readers look at files alone
        destinations=[FIRST, SECOND],
        max_ttl=30,
        rate_pps=None,
        seed=1,
        directory=tmp_path,
    )


def write(job: peers.Job, ending: str, *lines: dict[str, object], name: str = "results") -> None:
    (job.directory / f"{name}.{ending}").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_ours_are_in_every_trace_that_has_sent_a_probe(job: peers.Job) -> None:
    flow = {"source_port": 40_000, "destination_port": 33_434}
    silent = {"ttl": 1, "probes": [{"address": None}]}
    sent: list[dict[str, object]] = [{"address": one, "flow": flow, "hops": [silent]} for one in (FIRST, SECOND)]
    write(job, "jsonl", *sent, {"address": "10.0.0.3", "flow": None, "hops": []})
    read = peers.allhops("jsonl").read_flows
    assert read is not None
    assert read(job).tolist() == [[number, 40_000, 33_434] for number in NUMBERS]


def test_ours_are_read_of_every_shard(job: peers.Job) -> None:
    tool = peers.allhops_shards(2)
    for shard, address in enumerate((FIRST, SECOND), start=1):
        flow = {"source_port": 40_000 + shard, "destination_port": 33_434}
        write(job, "jsonl", {"address": address, "flow": flow, "hops": []}, name=f"results-{shard}")
        assert f"results-{shard}.jsonl" in tool.command(job)[-1]
    assert tool.read_flows is not None
    assert tool.read_flows(job).tolist() == [[NUMBERS[0], 40_001, 33_434], [NUMBERS[1], 40_002, 33_434]]


def test_a_shard_that_fails_is_not_hidden_by_those_that_do_not(job: peers.Job) -> None:
    shell, option, script = peers.allhops_shards(2).command(job)
    fails_first = script.replace(peers.ALLHOPS, "f", 1).replace(peers.ALLHOPS, ":")
    assert subprocess.run([shell, option, f"f() {{ return 3; }}; {fails_first}"], check=False).returncode == 3
    assert subprocess.run([shell, option, script.replace(peers.ALLHOPS, ":")], check=False).returncode == 0


def test_scampers_are_in_traces_without_a_hop_as_well(job: peers.Job) -> None:
    hop = {"probe_ttl": 1, "addr": "10.9.9.9", "rtt": 1.5}
    ports = {"type": "trace", "sport": 50_000, "dport": 33_435}
    first, second = {"dst": FIRST, **ports, "hops": [hop]}, {"dst": SECOND, **ports}
    write(job, "json", {"type": "cycle-start"}, first, second, {"type": "cycle-stop"})
    tool = peers.scamper(10)
    assert tool.read is not None
    assert tool.read_flows is not None
    assert len(tool.read(job)) == 1
    assert tool.read_flows(job).tolist() == [[number, 50_000, 33_435] for number in NUMBERS]


def test_caracals_are_the_same_for_all(job: peers.Job) -> None:
    read = peers.caracal().read_flows
    assert read is not None
    ports = [peers.CARACAL_SOURCE_PORT, peers.CARACAL_DESTINATION_PORT]
    assert read(job).tolist() == [[number, *ports] for number in NUMBERS]


def test_nobody_knows_those_of_a_process_for_each_destination() -> None:
    assert peers.traceroute(1).read_flows is None
