"""The ports that are leased to windows of destinations, and which answers they wait for.

A lease knows how to send only by the function that it is given: a wire may have several ways of sending.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allhops.errors import CapacityError
from allhops.model import Protocol
from allhops.net.filters import Expected
from allhops.net.source import hold_source_flow
from allhops.wire.probes import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.core.lanes import Block
    from allhops.net.batch.wire import Way
    from allhops.net.source import Held
    from allhops.options import TraceOptions

MOST_LEASES = 64
"""At once: what they wait for must fit one filter, which has room for 4,096 instructions, some ten for each."""


class HeldLease:
    """A port or identifier of one source address; see `wire.BatchLease`."""

    def __init__(
        self, held: Held, way: Way, protocol: Protocol, send: Callable[[Block, int], None], leases: Leases
    ) -> None:
        self.source = held.source
        self.source_port = held.source_port
        self.version = way.version
        self.protocol = protocol
        self.expected: Expected | None = None
        self.send = send
        self._held = held
        self._leases = leases

    def expect(self, cookie: bytes) -> None:
        """Let in what concerns this flow or shows this cookie."""
        self.expected = Expected(LAYOUTS[self.protocol, self.version], self.source_port, cookie)
        self._leases.changed(self.version)

    def close(self) -> None:
        """Give the port back. What still comes is let in until the next lease expects something."""
        self._held.close()
        self._leases.discard(self)


class Leases:
    """Those that are out. `changed` is called with the IP version whenever one of them begins to wait for answers."""

    def __init__(self, changed: Callable[[int], None]) -> None:
        self.changed = changed
        self._out: set[HeldLease] = set()

    def take(self, way: Way, options: TraceOptions, send: Callable[[Block, int], None]) -> HeldLease:
        """Hold a port for probes that go this way. Raises: UsageError, CapacityError."""
        if len(self._out) >= MOST_LEASES:
            raise CapacityError(f"{MOST_LEASES} source ports are leased already")
        taken = {lease.source_port for lease in self._out if lease.protocol is Protocol.ICMP}
        held = hold_source_flow(way.source, way.interface, options, taken)
        lease = HeldLease(held, way, options.protocol, send, self)
        self._out.add(lease)
        return lease

    def discard(self, lease: HeldLease) -> None:
        """One has been closed."""
        self._out.discard(lease)

    def expected(self, version: int) -> list[Expected]:
        """What is waited for."""
        return [lease.expected for lease in self._out if lease.version == version and lease.expected]

    def tcp_ports(self, version: int) -> list[int]:
        """Ports that TCP segments are waited for on, in order."""
        waiting = (lease for lease in self._out if lease.version == version and lease.expected)
        return sorted(lease.source_port for lease in waiting if lease.protocol is Protocol.TCP)

    def sources(self, version: int) -> list[bytes]:
        """Packed addresses that answers are waited for at, in order."""
        return sorted({lease.source for lease in self._out if lease.version == version and lease.expected})

    def close(self) -> None:
        """Close them all."""
        for lease in tuple(self._out):
            lease.close()
