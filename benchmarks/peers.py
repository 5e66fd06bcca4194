"""The tools side by side: how each is told the same thing, and how what it wrote is read.

A tool that cannot do what is asked (a rate beyond its cap, a path instead of an echo) says so in its remark, which is
printed beside its figures. yarrp, FlashRoute and trippy are not here: Debian packages none of them. Nor is mtr: a
hundred at a time, one cycle each, they are not done with a thousand destinations after four minutes.
"""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.findings import NO_RTT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from benchmarks.batch_lab import Ground

    Cells = tuple[int, int, int, int, int, int]
    Flow = tuple[int, int, int]
    """Destination, source port, destination port."""

ALLHOPS = str(Path(sys.executable).with_name("allhops"))
SCAMPER_MOST_PPS = 10_000
"""Debian's refuses a larger -p."""
FPING_MOST_HOSTS = 65_000
CARACAL_SOURCE_PORT, CARACAL_DESTINATION_PORT = 24_000, 33_434
COOLDOWN_S = 1
"""How long the stateless tools listen after their last probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every tool is asked: one probe for every TTL from 1 to `max_ttl` of every destination."""

    ground: Ground
    destinations: Sequence[str]
    max_ttl: int
    rate_pps: int | None
    """None: as fast as it goes."""
    seed: int
    directory: Path
    """The tool's own; empty at first."""

    @property
    def list_file(self) -> Path:
        """One destination a line."""
        return self.directory / "list"

    @property
    def results(self) -> Path:
        """Where the tool writes; its ending is the tool's."""
        return self.directory / "results"

    def prepare(self) -> None:
        """Write what the tools read; their time does not count it."""
        self.list_file.write_text("".join(f"{each}\n" for each in self.destinations))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A prober as a benchmark sees it."""

    name: str
    program: str
    command: Callable[[Job], Sequence[str]]
    read: Callable[[Job], NDArray[np.int64]] | None = None
    """Rows of `findings.COLUMNS`; None for a tool that finds no paths."""
    read_inherited: Callable[[Job], NDArray[np.int64]] | None = None
    """Rows of hops that are shown, and marked, without having been asked; None for a tool that has none."""
    read_flows: Callable[[Job], NDArray[np.int64]] | None = None
    """Rows of `findings.FLOW_COLUMNS`, of destinations that told nothing too; None for a tool whose ports nobody knows.
    To be called after `read`."""
    prepare: Callable[[Job], None] = Job.prepare
    most_pps: int | None = None
    most_destinations: int | None = None
    one_probe_each: bool = False
    """It sends one echo to each destination and no more."""
    constant_flow: bool = True
    statuses: Sequence[int] = (0,)
    """With which it ends when all is well."""
    remark: str = ""

    def is_here(self) -> bool:
        """Whether this machine has it."""
        return shutil.which(self.program) is not None


def allhops(ending: str, *, strategy: str = "parallel") -> Tool:
    """Ourselves, writing `.jsonl` or `.parquet`."""

    def command(job: Job) -> Sequence[str]:
        return _batch(job, strategy, f"{job.results}.{ending}")

    suffix = "" if strategy == "parallel" else f" {strategy}"
    return Tool(
        name=f"allhops{suffix}, {ending}",
        program=ALLHOPS,
        command=command,
        read=_read_jsonl if ending == "jsonl" else _read_parquet,
        read_inherited=_read_jsonl_inherited if ending == "jsonl" else None,
        read_flows=_read_jsonl_flows if ending == "jsonl" else _read_parquet_flows,
    )


def allhops_shards(count: int) -> Tool:
    """Ourselves, so many processes side by side, each with its share of the list and a file of its own."""

    def command(job: Job) -> Sequence[str]:
        shards = [
            shlex.join([*_batch(job, "parallel", f"{job.results}-{shard}.jsonl"), "--shard", f"{shard}/{count}"])
            for shard in range(1, count + 1)
        ]
        started = "".join(f'{shard} & all="$all $!"; ' for shard in shards)
        return ["sh", "-c", f"{started}for one in $all; do wait $one || exit; done"]

    return Tool(
        name=f"allhops, jsonl, {count} shards",
        program=ALLHOPS,
        command=command,
        read=_read_jsonl,
        read_inherited=_read_jsonl_inherited,
        read_flows=_read_jsonl_flows,
        remark="a process for each core",
    )


def _batch(job: Job, strategy: str, output: str) -> list[str]:
    rate = "max" if job.rate_pps is None else str(job.rate_pps)
    return [
        *(ALLHOPS, "batch", str(job.list_file), "-o", output, "--rate", rate),
        *("--strategy", strategy, "--attempts", "1", "-m", str(job.max_ttl), "--seed", str(job.seed)),
    ]


def scamper(window: int, *, trace: str = "", label: str = "scamper", output: str = "json") -> Tool:
    """Debian's scamper, one probe a hop and its shortest wait, 1 s; as many traces at once as `window` says."""

    def command(job: Job) -> Sequence[str]:
        rate = min(job.rate_pps or SCAMPER_MOST_PPS, SCAMPER_MOST_PPS)
        what = f"trace -P udp-paris -q 1 -w 1 -m {job.max_ttl} {trace}".strip()
        return [
            *("scamper", "-p", str(rate), "-w", str(window), "-O", output, "-o", f"{job.results}.{output}"),
            *("-c", what, "-f", str(job.list_file)),
        ]

    return Tool(
        name=f"{label} -w {window}, {output}",
        program="scamper",
        command=command,
        read=_read_scamper,
        read_flows=_read_scamper_flows,
        most_pps=SCAMPER_MOST_PPS,
        remark="its own cap is 10,000 pps",
    )


def traceroute(processes: int) -> Tool:
    """One process a destination, so many at once."""

    def command(job: Job) -> Sequence[str]:
        line = f"xargs -P {processes} -n 1 traceroute -n -q 1 -m {job.max_ttl} < {job.list_file} > {job.results}.text"
        return ["sh", "-c", line]

    return Tool(
        name=f"xargs -P {processes} traceroute",
        program="traceroute",
        command=command,
        constant_flow=False,
        remark="knows no rate",
    )


def caracal() -> Tool:
    """pycaracal, fed by a file of probes and writing one of replies: the way that its own command goes."""

    def prepare(job: Job) -> None:
        job.prepare()
        tail = f",{CARACAL_SOURCE_PORT},{CARACAL_DESTINATION_PORT},"
        with _caracal_probes(job).open("w") as file:
            for destination in job.destinations:
                file.writelines(f"::ffff:{destination}{tail}{ttl},udp\n" for ttl in range(1, job.max_ttl + 1))

    def command(job: Job) -> Sequence[str]:
        rate = ["none"] if job.rate_pps is None else [str(job.rate_pps)]
        script = str(Path(__file__).with_name("caracal.py"))
        return [sys.executable, script, job.ground.interface, str(_caracal_probes(job)), f"{job.results}.csv", *rate]

    has_it = find_spec("pycaracal") is not None
    return Tool(
        name="caracal",
        program=sys.executable if has_it else "pycaracal",
        command=command,
        read=_read_caracal,
        read_flows=_read_caracal_flows,
        prepare=prepare,
        remark="the file of its probes was made beforehand",
    )


def zmap() -> Tool:
    """One echo to every address of a prefix."""

    def prepare(job: Job) -> None:
        job.prepare()
        (job.directory / "nobody").write_text("")  # its own list forbids private addresses

    def command(job: Job) -> Sequence[str]:
        rate = str(job.rate_pps or 0)
        return [
            *("zmap", "-q", "-M", "icmp_echoscan", "-r", rate, "-i", job.ground.interface),
            *("-G", str(job.ground.gateway_mac), "-b", str(job.directory / "nobody"), "-w", str(job.list_file)),
            *("-c", str(COOLDOWN_S), "-o", f"{job.results}.csv", "-e", str(job.seed)),
        ]

    return Tool(
        name="zmap", program="zmap", command=command, prepare=prepare, one_probe_each=True, remark="echoes, no paths"
    )


def masscan() -> Tool:
    """One echo to every destination; killed some seconds after its last: it waits for a packet that never comes."""

    def command(job: Job) -> Sequence[str]:
        rate = job.rate_pps or 10_000_000
        lasts_s = len(job.destinations) / min(rate, 50_000) + 2 * COOLDOWN_S
        mac = str(job.ground.gateway_mac).replace(":", "-")
        return [
            *(
                "timeout",
                "--foreground",
                "--signal=KILL",
                f"{lasts_s:.0f}",
                "masscan",
                "--ping",
                "-iL",
                str(job.list_file),
            ),
            *("--rate", str(rate), "--adapter", job.ground.interface, "--router-mac", mac),
            *("-oL", f"{job.results}.text", "--wait", str(COOLDOWN_S)),
        ]

    return Tool(
        name="masscan",
        program="masscan",
        command=command,
        one_probe_each=True,
        statuses=(137,),
        remark="echoes, no paths; killed",
    )


def fping() -> Tool:
    """One echo to every destination."""

    def command(job: Job) -> Sequence[str]:
        gap_ms = 1e3 / job.rate_pps if job.rate_pps else 0
        line = f"fping -q -r 0 -i {gap_ms:.3f} -t 1000 -f {job.list_file} > {job.results}.text"
        return ["sh", "-c", f"exec {line}"]

    return Tool(
        name="fping",
        program="fping",
        command=command,
        one_probe_each=True,
        most_destinations=FPING_MOST_HOSTS,
        remark="echoes, no paths",
    )


def _caracal_probes(job: Job) -> Path:
    return job.directory / "probes.csv"


def _number(address: str) -> int:
    return int(struct.unpack("!I", socket.inet_aton(address.removeprefix("::ffff:")))[0])


def _table(rows: Iterable[Cells]) -> NDArray[np.int64]:
    return np.array(list(rows), np.int64).reshape(-1, 6)


def _flows(rows: Iterable[Flow]) -> NDArray[np.int64]:
    return np.array(list(rows), np.int64).reshape(-1, 3)


def _read_jsonl(job: Job) -> NDArray[np.int64]:
    return _table(
        (*flow, hop["ttl"], _number(probe["address"]), round((probe["rtt_ms"] or 0) * 1e6) or NO_RTT)
        for flow, hop in _allhops_hops(job)
        for probe in hop["probes"]
        if probe["address"] is not None
    )


def _read_jsonl_inherited(job: Job) -> NDArray[np.int64]:
    return _table(
        (*flow, hop["ttl"], _number(hop["inherited"]["address"]), NO_RTT)
        for flow, hop in _allhops_hops(job)
        if hop["inherited"] is not None
    )


def _read_jsonl_flows(job: Job) -> NDArray[np.int64]:
    return _flows(flow for flow, _ in _allhops_traces(job))


def _allhops_hops(job: Job) -> Iterable[tuple[Flow, dict[str, Any]]]:
    return ((flow, hop) for flow, trace in _allhops_traces(job) for hop in trace["hops"])


def _allhops_traces(job: Job) -> Iterable[tuple[Flow, dict[str, Any]]]:
    """Those that have sent a probe, of one file or of each shard's."""
    for path in sorted(job.directory.glob(f"{job.results.name}*.jsonl")):
        with path.open(encoding="ascii") as file:
            for trace in map(json.loads, file):
                flow = trace["flow"]
                if flow is not None:
                    yield (_number(trace["address"]), flow["source_port"], flow["destination_port"] or 0), trace


def _read_parquet_flows(job: Job) -> NDArray[np.int64]:
    from pyarrow import parquet  # 60 ms, for this tool alone

    names = ["address", "source_port", "destination_port"]
    read = parquet.read_table(f"{job.results}.parquet", columns=names).to_pydict()
    flows = zip(*read.values(), strict=True)
    return _flows({(_number(address), source, to or 0) for address, source, to in flows if source is not None})


def _read_parquet(job: Job) -> NDArray[np.int64]:
    from pyarrow import parquet  # 60 ms, for this tool alone

    names = ["address", "source_port", "destination_port", "ttl", "responder", "rtt_ns", "state"]
    read = parquet.read_table(f"{job.results}.parquet", columns=names).to_pydict()
    return _table(
        (_number(address), source, destination, ttl, _number(responder), NO_RTT if rtt_ns is None else rtt_ns)
        for address, source, destination, ttl, responder, rtt_ns, state in zip(*read.values(), strict=True)
        if state == "answered" and ttl is not None
    )


def _read_scamper(job: Job) -> NDArray[np.int64]:
    json_file, warts = Path(f"{job.results}.json"), Path(f"{job.results}.warts")
    if warts.exists():
        with json_file.open("wb") as output:
            subprocess.run(["sc_warts2json", str(warts)], check=True, stdout=output)
    with json_file.open(encoding="ascii") as file:
        return _table(row for line in file for row in _scamper_rows(json.loads(line)))


def _read_scamper_flows(job: Job) -> NDArray[np.int64]:
    with open(f"{job.results}.json", encoding="ascii") as file:
        traces = (trace for trace in map(json.loads, file) if "sport" in trace)
        return _flows((_number(trace["dst"]), trace["sport"], trace["dport"]) for trace in traces)


def _scamper_rows(trace: dict[str, object]) -> Iterable[Cells]:
    hops = trace.get("hops")
    if not isinstance(hops, list):
        return
    destination = _number(str(trace["dst"]))
    ports = int(str(trace["sport"])), int(str(trace["dport"]))
    for hop in hops:
        yield destination, *ports, hop["probe_ttl"], _number(hop["addr"]), round(hop["rtt"] * 1e6)


def _read_caracal(job: Job) -> NDArray[np.int64]:
    with open(f"{job.results}.csv", encoding="ascii") as file:
        return _table(
            (
                _number(row["probe_dst_addr"]),
                int(row["probe_src_port"]),
                int(row["probe_dst_port"]),
                int(row["probe_ttl"]),
                _number(row["reply_src_addr"]),
                int(row["rtt"]) * 100_000,  # its unit is 0.1 ms
            )
            for row in csv.DictReader(file)
        )


def _read_caracal_flows(job: Job) -> NDArray[np.int64]:
    return _flows((_number(one), CARACAL_SOURCE_PORT, CARACAL_DESTINATION_PORT) for one in job.destinations)
