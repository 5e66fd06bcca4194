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

from allhops.core.lanes.vector import VectorLane
from allhops.core.ledger import Counters
from allhops.core.plan import Plan
from allhops.net.batch.raw import RawWire
from allhops.net.batch.rings import RingWire
from allhops.net.batch.wire import Way
from allhops.options import TraceOptions
from benchmarks.batch_lab import chain_destinations
from benchmarks.lanes import plan_of_many

if TYPE_CHECKING:
    from allhops.net.batch.wire import Wire

WIRES: dict[str, type[Wire]] = {"raw": RawWire, "ring": RingWire}
BLOCK = 4_096
TTL = 1


async def main() -> None:
    """Open, make, send, print."""
    name, file, count, most = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    wire, counters, options = WIRES[name](), Counters(), TraceOptions(max_ttl=1, attempts=1, first_ttl=TTL)
    wire.open(counters)
    destinations = [IPv4Address(each) for each in chain_destinations(BLOCK)]
    way = wire.ways(destinations[:1], options)[0]
    assert isinstance(way, Way), way
    lease = wire.lease(way, options)
    plan = _plan([each.packed for each in destinations], lease.source, lease.source_port, options)
    lane, slots = VectorLane(counters), np.arange(plan.slots)
    block = lane.launch(plan, slots)
    file.write_bytes(block.packets)
    build = len(sys.argv) > 5
    started, cpu, sent = time.perf_counter(), time.process_time(), 0
    while sent < count:
        if block.handed == len(block):
            block.handed = 0
            if build:
                block = lane.launch(plan, slots)
        before = block.handed
        lease.send(block, most)
        sent += block.handed - before
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    if any(block.errors):
        raise SystemExit(f"refused: errno {max(block.errors)}")
    print(wall / sent * 1e6, cpu / sent * 1e6)
    lease.close()
    wire.close()


if __name__ == "__main__":
    asyncio.run(main())
