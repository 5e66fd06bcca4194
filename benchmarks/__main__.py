"""Run the short benchmarks, or those that are named, write JSON to benchmarks/results and print tables.

python -m benchmarks [NAME ...] [--minutes 1] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import (
    batch_chain,
    batch_internet,
    foreign,
    frugality,
    growth,
    kill,
    lanes,
    paths,
    receive,
    send,
    startup,
    whole,
)
from benchmarks.batches import Scale

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BENCHMARKS: dict[str, Callable[[Callable[[str], None]], dict[str, object]]] = {
    "foreign": foreign.run,
    "frugality": frugality.run,
    "lanes": lanes.run,
    "paths": paths.run,
    "startup": startup.run,
    "whole": whole.run,
}
BATCHES: dict[str, Callable[[Callable[[str], None], Scale], dict[str, object]]] = {
    "batch-cpu": batch_chain.cpu,
    "batch-growth": growth.run,
    "batch-paths": batch_internet.paths,
    "batch-peak": batch_chain.peak,
    "batch-probes": batch_internet.probes,
    "batch-receive": receive.run,
    "batch-rtt": batch_chain.rtt,
    "batch-send": send.run,
    "kill": kill.run,
}
"""Those that can be longer or shorter."""
SHORT = ("batch-cpu", "batch-peak")
"""Of them, those that run when nobody names any: the others take minutes to an hour."""
RESULTS = Path(__file__).with_name("results")


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of equal keys as a Markdown table."""
    if not rows:
        return ""
    header = list(rows[0])
    cells = [header, ["---"] * len(header), *([str(row[key]) for key in header] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def show(result: Mapping[str, object]) -> None:
    """Lists of rows as tables, everything else as it is."""
    for key, value in result.items():
        if isinstance(value, list):
            print(f"\n{key}\n\n{table(value)}\n")
        else:
            print(f"{key}: {json.dumps(value)}")


def progress(text: str) -> None:
    """One line on a terminal, nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def main() -> int:
    """Run, write, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    every = {**BENCHMARKS, **BATCHES}
    parser.add_argument("names", nargs="*", help=f"the short ones if none is named: {', '.join(every)}")
    usual = Scale()
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=usual.seconds, help="how long a rate is held")
    length.add_argument("--minutes", type=float, help="the same")
    parser.add_argument("--rounds", type=int, default=usual.rounds, help="of every tool, in turn: medians")
    parser.add_argument("--only", default="", help="of the batches' tools, those whose names begin so")
    parser.add_argument("--times", type=int, default=usual.times, help="how often a batch is killed")
    parser.add_argument("--most", type=int, default=usual.most, help="destinations of the largest batch")
    options = parser.parse_args()
    names = options.names or [*BENCHMARKS, *SHORT]
    scale = Scale(
        seconds=options.minutes * 60 if options.minutes else options.seconds,
        rounds=options.rounds,
        only=options.only,
        times=options.times,
        most=options.most,
    )
    if os.geteuid() != 0:
        print("benchmarks: they build network namespaces: run as root", file=sys.stderr)
        return 3
    RESULTS.mkdir(exist_ok=True)
    for name in names:
        result = BATCHES[name](progress, scale) if name in BATCHES else BENCHMARKS[name](progress)
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        progress("")
        print(f"\n## {name}\n")
        show(result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
