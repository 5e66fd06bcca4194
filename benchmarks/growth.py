"""How a batch grows: the same command with 100 to 1,000,000 destinations of a synthetic internet in the same process.

Memory and CPU are those of the whole process, the simulation's among them. The plot is drawn into docs/growth.svg.
"""

from __future__ import annotations

import json
import sys
import tempfile
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from allhops.testing import SyntheticInternet
from benchmarks.batches import SEED
from benchmarks.process import as_installed, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.batches import Scale
    from benchmarks.process import Usage

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
AGAINST = 10_000
"""The size that larger ones are compared with: smaller ones are start-up and waiting."""
STRATEGY = "frugal"
RATE = "max"
TIMEOUT_S = 3_600
PLOT = Path(__file__).parents[1] / "docs" / "growth.svg"
LINE_BYTES = 1 << 20
"""Read at once where lines are counted."""


class LinesMissingError(Exception):
    """Not every destination has its line."""


def run(progress: Callable[[str], None], scale: Scale) -> dict[str, object]:
    """One row a size, and the plot if the largest was among them."""
    rows: list[dict[str, float]] = []
    for size in (size for size in SIZES if size <= scale.most):
        progress(f"{size} destinations")
        rows.append(_row(size, *_batch(size)))
    base = next((row["wall_us"] for row in rows if row["destinations"] == AGAINST), rows[-1]["wall_us"])
    for row in rows:
        row[f"against_{AGAINST}"] = round(row["wall_us"] / base, 2)
    if scale.most >= SIZES[-1]:
        draw(rows, PLOT)
    return {"strategy": STRATEGY, "rate": RATE, "growth": rows}


def _batch(size: int) -> tuple[Usage, str]:
    """One batch, and what it said at its end."""
    internet = SyntheticInternet(SEED, destinations=size)
    with tempfile.TemporaryDirectory(prefix="allhops-growth-") as name:
        destinations, results, log = (Path(name, part) for part in ("list", "results.jsonl", "log"))
        with destinations.open("w") as file:
            file.writelines(f"{IPv4Address(number)}\n" for number in internet.destinations().tolist())
        argv = [
            *(sys.executable, "-m", "benchmarks.simulated", json.dumps(internet.arguments)),
            *("--rate", RATE, "--strategy", STRATEGY, "--attempts", "1", "--seed", str(SEED)),
            *("-o", str(results), str(destinations)),
        ]
        usage = measure(argv, log=log, timeout_s=TIMEOUT_S, environment=as_installed())
        said = log.read_text()
        if usage.status or _lines(results) != size:
            raise LinesMissingError(f"status {usage.status}, {_lines(results)} lines of {size}: {said[-500:]}")
    return usage, said


def _lines(file: Path) -> int:
    with file.open("rb") as lines:
        return sum(part.count(b"\n") for part in iter(lambda: lines.read(LINE_BYTES), b""))


def _row(size: int, usage: Usage, said: str) -> dict[str, float]:
    return {
        "destinations": size,
        "wall_s": round(usage.wall_s, 2),
        "wall_us": round(usage.wall_s / size * 1e6, 1),
        "cpu_us": round(usage.cpu_s / size * 1e6, 1),
        "probes": _probes(said),
        "rss_mb": round(usage.peak_rss_bytes / 2**20, 1),
        "open_files": usage.open_files,
    }


def _probes(said: str) -> int:
    """What the command's summary says: "N probes = ..."."""
    (line,) = (line for line in said.splitlines() if " probes = " in line)
    return int(line.removeprefix("allhops: ").partition(" ")[0].replace(",", ""))


def draw(rows: Sequence[Mapping[str, float]], file: Path) -> None:
    """Time for each destination and peak memory, over the size of the batch."""
    import matplotlib  # 0.3 s, for this alone

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "allhops"  # the same figures make the same file
    sizes = [row["destinations"] for row in rows]
    figure, (time_axes, memory_axes) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for key, label in (("wall_us", "wall"), ("cpu_us", "CPU")):
        time_axes.loglog(sizes, [row[key] for row in rows], marker="o", label=label)
    time_axes.set_ylabel("microseconds a destination")
    time_axes.legend()
    memory_axes.semilogx(sizes, [row["rss_mb"] for row in rows], marker="o", color="tab:green", label="peak memory, MB")
    memory_axes.semilogx(sizes, [row["open_files"] for row in rows], marker="o", color="tab:gray", label="open files")
    memory_axes.set_ylim(bottom=0)
    memory_axes.legend()
    for axes in (time_axes, memory_axes):
        axes.set_xlabel("destinations")
        axes.grid(alpha=0.3)
    figure.savefig(file, metadata={"Date": None})
