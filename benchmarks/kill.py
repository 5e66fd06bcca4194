"""kill -9 at random moments, then --resume, until the batch is done: no destination lost, none twice.

The network is simulated in the process that is killed. Between kill and resumption what has been written is judged as
it lies there: a last line may be cut, nothing else.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
from pyarrow import feather, parquet

from allhops.testing import SyntheticInternet
from allhops.testing.namespaces import importing_us

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.batches import Scale

DESTINATIONS = 2_000
RATE_PPS = 2_000
"""Slow enough that a batch lasts longer than a life."""
MAX_TTL = 20
LIFE_S = (0.3, 10.0)
"""Between these it is killed, if it is not done before: from before its first socket to its last line. The first
courses end after some three seconds, the first rows of a Parquet file are durable after five."""
SCHEMA = Path(__file__).parents[1] / "docs" / "trace.schema.json"


class BrokenError(Exception):
    """A batch that was killed is not as if nobody had: the message says how."""


@dataclass(slots=True)
class Record:
    """What was done to the batches of one format; whatever came out wrong has raised."""

    batches: int = 0
    """That were brought to their end."""
    kills: int = 0
    kills_while_writing: int = 0
    """Those after which there were some results, not all."""


def run(progress: Callable[[str], None], scale: Scale) -> dict[str, object]:
    """As many kills as `Scale.times` says, for each format."""
    rows = []
    for ending in READERS:
        record = torture(ending, scale.times, DESTINATIONS, seed=scale.times, life_s=LIFE_S, progress=progress)
        rows.append(
            {
                "format": ending,
                "kills": record.kills,
                "while_writing": record.kills_while_writing,
                "batches": record.batches,
                "destinations": record.batches * DESTINATIONS,
                "lost": 0,
                "doubled": 0,
            }
        )
    return {"kill -9, then --resume": rows}


def torture(
    ending: str,
    kills: int,
    destinations: int,
    *,
    seed: int,
    life_s: tuple[float, float],
    progress: Callable[[str], None] = lambda text: None,
) -> Record:
    """Start, kill and resume until there were so many kills and the last batch is done.

    Raises: BrokenError.
    """
    chance, record = random.Random(seed), Record()
    internet = SyntheticInternet(seed, destinations=destinations)
    addresses = [str(IPv4Address(number)) for number in internet.destinations().tolist()]
    read = READERS[ending]
    while record.kills < kills:
        with tempfile.TemporaryDirectory(prefix="allhops-kill-") as name:
            list_file, results = Path(name, "list"), Path(name, f"results.{ending}")
            list_file.write_text("".join(f"{address}\n" for address in addresses))
            argv = [
                *(sys.executable, "-m", "benchmarks.simulated", json.dumps(internet.arguments)),
                *(
                    "--rate",
                    str(RATE_PPS),
                    "--strategy",
                    "parallel",
                    "--attempts",
                    "1",
                    "-m",
                    str(MAX_TTL),
                    "--seed",
                    str(seed),
                ),
                *("-o", str(results), "--resume", str(list_file)),
            ]
            while not _is_done(argv, chance.uniform(*life_s) if record.kills < kills else None):
                record.kills += 1
                progress(f"{ending}: kill {record.kills}/{kills}")
                written = read(results, is_whole=False)
                _judge(written, addresses, may_lack=True)
                record.kills_while_writing += 0 < len(written) < destinations
            _judge(read(results, is_whole=True), addresses, may_lack=False)
            record.batches += 1
    return record


def _is_done(argv: Sequence[str], life_s: float | None) -> bool:
    """Run until it ends or, after so many seconds, is killed; whether it ended, and well."""
    with subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=importing_us(), text=True
    ) as batch:
        try:
            said = batch.communicate(timeout=life_s)[1]
        except subprocess.TimeoutExpired:
            batch.kill()
            return False
    if batch.returncode:
        raise BrokenError(f"status {batch.returncode}: {said[-500:]}")
    return True


def _judge(written: Counter[str], addresses: Sequence[str], *, may_lack: bool) -> None:
    """Raises: BrokenError for a destination that is there twice, was never asked for, or is lost."""
    doubled = [address for address, count in written.items() if count > 1]
    foreign, lost = set(written) - set(addresses), set(addresses) - set(written)
    if doubled or foreign or (lost and not may_lack):
        raise BrokenError(f"{len(doubled)} doubled, {len(foreign)} never asked for, {len(lost)} lost")


def _read_jsonl(results: Path, *, is_whole: bool) -> Counter[str]:
    """How often each destination has a line; each is JSON of our schema, and only after a kill the last may be cut."""
    if not results.exists():
        return Counter()
    *lines, rest = results.read_bytes().split(b"\n")
    if rest and is_whole:
        raise BrokenError(f"the last line is cut: {rest[-80:]!r}")
    traces = [json.loads(line) for line in lines]
    if is_whole:
        validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
        for trace in traces:
            validator.validate(trace)
    return Counter(trace["destination"] for trace in traces)


def _read_parquet(results: Path, *, is_whole: bool) -> Counter[str]:
    """How often each destination is there: once if no probe of it has two rows."""
    parts = [results] if results.exists() else sorted(results.with_name(f"{results.name}.parts").glob("*.arrow"))
    if is_whole and parts != [results]:
        raise BrokenError(f"{results.name} was never made of its parts")
    names = ["destination", "ttl", "probe_ttl", "attempt"]
    rows = Counter(row for part in parts for row in zip(*_columns(part, names), strict=True))
    counts: Counter[str] = Counter()
    for (destination, *_), count in rows.items():
        counts[destination] = max(counts[destination], count)
    return counts


def _columns(file: Path, names: list[str]) -> list[list[object]]:
    read = feather.read_table if file.suffix == ".arrow" else parquet.read_table
    return list(read(file, columns=names).to_pydict().values())


READERS: dict[str, Callable[..., Counter[str]]] = {"jsonl": _read_jsonl, "parquet": _read_parquet}
