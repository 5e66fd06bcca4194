"""Run every benchmark, or those that are named, write JSON to benchmarks/results and print tables.

python -m benchmarks [foreign] [lanes] [paths] [startup]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import foreign, lanes, paths, startup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BENCHMARKS: dict[str, Callable[[Callable[[str], None]], dict[str, object]]] = {
    "foreign": foreign.run,
    "lanes": lanes.run,
    "paths": paths.run,
    "startup": startup.run,
}
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
    parser.add_argument("names", nargs="*", help="all of them if none is named")
    names = parser.parse_args().names or list(BENCHMARKS)
    if os.geteuid() != 0:
        print("benchmarks: they build network namespaces: run as root", file=sys.stderr)
        return 3
    RESULTS.mkdir(exist_ok=True)
    for name in names:
        result = BENCHMARKS[name](progress)
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        progress("")
        print(f"\n## {name}\n")
        show(result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
