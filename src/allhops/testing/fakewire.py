"""A synthetic internet in the place of a batch's wire: what is sent is answered in memory.

No socket is opened. Delays are real, counted by the running loop, or by a clock of the caller's, which may stand still
and be set to when the next reply arrives (`next_arrival`). Stamps are exactly the sending stamps plus the round-trip
time, however late a reply is fetched; the nearest hops' are handed over up to `GATHERED_NS` late.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import numpy as np

from allhops.core.lanes import ROW_ALIGNMENT, ROW_SIZE, Ring
from allhops.errors import CapacityError, SendError, UsageError
from allhops.net.batch.wire import RING_PACKETS, Way, Ways, fillings
from allhops.testing.mass_replies import Tally, reply
from allhops.testing.underway import Arrivals, Underway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from allhops.core.lanes import Block
    from allhops.core.ledger import Counters
    from allhops.net.batch.group import Group
    from allhops.options import TraceOptions
    from allhops.testing.synthetic import SyntheticInternet

FIRST_PORT, PORTS = 32_768, 32_768
"""Leased ports, or ICMP identifiers, if nobody asks for one."""
GATHERED_PROBES, GATHERED_NS = 4096, 4_000_000
"""Probes wait to be answered together until there are so many or the first is so old, as arrays pay from some hundred
on: at 50,000 a second this halves the work."""
EPOCH_NS = 1_700_000_000_000_000_000
"""Wall clock at time 0 of a clock of the caller's."""
SECOND_NS = 1_000_000_000
BUFFER_S = 0.3
"""Seconds of its `most_received_pps` that the machine's buffers hold."""


class FakeWire:
    """A wire (see `allhops.net.batch.wire`) whose other end is a `SyntheticInternet`: UDP, ICMP and TCP over IPv4.

    `clock`: seconds, monotonic; None for the running loop's. Faults: `duplicates` is the share of replies that arrive
    twice; `most_received_pps` is how many replies a second this machine can take in, the others are dropped and counted
    as the kernel's drops; for losses see the internet. Chance is seeded by the internet's seed.

    `tally` says what became of every probe.
    """

    backend = "simulated"
    headroom = 0

    def __init__(
        self,
        internet: SyntheticInternet,
        *,
        clock: Callable[[], float] | None = None,
        duplicates: float = 0.0,
        most_received_pps: float | None = None,
    ) -> None:
        self.internet = internet
        self.tally = Tally()
        self._clock = clock
        self._zero_ns = EPOCH_NS
        self._duplicates = duplicates
        self._most_received_pps = most_received_pps
        self._room = 0.0
        self._room_at_ns = 0
        self._random = random.Random(internet.seed)
        self._chance = np.random.default_rng(internet.seed)
        self._gathered: list[tuple[NDArray[np.uint8], int]] = []
        self._gathered_probes = 0
        self._underway = Underway()
        self._ports: set[int] = set()
        self._counters: Counters | None = None
        self._ring = Ring(RING_PACKETS)

    def open(self, counters: Counters) -> None:
        """Part of the wire."""
        self._counters = counters
        if self._clock is None:
            self._clock = asyncio.get_running_loop().time
            self._zero_ns = time.time_ns() - round(self._clock() * SECOND_NS)

    def ways(self, destinations: Group, options: TraceOptions) -> Ways:
        """Part of the wire: one for all of IPv4."""
        source = self.internet.source
        if options.source not in (None, str(source)):
            raise UsageError(f"{options.source} is not the vantage point's address in the simulated internet: {source}")
        count = len(destinations)
        if destinations.version == 4:
            return Ways([Way(4, source.packed, 0, None)], np.zeros(count, np.int64))
        addresses = map(destinations.address, range(count))
        return Ways([SendError(f"{one}: the simulated internet has no IPv6") for one in addresses], np.arange(count))

    def lease(self, way: Way, options: TraceOptions) -> FakeWireLease:
        """Part of the wire: the vantage point's address and a port that nobody has."""
        port = options.source_port
        if port is None:
            if len(self._ports) >= PORTS:
                raise CapacityError(f"all {PORTS} ports of the simulated internet's vantage point are in use")
            port = FIRST_PORT + self._random.randrange(PORTS)
            while port in self._ports:
                port = FIRST_PORT + (port + 1 - FIRST_PORT) % PORTS
        elif port in self._ports:
            raise CapacityError(f"port {port} of the simulated internet's vantage point is in use")
        self._ports.add(port)
        return FakeWireLease(self, way.source, port)

    def receive(self) -> Iterator[Ring]:
        """Part of the wire."""
        return fillings(self._ring, self._fill)

    def _fill(self, ring: Ring) -> None:
        now_ns = self._now_ns()
        if self._gathered and now_ns - self._gathered[0][1] >= GATHERED_NS:
            self._answer()
        arrived = self._take_in(self._underway.take(now_ns, ring.capacity), now_ns)
        count = len(arrived.lengths)
        width = min(arrived.packets.shape[1], ROW_SIZE)
        step = -(-width // ROW_ALIGNMENT) * ROW_ALIGNMENT
        np.ndarray((count, width), np.uint8, ring.octets, 0, (step, 1))[:] = arrived.packets[:, :width]
        np.frombuffer(ring.starts, np.int64)[:count] = np.arange(count) * step
        np.frombuffer(ring.lengths, np.uint32)[:count] = np.minimum(arrived.lengths, ROW_SIZE)
        np.frombuffer(ring.stamps_ns, np.int64)[:count] = arrived.at_ns
        np.frombuffer(ring.hearsay, np.uint8)[:count] = 0
        ring.count, ring.end = count, count * step

    def next_arrival(self) -> float | None:
        """When the next reply arrives, by the clock; None when none is under way."""
        self._answer()
        at_ns = self._underway.next_ns()
        return None if at_ns is None else (at_ns - self._zero_ns) / SECOND_NS

    def close(self) -> None:
        """Part of the wire: what is under way is lost."""
        self._gathered.clear()
        self._gathered_probes = 0
        self._underway = Underway()
        self._ports.clear()

    def _now_ns(self) -> int:
        assert self._clock is not None  # leases are given out after open
        return self._zero_ns + round(self._clock() * SECOND_NS)

    def _send(self, packets: NDArray[np.uint8]) -> int:
        """Put packets on the wire; the wall clock at which they left."""
        now_ns = self._now_ns()
        self._gathered.append((packets, now_ns))
        self._gathered_probes += len(packets)
        if self._gathered_probes >= GATHERED_PROBES:
            self._answer()
        return now_ns

    def _answer(self) -> None:
        """Put what was gathered to the internet, packets of one length together."""
        gathered, self._gathered, self._gathered_probes = self._gathered, [], 0
        for length in sorted({packets.shape[1] for packets, _ in gathered}):
            alike = [(packets, sent_ns) for packets, sent_ns in gathered if packets.shape[1] == length]
            packets = np.concatenate([packets for packets, _ in alike])
            sent_ns = np.repeat([sent_ns for _, sent_ns in alike], [len(packets) for packets, _ in alike])
            for replies in reply(self.internet, packets, self.tally):
                at_ns = sent_ns[replies.probe] + replies.rtt_ns
                self._underway.add(at_ns, replies.packets)
                if self._duplicates:
                    again = self._chance.random(len(at_ns)) < self._duplicates
                    self._underway.add(at_ns[again], replies.packets[again])

    def _take_in(self, arrived: Arrivals, now_ns: int) -> Arrivals:
        """Drop and count what this machine is too slow for."""
        if self._most_received_pps is None:
            return arrived
        gained = (now_ns - self._room_at_ns) / SECOND_NS * self._most_received_pps
        self._room = min(self._room + gained, self._most_received_pps * BUFFER_S)
        self._room_at_ns = now_ns
        taken = min(len(arrived.lengths), int(self._room))
        self._room -= taken
        if self._counters is not None:
            self._counters.kernel_drops += len(arrived.lengths) - taken
        return Arrivals(arrived.packets[:taken], arrived.lengths[:taken], arrived.at_ns[:taken])


class FakeWireLease:
    """A source address and port of the vantage point."""

    def __init__(self, wire: FakeWire, source: bytes, source_port: int) -> None:
        self.source = source
        self.source_port = source_port
        self._wire = wire

    def expect(self, cookie: bytes) -> None:
        """Everything is let in."""

    def send(self, block: Block, most: int) -> None:
        """Hand packets to the simulated internet, which takes all of them."""
        first, last = block.handed, min(block.handed + most, len(block))
        packets = np.frombuffer(block.packets, np.uint8).reshape(len(block), block.size)[first:last].copy()
        np.frombuffer(block.sent_ns, np.int64)[first:last] = self._wire._send(packets)
        block.handed = last

    def close(self) -> None:
        """Give the port back."""
        self._wire._ports.discard(self.source_port)
