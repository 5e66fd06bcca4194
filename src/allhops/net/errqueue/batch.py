"""A batch's way to the wire without privilege: a socket with an error queue for every window.

It is the transport of this package, giving out windows instead of flows. TCP is not to be had: without raw sockets each
SYN is a socket, and there are fewer of those than a batch has probes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from allhops.core.lanes import Ring
from allhops.errors import AllhopsError, PrivilegeError, SendError, UsageError, explain_errno
from allhops.model import Protocol
from allhops.net.batch.routes import ways
from allhops.net.batch.wire import RING_PACKETS, fillings
from allhops.net.errqueue.hearing import Kind, ping_kind, udp_kind
from allhops.net.errqueue.numbers import NUMBERS
from allhops.net.errqueue.transport import PING_ADVICE, ErrorQueueTransport
from allhops.net.errqueue.window import WindowLease
from allhops.net.source import bind_to_interface, hold_source_flow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from allhops.core.ledger import Counters
    from allhops.net.batch.group import Group
    from allhops.net.batch.wire import Way, Ways
    from allhops.options import TraceOptions

PING6_TTL = (5, 18)
"""The first Linux whose ICMPv6 sockets take a TTL for each packet."""


class ErrorQueueWire:
    """See the module."""

    backend = "errqueue"
    headroom = 0

    def __init__(self) -> None:
        self._transport = ErrorQueueTransport()
        self._ring = Ring(RING_PACKETS)

    def open(self, counters: Counters) -> None:
        """Raises: PrivilegeError where the kernel has no error queues, CapacityError."""
        self._transport.open(None, counters)

    def ways(self, destinations: Group, options: TraceOptions) -> Ways:
        """As the routing tables have them. Raises: UsageError for TCP, or an unusable interface or source."""
        refuse_tcp(options)
        return ways(destinations, options)

    def lease(self, way: Way, options: TraceOptions) -> WindowLease:
        """Open what sends and listens for one window.

        Raises: UsageError, SendError, CapacityError; PrivilegeError for ICMP where ping sockets are not open to us.
        """
        refuse_tcp(options)
        kind = _KINDS[options.protocol](way.version)
        held = hold_source_flow(way.source, way.interface, options)
        try:
            if held.sock is None:
                raise PrivilegeError(PING_ADVICE)
            bind_to_interface(held.sock, options.interface)
            return WindowLease(held, kind, way.version, way.interface, options.timeout, self._transport.station)
        except AllhopsError:
            held.close()
            raise
        except OSError as error:
            held.close()
            raise SendError(error.errno, explain_errno(error.errno or 0)) from error

    def receive(self) -> Iterator[Ring]:
        """A ring filled from every socket that has something."""
        return fillings(self._ring, self._transport.receive)

    def close(self) -> None:
        """Close every socket and stop listening."""
        self._transport.close()


def refuse_tcp(options: TraceOptions) -> None:
    """Raises: UsageError for TCP."""
    if options.protocol is Protocol.TCP:
        raise UsageError("TCP to many destinations needs raw sockets: run it with sudo, or probe with udp or icmp")


def _ping(version: int) -> Kind:
    if version == 6 and _kernel() < PING6_TTL:
        raise UsageError(
            "ICMPv6 to many destinations without root needs Linux 5.18: run it with sudo, or probe with udp"
        )
    return ping_kind(NUMBERS[version])


def _kernel() -> tuple[int, ...]:
    """Major and minor version of this one."""
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in os.uname().release.split(".")[:2])


_KINDS: dict[Protocol, Callable[[int], Kind]] = {Protocol.UDP: lambda version: udp_kind(), Protocol.ICMP: _ping}
