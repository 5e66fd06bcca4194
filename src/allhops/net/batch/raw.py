"""Raw sockets for batches: whole IP packets out, ICMP in, hundreds in one system call. Needs CAP_NET_RAW.

The same sockets with the same options as those of a single trace (net/raw.py says why each is set); the kernel chooses
next hop and interface for every packet.
"""

from __future__ import annotations

import errno
import socket
from functools import partial
from typing import TYPE_CHECKING

from allhops.core.lanes import Ring
from allhops.model import Protocol
from allhops.net.batch.leases import HeldLease, Leases
from allhops.net.batch.receiving import Receiver
from allhops.net.batch.routes import ways
from allhops.net.batch.sending import RawSender
from allhops.net.batch.wire import RING_PACKETS, fillings
from allhops.net.raw_sockets import refusal
from allhops.options import TraceOptions
from allhops.wire.family import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.core.ledger import Counters
    from allhops.net.batch.group import Group
    from allhops.net.batch.wire import Way, Ways

_DOMAINS = {4: socket.AF_INET, 6: socket.AF_INET6}


class RawSenders:
    """One socket for each IP version and interface that is asked for, opened when it is."""

    def __init__(self) -> None:
        self._senders: dict[tuple[int, str | None], RawSender] = {}

    def open(self, interface: str | None) -> None:
        """Those for one interface, now. Raises: PrivilegeError, CapacityError, UsageError."""
        for version in FAMILIES:
            if has_family(version):
                self.of(version, interface)

    def of(self, version: int, interface: str | None) -> RawSender:
        """The one for an IP version and an interface. Raises: PrivilegeError, CapacityError, UsageError."""
        sender = self._senders.get((version, interface))
        if sender is None:
            sender = self._senders[version, interface] = RawSender(version, interface)
        return sender

    def close(self) -> None:
        """Close them all."""
        for sender in self._senders.values():
            sender.close()
        self._senders.clear()


class RawWire:
    """See the module. Sockets that `options` need are opened by `open`; leases for others open theirs on demand."""

    backend = "raw"
    headroom = 0

    def __init__(self, options: TraceOptions | None = None) -> None:
        self._options = options or TraceOptions()
        self._senders = RawSenders()
        self._receivers: dict[tuple[int, int], Receiver] = {}
        self._leases = Leases(self._admit)
        self._counters: Counters | None = None
        self._ring = Ring(RING_PACKETS)

    def open(self, counters: Counters) -> None:
        """Open what receives and what sends. Raises: PrivilegeError, CapacityError, UsageError."""
        self._counters = counters
        try:
            for version, family in FAMILIES.items():
                if has_family(version):
                    self._receive(version, family.icmp_protocol)
                    if self._options.protocol is Protocol.TCP:
                        self._receive(version, socket.IPPROTO_TCP)
            self._senders.open(self._options.interface)
        except BaseException:
            self.close()
            raise

    def ways(self, destinations: Group, options: TraceOptions) -> Ways:
        """As the kernel's tables have them now."""
        return ways(destinations, options)

    def lease(self, way: Way, options: TraceOptions) -> HeldLease:
        """Hold a port, and find the socket that sends for it."""
        sender = self._senders.of(way.version, options.interface)
        if options.protocol is Protocol.TCP:
            self._receive(way.version, socket.IPPROTO_TCP)
        return self._leases.take(way, options, partial(sender.send, way=way))

    def receive(self) -> Iterator[Ring]:
        """A ring filled from every socket in turn."""
        return fillings(self._ring, self._drain)

    def close(self) -> None:
        """Close every socket."""
        for receiver in self._receivers.values():
            receiver.note_drops()
            receiver.close()
        self._receivers.clear()
        self._senders.close()
        self._leases.close()

    def _drain(self, ring: Ring) -> None:
        for receiver in self._receivers.values():
            receiver.drain(ring)

    def _receive(self, version: int, protocol: int) -> None:
        """Have a receiver. Raises: PrivilegeError, CapacityError."""
        if (version, protocol) in self._receivers:
            return
        assert self._counters is not None  # opened
        try:
            receiver = Receiver(FAMILIES[version], protocol, self._counters)
        except OSError as error:
            raise refusal(error) from error
        self._receivers[version, protocol] = receiver

    def _admit(self, version: int) -> None:
        """Let through what the leases wait for. What was dropped for want of room is counted first."""
        expected, ports = self._leases.expected(version), self._leases.tcp_ports(version)
        for (receiver_version, _), receiver in self._receivers.items():
            if receiver_version == version:
                receiver.note_drops()
                receiver.admit(expected, ports)


def has_family(version: int) -> bool:
    """Whether this machine has that version of IP at all."""
    try:
        socket.socket(_DOMAINS[version], socket.SOCK_DGRAM).close()
    except OSError as error:
        return error.errno != errno.EAFNOSUPPORT
    return True
