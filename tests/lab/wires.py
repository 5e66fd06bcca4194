"""What the tests of wires do with one: probes of a plan out, rows of replies back."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from allhops.core.lanes.scalar import ScalarLane
from allhops.core.lanes.vector import VectorLane
from allhops.core.ledger import Counters
from allhops.core.plan import Plan
from allhops.net.batch.group import Group
from allhops.net.batch.raw import RawWire
from allhops.net.batch.rings import RingWire
from allhops.net.batch.wire import Way
from allhops.wire.probes import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from allhops.core.lanes import Block
    from allhops.core.lanes.rows import ReplyRow
    from allhops.model import Address
    from allhops.net.batch.wire import BatchLease, Wire
    from allhops.options import TraceOptions

WIRES: dict[str, type[RawWire] | type[RingWire]] = {"raw": RawWire, "ring": RingWire}
KEY, COOKIE = 0x1234, b"yarn"
PATIENCE_S = 10.0
"""Long enough for any lab: a reply that never comes fails the test, and nothing else waits for this."""


@dataclass
class Bench:
    """An open wire, and what came back on it."""

    wire: Wire
    counters: Counters
    lane: ScalarLane
    rows: list[ReplyRow] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    """Of the packets, bytes."""

    def read(self) -> None:
        """What waits."""
        for ring in self.wire.receive():
            self.lengths += ring.lengths[: ring.count]
            self.rows += self.lane.unpack(ring)

    async def rows_of(self, count: int) -> list[ReplyRow]:
        """The first `count` rows or more, once they have come."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.rows) < count:
                self.read()
                await asyncio.sleep(0.001)
        return self.rows

    def way(self, destination: Address, options: TraceOptions) -> Way:
        (way,) = self.wire.ways(Group.of([destination]), options).kinds
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
        yield Probing(lease, plan, VectorLane(self.counters, self.wire.headroom))
        lease.close()


@dataclass
class Probing:
    """A lease and a plan."""

    lease: BatchLease
    plan: Plan
    lane: VectorLane

    def launch(self, slots: Sequence[int] | None = None) -> Block:
        return self.lane.launch(self.plan, range(self.plan.slots) if slots is None else slots)

    async def send(self, block: Block) -> None:
        """All of it, as fast as the kernel takes it."""
        while block.handed < len(block):
            self.lease.send(block, len(block))
            await asyncio.sleep(0)


@contextlib.contextmanager
def opened(wire: Wire) -> Iterator[Bench]:
    """A wire that is read while somebody waits for rows."""
    counters = Counters()
    bench = Bench(wire, counters, ScalarLane(counters))
    wire.open(counters)
    try:
        yield bench
    finally:
        wire.close()


@contextlib.contextmanager
def ready(wire: Wire, destinations: Sequence[Address], options: TraceOptions) -> Iterator[tuple[Bench, Probing]]:
    """An open wire with one lease for all of these."""
    with opened(wire) as bench, bench.probing(bench.way(destinations[0], options), destinations, options) as probing:
        yield bench, probing
