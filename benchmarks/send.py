"""The send path against a loop of sendmmsg in C: the same packets, prebuilt, to the same sink, on the same CPU.

A router drops every packet at its door, so the figure is what sending costs: the system call, the way through the
kernel and the device.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from allhops.testing.namespaces import Lab, chain
from benchmarks.batch_lab import PROBER_CPU

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.batches import Scale

SOURCE = Path(__file__).with_name("c") / "send_loop.c"
PACKETS_A_SECOND = 50_000
"""Packets for each second of `Scale.seconds`."""
C_BATCHES = (32, 256)
OUR_BURSTS = (64, 512, 1_024)
"""At a call of our `send`, which makes its own slices: the pacer's at some 15,000 pps, and as fast as it goes."""
PACKET_SIZE = 60
INTERFACE, ROUTER_MAC, CLIENT_MAC = "v0n", "020000000002", "020000000001"
SINK = """
add table netdev sink
add chain netdev sink door { type filter hook ingress device "v0f" priority 0; policy drop; }
"""


class SendFailedError(Exception):
    """A sender did not send; the message has its last words."""


def run(progress: Callable[[str], None], scale: Scale) -> dict[str, object]:
    """Microseconds of wall time and CPU a packet: medians of rounds that take turns."""
    compiler = shutil.which("cc")
    if compiler is None:
        return {"send": "no C compiler here: nothing to compare with"}
    count = str(round(PACKETS_A_SECOND * scale.seconds))
    with tempfile.TemporaryDirectory(prefix="allhops-send-") as name, chain(1, families=(4,), limits="off") as lab:
        lab.run(["nft", "-f", "-"], node="r1", input=SINK).check_returncode()
        directory = Path(name)
        loop = directory / "send_loop"
        subprocess.run([compiler, "-O2", "-o", loop, SOURCE], check=True)
        packets, frames = _packets(lab, directory)
        senders: dict[str, Sequence[str]] = {}
        for way, file, size in (("raw", packets, PACKET_SIZE), ("packet", frames, PACKET_SIZE + 14)):
            for batch in C_BATCHES:
                told = [str(file), str(size), count, str(batch)]
                senders[f"C {way}, {batch} a call"] = [str(loop), way, INTERFACE, *told]
            wire = "ring" if way == "packet" else way
            for burst in OUR_BURSTS:
                senders[f"ours {wire}, {burst} a burst"] = _ours(wire, packets, count, burst)
            senders[f"ours {wire}, {OUR_BURSTS[-1]} a burst, built"] = _ours(
                wire, packets, count, OUR_BURSTS[-1], "build"
            )
        took: dict[str, list[tuple[float, float]]] = {sender: [] for sender in senders}
        for number in range(1, scale.rounds + 1):
            for sender, argv in senders.items():
                progress(f"round {number}/{scale.rounds}: {sender}")
                took[sender].append(_times(lab, argv))
    return {"packets": int(count), "rounds": scale.rounds, "send, us a packet": _rows(took)}


def _ours(wire: str, packets: Path, count: str, burst: int, *rest: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.send_ours", wire, str(packets), count, str(burst), *rest]


def _packets(lab: Lab, directory: Path) -> tuple[Path, Path]:
    """A file of our packets, and one of the same with Ethernet headers."""
    packets, frames = directory / "packets", directory / "frames"
    _times(lab, _ours("raw", packets, "1", 1))
    header = bytes.fromhex(ROUTER_MAC + CLIENT_MAC + "0800")
    octets = packets.read_bytes()
    starts = range(0, len(octets), PACKET_SIZE)
    frames.write_bytes(b"".join(header + octets[start : start + PACKET_SIZE] for start in starts))
    return packets, frames


def _times(lab: Lab, argv: Sequence[str]) -> tuple[float, float]:
    result = lab.run(["taskset", "--cpu-list", str(PROBER_CPU), *argv])
    if result.returncode:
        raise SendFailedError(f"{' '.join(argv)}: {result.stderr[-500:]}")
    wall_us, cpu_us = map(float, result.stdout.split())
    return wall_us, cpu_us


def _rows(took: dict[str, list[tuple[float, float]]]) -> list[dict[str, object]]:
    """`share_of_c`: of our CPU, what the faster of C's two batch sizes takes on the same kind of socket."""
    spent = {sender: statistics.median(cpu for _, cpu in times) for sender, times in took.items()}
    rows: list[dict[str, object]] = []
    for sender, times in took.items():
        sort = "raw" if " raw" in sender else "packet"
        floor = min(cpu for other, cpu in spent.items() if other.startswith(f"C {sort}"))
        rows.append(
            {
                "sender": sender,
                "wall_us": round(statistics.median(wall for wall, _ in times), 3),
                "cpu_us": round(spent[sender], 3),
                "kpps": round(1e3 / spent[sender]),
                "share_of_c": f"{100 * floor / spent[sender]:.0f} %",
            }
        )
    return rows
