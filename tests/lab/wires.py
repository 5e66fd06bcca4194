"""What the tests of wires do with one: probes of a plan out, rows of replies back."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from allhops.core.lanes import Ring
from allhops.core.lanes.scalar import ScalarLane
from allhops.core.ledger import Counters
from allhops.core.plan import Plan
from allhops.net.batch.raw import RawWire
from allhops.net.batch.wire import Way
from allhops.wire.probes import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from allhops.core.lanes import Block
    from allhops.core.lanes.rows import ReplyRow
    from allhops.model import Address
    from allhops.net.batch.wire import BatchLease, Wire
    from allhops.options import TraceOptions

WIRES: dict[str, type[RawWire]] = {"raw": RawWire}
KEY, COOKIE = 0x1234, b"yarn"
PATIENCE_S = 10.0
"""Long enough for any lab: a reply that never comes fails the test, and nothing else waits for this."""


@dataclass
class Bench:
    """An open wire, and what came back on it."""

    wire: Wire
    counters: Counters
    ring: Ring
    lane: ScalarLane
    rows: list[ReplyRow] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def read(self) -> None:
        """One fill of the ring, which may be smaller than what waits."""
        self.wire.receive(self.ring)
        self.rows += self.lane.unpack(self.ring)
        self.came.set()

    async def rows_of(self, count: int) -> list[ReplyRow]:
        """The first `count` rows or more, once they have come."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.rows) < count:
                self.came.clear()
                await self.came.wait()
        return self.rows

    def way(self, destination: Address, options: TraceOptions) -> Way:
        (way,) = self.wire.ways([destination], options)
        assert isinstance(way, Way), way
        return way

    @contextlib.contextmanager
    def probing(self, way: Way, destinations: Sequence[Address], options: TraceOptions) -> Iterator[Probing]:
        """A lease, and a plan for it whose probes show key and cookie of this file."""
        lease = self.wire.lease(way, options)
        layout = LAYOUTS[options.protocol, way.version]
        plan = Plan(
            layout=layout,
            options=options,
            destinations=tuple(destination.packed for destination in destinations),
            source=lease.source,
            source_ports=(lease.source_port,),
            key=KEY,
            cookie=COOKIE,
            size=options.size or layout.family.default_size,
            spare_attempts=0,
        )
        lease.expect(COOKIE)
        yield Probing(lease, plan, self.lane)
        lease.close()


@dataclass
class Probing:
    """A lease and a plan."""

    lease: BatchLease
    plan: Plan
    lane: ScalarLane

    def launch(self, slots: Sequence[int] | None = None) -> Block:
        return self.lane.launch(self.plan, range(self.plan.slots) if slots is None else slots)

    async def send(self, block: Block) -> None:
        """All of it, as fast as the kernel takes it."""
        while block.handed < len(block):
            self.lease.send(block, len(block))
            await asyncio.sleep(0)

    def sent_ns(self, block: Block) -> dict[tuple[str, int], int]:
        """Stamps by destination and TTL."""
        return {
            (str(ip_address(self.plan.destination_of(self.plan.course_of(slot)))), self.plan.ttl_of(slot)): stamp
            for slot, stamp in zip(block.slots, block.sent_ns, strict=True)
        }


@contextlib.contextmanager
def opened(wire: Wire, capacity: int = 100) -> Iterator[Bench]:
    """A wire that reads as soon as something waits."""
    counters = Counters()
    bench = Bench(wire, counters, Ring(capacity), ScalarLane(counters))
    wire.open(bench.read, counters)
    try:
        yield bench
    finally:
        wire.close()
