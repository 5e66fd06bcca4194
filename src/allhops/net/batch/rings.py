"""Packet sockets for batches: sent past the kernel's routing, received through memory shared with it.

By raw sockets a probe takes 1.2 us and a reply 0.8, by these 0.9 and 0.2. The price is that we do what the routing
tables would: every way names the interface and the next hop, and the neighbour table its link address. Where that is
not to be had (destinations on the link, loopback, a next hop that does not answer, links of other kinds) the way's
probes leave by a raw socket; answers arrive here all the same. Like every tool that sends so, it does not ask the
local firewall. Needs CAP_NET_RAW.
"""

from __future__ import annotations

import errno
import socket
from math import inf
from typing import TYPE_CHECKING

from allhops.errors import NETWORK_IS_DOWN, AllhopsError, CapacityError, PrivilegeError
from allhops.model import Protocol
from allhops.net.batch.leases import HeldLease, Leases
from allhops.net.batch.neighbours import LINK_HEADROOM, Neighbours
from allhops.net.batch.packet_ring import PacketRing
from allhops.net.batch.raw import RawSenders, RawWire, has_family
from allhops.net.batch.routes import ways
from allhops.net.batch.sending import Sender
from allhops.options import TraceOptions
from allhops.wire.family import FAMILIES, IPV6

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.core.lanes import Block, Ring
    from allhops.core.ledger import Counters
    from allhops.net.batch.group import Group
    from allhops.net.batch.neighbours import NextHop
    from allhops.net.batch.sending import RawSender
    from allhops.net.batch.wire import Way, Ways

SEND_BUFFER = 1 << 20
"""Bytes: some 1,300 probes that the device has not sent yet."""
MOST_UNRESOLVED = 64
"""Probes handed over at once while the next hop is being asked for its link address: the kernel keeps some 270 until
the answer comes, and drops older ones for newer ones without a word."""


class RingWire:
    """See the module. Sockets that `options` need are opened by `open`; leases for others open theirs on demand.

    `rate_pps` says for how many replies there must be room.
    """

    backend = "ring"
    headroom = LINK_HEADROOM

    def __init__(self, options: TraceOptions | None = None, rate_pps: float = inf) -> None:
        self._options = options or TraceOptions()
        self._rate_pps = rate_pps
        self._rings: dict[int, PacketRing] = {}
        self._frames: _FrameSender | None = None
        self._neighbours = Neighbours()
        self._raw_senders = RawSenders()
        self._raw: RawWire | None = None
        """For answers that may come in fragments, which only a raw socket puts together."""
        self._leases = Leases(self._admit)
        self._counters: Counters | None = None

    def open(self, counters: Counters) -> None:
        """Open what receives and what sends. Raises: PrivilegeError, CapacityError, UsageError."""
        self._counters = counters
        try:
            self._frames = _FrameSender()
            for version, family in FAMILIES.items():
                if has_family(version):
                    self._rings[version] = PacketRing(family, counters, self._rate_pps)
            next(iter(self._rings.values())).share()  # whether there can be any
            self._raw_senders.open(self._options.interface)
            if _may_be_fragmented(self._options):
                self._open_raw()
        except AllhopsError:
            self.close()
            raise
        except OSError as error:
            self.close()
            if error.errno in (errno.EPERM, errno.EACCES):
                raise PrivilegeError("packet sockets are not allowed: that takes CAP_NET_RAW") from error
            raise CapacityError(f"no ring for packets: {error.strerror}") from error

    def ways(self, destinations: Group, options: TraceOptions) -> Ways:
        """As the kernel's tables have them now."""
        return ways(destinations, options)

    def lease(self, way: Way, options: TraceOptions) -> HeldLease:
        """Hold a port; the next hop's link address is asked for already."""
        if _may_be_fragmented(options):
            return self._open_raw().lease(way, options)
        assert self._frames is not None  # opened
        next_hop = self._neighbours.next_hop(way)
        next_hop.header()
        raw = self._raw_senders.of(way.version, options.interface)
        return self._leases.take(way, options, _WayOut(way, next_hop, self._frames, raw).send)

    def receive(self) -> Iterator[Ring]:
        """Every family's in turn."""
        for packets in self._rings.values():
            yield from packets.receive()
        if self._raw is not None:
            yield from self._raw.receive()

    def close(self) -> None:
        """Close every socket."""
        for ring in self._rings.values():
            ring.note_drops()
            ring.close()
        self._rings.clear()
        if self._frames is not None:
            self._frames.close()
            self._frames = None
        if self._raw is not None:
            self._raw.close()
            self._raw = None
        self._raw_senders.close()
        self._neighbours.close()
        self._leases.close()

    def _admit(self, version: int) -> None:
        """Let through what the leases wait for."""
        ring = self._rings.get(version)
        if ring is None:
            return
        leases = self._leases
        ring.admit(leases.sources(version), leases.expected(version), leases.tcp_ports(version))

    def _open_raw(self) -> RawWire:
        """Raises: PrivilegeError, CapacityError, UsageError."""
        if self._raw is None:
            assert self._counters is not None  # opened
            raw = RawWire(self._options)
            raw.open(self._counters)
            self._raw = raw
        return self._raw


class _WayOut:
    """How the probes of one way leave: as frames, or, while no link address is known, as the kernel does it."""

    def __init__(self, way: Way, next_hop: NextHop, frames: _FrameSender, raw: RawSender) -> None:
        self._way = way
        self._next_hop = next_hop
        self._frames = frames
        self._raw = raw

    def send(self, block: Block, most: int) -> None:
        """Part of the lease."""
        way, header = self._way, self._next_hop.header()
        if header is None or not (self._frames.interface == way.interface or self._frames.turn_to(way.interface)):
            self._raw.send(block, min(most, MOST_UNRESOLVED) if self._next_hop.is_resolving else most, way)
            return
        self._frames.send(block, most, way, header)
        if block.handed and block.errors[block.handed - 1] in NETWORK_IS_DOWN:
            self._next_hop.forget()
            self._frames.turn_away()


class _FrameSender(Sender):
    """A packet socket that sends whole frames by one interface after another. It receives nothing. Raises: OSError.

    Bound, and without a name for each packet, it saves the kernel a twentieth of the work (`python -m benchmarks
    batch-send`); and whoever has dropped privileges can bind a socket, but not open another one.
    """

    def __init__(self) -> None:
        super().__init__(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.interface = 0

    def turn_to(self, interface: int) -> bool:
        """Send by this interface from now on; False where there is none."""
        try:
            self._sock.bind((socket.if_indextoname(interface), 0))
        except OSError:
            return False
        self.interface = interface
        return True

    def turn_away(self) -> None:
        """Bind anew before the next packet: an interface that was gone is another one when it comes back."""
        self.interface = 0


def _may_be_fragmented(options: TraceOptions) -> bool:
    """Whether an answer may be longer than what every link carries. ICMP errors are not."""
    return options.protocol is Protocol.ICMP and (options.size or 0) > IPV6.least_mtu
