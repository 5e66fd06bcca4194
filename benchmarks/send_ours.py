"""What one of our wires pays to send: `send_ours raw|ring PACKETS COUNT MOST [build]`, as c/send_loop.c does.

Writes the packets that it sends to the file PACKETS. MOST at a call of `send`; with `build` each block is made anew by
the vector lane, otherwise the same one leaves again and again. Prints microseconds a packet: wall, CPU of this process.
"""

from __future__ import annotations

import asyncio
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from allhops.core.batch.window import BLOCK_PROBES
from allhops.core.lanes.vector import VectorLane
from allhops.core.ledger import Counters
from allhops.core.plan import Plan
from allhops.model import Protocol
from allhops.net.batch.group import Group
from allhops.net.batch.raw import RawWire
from allhops.net.batch.rings import RingWire
from allhops.net.batch.wire import Way
from allhops.options import TraceOptions
from allhops.wire.probes import LAYOUTS
from benchmarks.batch_lab import chain_destinations
from benchmarks.replies import COOKIE, KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allhops.net.batch.wire import BatchLease, Wire

WIRES: dict[str, type[Wire]] = {"raw": RawWire, "ring": RingWire}
TTL = 1


def plan_through(lease: BatchLease, way: Way, options: TraceOptions, destinations: Sequence[IPv4Address]) -> Plan:
    """UDP probes of default size to these, by this way."""
    layout = LAYOUTS[Protocol.UDP, way.version]
    return Plan(
        layout=layout,
        options=options,
        destinations=tuple(each.packed for each in destinations),
        source=lease.source,
        source_ports=(lease.source_port,),
        key=KEY,
        cookie=COOKIE,
        size=layout.family.default_size,
        spare_attempts=0,
    )


async def send(name: str, count: int, most: int, *, build: bool) -> tuple[bytes, float, float]:
    """Open, make, send: a block of packets, microseconds of wall time and of CPU for each."""
    wire, counters, options = WIRES[name](), Counters(), TraceOptions(max_ttl=1, attempts=1, first_ttl=TTL)
    wire.open(counters)
    destinations = [IPv4Address(each) for each in chain_destinations(BLOCK_PROBES)]
    way = wire.ways(Group.of(destinations[:1]), options).kinds[0]
    assert isinstance(way, Way), way
    lease = wire.lease(way, options)
    plan = plan_through(lease, way, options, destinations)
    lane, slots = VectorLane(counters, wire.headroom), np.arange(plan.slots)
    block = lane.launch(plan, slots)
    packets = np.frombuffer(block.packets, np.uint8).reshape(-1, block.stride)[:, block.headroom :].tobytes()
    started, cpu, sent = time.perf_counter(), time.process_time(), 0
    while sent < count:
        if block.handed == len(block):
            block.handed = 0
            block.marks.clear()
            if build:
                block = lane.launch(plan, slots)
        before = block.handed
        lease.send(block, most)
        sent += block.handed - before
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    if any(block.errors):
        raise SystemExit(f"refused: errno {max(block.errors)}")
    lease.close()
    wire.close()
    return packets, wall / sent * 1e6, cpu / sent * 1e6


def main() -> None:
    """Read, run, print."""
    name, file, count, most, *rest = sys.argv[1:]
    packets, wall_us, cpu_us = asyncio.run(send(name, int(count), int(most), build=bool(rest)))
    Path(file).write_bytes(packets)
    print(wall_us, cpu_us)


if __name__ == "__main__":
    main()
