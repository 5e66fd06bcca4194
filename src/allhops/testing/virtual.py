"""A whole trace in no time: a session and a simulated internet on a virtual clock, no event loop, no sleeping.

A 30-hop trace with loss, reordering and two seconds of waiting takes a few milliseconds and is
the same every time for the same seeds.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from allhops.core.events import Event, TraceEnded
from allhops.core.lanes import Ring
from allhops.core.lanes.scalar import ScalarLane
from allhops.core.ledger import Counters
from allhops.core.measurement import begin
from allhops.core.pacer import Pacer
from allhops.core.plan import Plan
from allhops.core.session import Session
from allhops.errors import UsageError
from allhops.net.resolve import read_address
from allhops.options import TraceOptions
from allhops.wire.probes import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from allhops.core.lanes import Block
    from allhops.core.lanes.scalar import ReplyRow
    from allhops.core.measurement import Measurement
    from allhops.model import Address, Trace
    from allhops.options import TraceKeywords
    from allhops.testing.internet import Internet

EPOCH_NS = 1_700_000_000_000_000_000
"""Wall clock at virtual time 0."""
SEND_NS = 5_000
"""What sending one probe takes."""
SOURCE_PORT = 40_000
"""When the options name none."""
KEY = 0xBEEF
COOKIE = b"\xc0\x0c\x1e\x5a"


class VirtualTrace:
    """One destination of a simulated internet, traced on a virtual clock.

    After `run`: `trace`, the `events` as (virtual seconds, event), every packet that was `sent`, and the `counters`.
    """

    def __init__(
        self,
        internet: Internet,
        destination: str | Address,
        *,
        rate_pps: float | None = None,
        start_s: float = 0.0,
        **options: Unpack[TraceKeywords],
    ) -> None:
        self.internet = internet
        self.sent: list[bytes] = []
        self.events: list[tuple[float, Event]] = []
        self.counters = Counters()
        self._now_ns = round(start_s * 1e9)
        self._on_the_way: list[tuple[int, int, bytes]] = []
        self._lane = ScalarLane(self.counters)
        self._ring = Ring()
        self.measurement = self._begin(destination, Pacer(rate_pps), TraceOptions(**options))

    def run(self, max_events: int = 100_000) -> Trace:
        """Play until the trace ends."""
        for _ in range(max_events):
            self._send()
            self._collect()
            if self.measurement.ended:
                return self.trace
            self._wait()
        raise AssertionError(f"{self.measurement!r} does not end")

    @property
    def trace(self) -> Trace:
        """The result, once the trace has ended."""
        return next(event.trace for _, event in self.events if isinstance(event, TraceEnded))

    @property
    def session(self) -> Session[Sequence[ReplyRow]]:
        """The session, where one is all there is: not of a path MTU discovery."""
        assert isinstance(self.measurement, Session)
        return self.measurement

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self._now_ns / 1e9

    def _begin(
        self, destination: str | Address, pacer: Pacer, options: TraceOptions
    ) -> Measurement[Sequence[ReplyRow]]:
        address = read_address(str(destination))
        vantage = self.internet.scenario.vantage
        source = address and (vantage.ipv4 if address.version == 4 else vantage.ipv6)
        if address is None or source is None:
            raise UsageError(f"{destination}: not an address that this internet can be asked about")
        layout = LAYOUTS[options.protocol, address.version]
        plan = Plan(
            layout=layout,
            options=options,
            destinations=(address.packed,),
            source=source.packed,
            source_ports=(options.source_port or SOURCE_PORT,),
            key=KEY,
            cookie=COOKIE,
            size=vantage.mtu if options.discover_mtu else options.size or layout.family.default_size,
        )
        return begin(
            plan,
            self._lane,
            pacer,
            counters=self.counters,
            names=(str(destination),),
            now=self.now,
            started_at_ns=EPOCH_NS + self._now_ns,
        )

    def _send(self) -> None:
        while (block := self.measurement.probes_to_send(self.now)) is not None:
            for position in range(len(block)):
                self._send_one(block, position)
            self.measurement.probes_sent(block, self.now)
            self._receive()

    def _send_one(self, block: Block, position: int) -> None:
        packet = bytes(block.packets[position * block.size : (position + 1) * block.size])
        block.sent_ns[position] = EPOCH_NS + self._now_ns
        block.handed += 1
        self.sent.append(packet)
        for arrival in self.internet.packet_sent(packet, EPOCH_NS + self._now_ns):
            heapq.heappush(self._on_the_way, (arrival.at_ns - EPOCH_NS, len(self._on_the_way), arrival.packet))
        self._now_ns += SEND_NS

    def _wait(self) -> None:
        """Let the clock jump to whatever comes first: a packet or a deadline."""
        deadline = self.measurement.next_deadline()
        times = [self._on_the_way[0][0]] if self._on_the_way else []
        if deadline is not None:
            times.append(round(deadline * 1e9) + 1)
        self._now_ns = max(self._now_ns, min(times))
        self._receive()

    def _receive(self) -> None:
        ring = self._ring
        ring.clear()
        while self._on_the_way and self._on_the_way[0][0] <= self._now_ns and ring.count < ring.capacity:
            at_ns, _, packet = heapq.heappop(self._on_the_way)
            ring.append(packet, EPOCH_NS + at_ns)
        if ring.count:
            self.measurement.replies_received(self._lane.unpack(ring), self.now)

    def _collect(self) -> None:
        while (event := self.measurement.next_event()) is not None:
            self.events.append((self.now, event))
