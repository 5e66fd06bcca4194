"""Replies a second that one process reads: errors that wait in the kernel, taken, decoded and entered in the ledger.

What the kernel does to bring them there is not in it: that is done by whoever sends them.
"""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING

from allhops.testing.namespaces import chain
from benchmarks.batch_lab import PROBER_CPU

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.testing.namespaces import Lab
    from benchmarks.batches import Scale

WIRES = ("ring", "raw")
INTERFACE = "v0f"
"""The router's, towards us."""


class ReceiveFailedError(Exception):
    """Not every reply was read; the message has the last words."""


def run(progress: Callable[[str], None], scale: Scale) -> dict[str, object]:
    """Microseconds of CPU a reply, medians of rounds that take turns."""
    took: dict[str, list[list[float]]] = {wire: [] for wire in WIRES}
    with chain(1, families=(4,), limits="off") as lab:
        for number in range(1, scale.rounds + 1):
            for wire, times in took.items():
                progress(f"round {number}/{scale.rounds}: {wire}")
                times.append(_times(lab, wire))
    return {"rounds": scale.rounds, "replies, us of CPU each": [_row(wire, times) for wire, times in took.items()]}


def _times(lab: Lab, wire: str) -> list[float]:
    module = [sys.executable, "-m", "benchmarks.receive_ours", wire, lab.nodes["r1"], INTERFACE]
    result = lab.run(["taskset", "--cpu-list", str(PROBER_CPU), *module])
    if result.returncode:
        raise ReceiveFailedError(f"{wire}: {result.stderr[-500:]}")
    return [float(each) for each in result.stdout.split()]


def _row(wire: str, times: list[list[float]]) -> dict[str, object]:
    take, read, enter = (statistics.median(each) for each in zip(*times, strict=True))
    return {
        "wire": wire,
        "take_us": round(take, 3),
        "read_us": round(read, 3),
        "enter_us": round(enter, 3),
        "decoded_a_second": f"{1 / (take + read):.1f} M",
        "entered_a_second": f"{1 / (take + read + enter):.1f} M",
    }
