"""A simulated internet in the place of the network: what a `Prober` sends is answered in memory.

    async with allhops.Prober(transport=FakeNet.load("demo")) as prober:
        trace = await prober.trace("demo.example.net", lookup=...)

Delays are real, counted by the running event loop; receive stamps are the exact times that the scenario
says, so RTTs are true to the microsecond however busy the machine is. No socket is opened.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING

from allhops.errors import SendError, UsageError
from allhops.testing.internet import Internet
from allhops.testing.scenario_file import load_scenario

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

    from allhops.core.lanes import Block, Ring
    from allhops.core.ledger import Counters
    from allhops.model import Address
    from allhops.options import TraceOptions


class FakeNet:
    """A transport (see `allhops.net.transport`) whose other end is an `Internet`."""

    backend = "simulated"

    def __init__(self, internet: Internet) -> None:
        self.internet = internet
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_readable: Callable[[], None] | None = None
        self._arrived: deque[tuple[bytes, int]] = deque()
        self._on_the_way: set[asyncio.TimerHandle] = set()
        self._ports: set[int] = set()

    @classmethod
    def load(cls, scenario: str | Path) -> Self:
        """A scenario file, or a bundled scenario by name.

        Raises: UsageError.
        """
        return cls(Internet(load_scenario(scenario)))

    async def lookup(self, name: str, ip_version: int | None) -> Address | None:
        """The address of a name in this internet: what a prober's `lookup` wants."""
        for version in (ip_version,) if ip_version else (4, 6):
            address = self.internet.address_of(name, version)
            if address is not None:
                return address
        return None

    def open(self, on_readable: Callable[[], None], counters: Counters) -> None:
        """Part of the transport."""
        self._loop = asyncio.get_running_loop()
        self._on_readable = on_readable

    def open_all(self, interface: str | None) -> None:
        """Part of the transport: nothing to open."""

    def lease(self, destination: Address, options: TraceOptions) -> FakeLease:
        """Part of the transport: the vantage point's address and a random port that no other lease has."""
        vantage = self.internet.scenario.vantage
        source = vantage.ipv4 if destination.version == 4 else vantage.ipv6
        if source is None:
            raise SendError(f"{destination}: the simulated internet has no IPv{destination.version}")
        if options.source not in (None, str(source)):
            raise UsageError(f"{options.source} is not the vantage point's address in the simulated internet: {source}")
        port = options.source_port or self._free_port()
        self._ports.add(port)
        return FakeLease(source.packed, port, self._send, self._ports.discard)

    def _free_port(self) -> int:
        while (port := 32_768 + secrets.randbelow(32_768)) in self._ports:
            pass
        return port

    def interface_mtu(self, destination: Address, source: bytes, options: TraceOptions) -> int:
        """Part of the transport: the vantage point's."""
        return self.internet.scenario.vantage.mtu

    def receive(self, ring: Ring) -> None:
        """Part of the transport."""
        ring.clear()
        while self._arrived and ring.count < ring.capacity:
            ring.append(*self._arrived.popleft())

    def close(self) -> None:
        """Part of the transport: what is still on its way is lost."""
        for timer in self._on_the_way:
            timer.cancel()
        self._on_the_way.clear()
        self._arrived.clear()

    def _send(self, packet: bytes) -> int:
        """Put one packet on the wire; the wall clock at which it left."""
        assert self._loop is not None  # leases are given out after open
        now_ns = time.time_ns()
        for arrival in self.internet.packet_sent(packet, now_ns):
            delay = (arrival.at_ns - now_ns) / 1e9
            self._deliver_after(delay, arrival.packet, arrival.at_ns)
        return now_ns

    def _deliver_after(self, delay: float, packet: bytes, stamp_ns: int) -> None:
        assert self._loop is not None

        def deliver() -> None:
            self._on_the_way.discard(timer)
            self._arrived.append((packet, stamp_ns))
            if self._on_readable is not None:
                self._on_readable()

        timer = self._loop.call_later(delay, deliver)
        self._on_the_way.add(timer)


class FakeLease:
    """A source address and port of the simulated vantage point."""

    flow_constant = True

    def __init__(
        self, source: bytes, source_port: int, send: Callable[[bytes], int], give_back: Callable[[int], None]
    ) -> None:
        self.source = source
        self.source_port = source_port
        self._send = send
        self._give_back = give_back

    def expect(self, cookie: bytes) -> None:
        """Everything is let in."""

    def send(self, block: Block) -> None:
        """Hand every packet to the simulated internet."""
        for position in range(len(block)):
            packet = bytes(block.packets[position * block.size : (position + 1) * block.size])
            block.sent_ns[position] = self._send(packet)
            block.handed += 1

    def close(self) -> None:
        """Give the port back."""
        self._give_back(self.source_port)
