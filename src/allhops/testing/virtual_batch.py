"""A window of destinations in no time: a batch's session and a simulated internet on a virtual clock.

What `allhops.testing.virtual` is for one trace.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.batch.window import Tally, Window
from allhops.core.lanes import Ring
from allhops.core.ledger import Counters
from allhops.core.pacer import Pacer
from allhops.core.plan import Plan
from allhops.errors import UsageError
from allhops.testing.virtual import COOKIE, EPOCH_NS, KEY, SEND_NS, SOURCE_PORT
from allhops.wire.probes import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from allhops.core.batch.strategies import Strategy
    from allhops.core.harvest import Harvest
    from allhops.core.lanes import Block, Lane
    from allhops.model import Address
    from allhops.options import TraceOptions
    from allhops.testing.internet import Internet

BEAT_S = 0.01
"""Between two looks at what has arrived."""


class VirtualBatch:
    """Destinations of one family, all in one window.

    After `run`: the `harvests`, every packet that was `sent` with the virtual second at which it left, `counters` and
    `tally`.
    """

    def __init__(
        self,
        internet: Internet,
        destinations: Sequence[Address],
        strategy: Strategy,
        options: TraceOptions,
        *,
        lane: Callable[[Counters], Lane[Any]],
        rate_pps: float | None = None,
        seed: int = 0,
    ) -> None:
        self.internet = internet
        self.counters = Counters()
        self.tally = Tally()
        self.sent: list[tuple[float, bytes]] = []
        self.harvests: list[Harvest] = []
        self._pacer = Pacer(rate_pps)
        self._lane = lane(self.counters)
        self._ring = Ring()
        self._now_ns = 0
        self._on_the_way: list[tuple[int, int, bytes]] = []
        self.window: Window[Any] = Window(
            self._plan(destinations, strategy, options),
            self._lane,
            strategy,
            counters=self.counters,
            tally=self.tally,
            names=[str(destination) for destination in destinations],
            positions=range(len(destinations)),
            now=0.0,
            now_ns=0,
            random=np.random.default_rng(seed),
            backend="simulated",
        )

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self._now_ns / 1e9

    def run(self, until_s: float = 3_600.0) -> None:
        """Play until every destination has ended."""
        while not self.window.ended:
            if self.now > until_s:
                raise AssertionError(f"{self.window!r} does not end")
            self.beat()

    def beat(self) -> None:
        """Send what may leave, let `BEAT_S` pass, read what has arrived."""
        begun_ns = self._now_ns
        self._send()
        self._now_ns = max(self._now_ns, begun_ns + round(BEAT_S * 1e9))
        self._receive()
        self.window.advance(self.now)
        harvest = self.window.harvest()
        if harvest is not None:
            self.harvests.append(harvest)

    def _plan(self, destinations: Sequence[Address], strategy: Strategy, options: TraceOptions) -> Plan:
        version = destinations[0].version
        vantage = self.internet.scenario.vantage
        source = vantage.ipv4 if version == 4 else vantage.ipv6
        if source is None:
            raise UsageError(f"this internet has no IPv{version}")
        layout = LAYOUTS[options.protocol, version]
        return Plan(
            layout=layout,
            options=options,
            destinations=tuple(destination.packed for destination in destinations),
            source=source.packed,
            source_ports=(SOURCE_PORT,),
            key=KEY,
            cookie=COOKIE,
            size=options.size or layout.family.default_size,
            spare_attempts=strategy.spare_attempts,
        )

    def _send(self) -> None:
        while (block := self.window.probes_to_send(self.now, rate_pps=self._pacer.rate_pps)) is not None:
            granted = self._pacer.grant(self.now, len(block) - block.handed)
            for _ in range(granted):
                self._send_one(block)
            self.window.probes_sent(self.now)
            if not granted:
                return

    def _send_one(self, block: Block) -> None:
        packet = bytes(block.packets[block.handed * block.size : (block.handed + 1) * block.size])
        block.sent_ns[block.handed] = EPOCH_NS + self._now_ns
        block.handed += 1
        self.sent.append((self.now, packet))
        for arrival in self.internet.packet_sent(packet, EPOCH_NS + self._now_ns):
            heapq.heappush(self._on_the_way, (arrival.at_ns - EPOCH_NS, len(self.sent), arrival.packet))
        self._now_ns += SEND_NS

    def _receive(self) -> None:
        ring = self._ring
        while self._on_the_way and self._on_the_way[0][0] <= self._now_ns:
            ring.clear()
            while self._on_the_way and self._on_the_way[0][0] <= self._now_ns and ring.count < ring.capacity:
                at_ns, _, packet = heapq.heappop(self._on_the_way)
                ring.append(packet, EPOCH_NS + at_ns)
            self.window.replies_received(self._lane.unpack(ring))
