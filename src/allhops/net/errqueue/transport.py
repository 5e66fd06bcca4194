"""The transport without privilege: it leases flows, and hands over what the kernel tells of them.

This file knows no packet and no control message.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from allhops.errors import PrivilegeError, SendError, UsageError, explain_errno
from allhops.model import Protocol
from allhops.net.errqueue.arrivals import Arrivals
from allhops.net.errqueue.flow import FlowLease
from allhops.net.errqueue.hearing import Kind, ping_kind, udp_kind
from allhops.net.errqueue.numbers import NUMBERS
from allhops.net.errqueue.setup import errors_are_told
from allhops.net.errqueue.station import Station
from allhops.net.errqueue.watch import Watch
from allhops.net.interface_mtu import interface_mtu
from allhops.net.source import capacity_or_send_error, hold_flow, hold_ping

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.core.lanes import Ring
    from allhops.core.ledger import Counters
    from allhops.model import Address
    from allhops.net.source import Held
    from allhops.net.transport import Lease
    from allhops.options import TraceOptions

PING_ADVICE = (
    "ICMP without root needs your group in net.ipv4.ping_group_range: "
    "`sudo sysctl -w net.ipv4.ping_group_range='0 2147483647'` opens it to every group; "
    "or probe with UDP, which needs nothing"
)
NO_WAY_ADVICE = "neither raw sockets nor error queues are allowed here: run `allhops doctor` to see what is"


class ErrorQueueTransport:
    """See the module."""

    backend = "errqueue"

    def __init__(self) -> None:
        self._station: Station | None = None
        self._on_readable: Callable[[], None] | None = None
        self._announced = False

    def open(self, on_readable: Callable[[], None] | None, counters: Counters) -> None:
        """Have the loop watch for replies; None when nobody wants to be told of them.

        Raises: PrivilegeError where the kernel has no error queues (gVisor, seccomp): there is no other way left;
        CapacityError.
        """
        try:
            watch = Watch() if errors_are_told() else None
        except OSError as error:
            raise capacity_or_send_error(error) from error
        if watch is None:
            raise PrivilegeError(NO_WAY_ADVICE)
        self._on_readable = on_readable
        self._station = station = Station(
            loop=asyncio.get_running_loop(), arrivals=Arrivals(counters, self._announce), watch=watch
        )
        if on_readable is not None:
            station.loop.add_reader(station.watch.fileno(), on_readable)

    @property
    def station(self) -> Station:
        """What its leases share, while it is open."""
        assert self._station is not None  # leases are given out after open
        return self._station

    def open_all(self, interface: str | None) -> None:
        """Nothing needs a privilege here."""

    def lease(self, destination: Address, options: TraceOptions) -> Lease:
        """Open what sends and listens for one flow.

        Raises: UsageError, SendError, CapacityError; PrivilegeError for ICMP where ping sockets are not open to us.
        """
        return _LEASES[options.protocol](destination, options, self.station)

    def interface_mtu(self, destination: Address, source: bytes, options: TraceOptions) -> int:
        """Of the interface, whatever the kernel remembers of the path."""
        return interface_mtu(destination, source, options)

    def receive(self, ring: Ring) -> None:
        """Fill the ring from every socket that has something."""
        ring.clear()
        if self._station is None:
            return
        arrivals = self._station.arrivals
        self._station.watch.drain(arrivals, ring.capacity)
        arrivals.move_to(ring)
        if len(arrivals):
            self._announce()

    def close(self) -> None:
        """The reader first: a loop that still knows a closed descriptor would watch its next owner."""
        station, self._station, self._on_readable = self._station, None, None
        if station is None:
            return
        station.loop.remove_reader(station.watch.fileno())
        for lease in tuple(station.leases):
            lease.close()
        station.watch.close()

    def _announce(self) -> None:
        """Replies wait that no socket will announce: have them asked for when the loop gets its turn."""
        if not self._announced and self._station is not None and self._on_readable is not None:
            self._announced = True
            self._station.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        self._announced = False
        if self._on_readable is not None:
            self._on_readable()


def _lease_udp(destination: Address, options: TraceOptions, station: Station) -> Lease:
    return _lease_flow(udp_kind(), hold_flow(destination, options), destination, station)


def _lease_icmp(destination: Address, options: TraceOptions, station: Station) -> Lease:
    kind = ping_kind(NUMBERS[destination.version])
    try:
        held = hold_ping(destination, options)
    except PrivilegeError as error:
        raise PrivilegeError(PING_ADVICE) from error
    return _lease_flow(kind, held, destination, station)


def _lease_tcp(destination: Address, options: TraceOptions, station: Station) -> Lease:
    if options.source_port is not None:
        raise UsageError(
            "TCP without raw sockets needs a source port for each probe: leave source_port out, or run it with sudo"
        )
    from allhops.net.errqueue.connect import ConnectLease  # 1 ms that other probes can do without

    return ConnectLease(hold_flow(destination, options), destination, options, station)


def _lease_flow(kind: Kind, held: Held, destination: Address, station: Station) -> FlowLease:
    try:
        return FlowLease(held, kind, destination, station)
    except OSError as error:
        held.close()
        raise SendError(error.errno, explain_errno(error.errno or 0)) from error


_LEASES: dict[Protocol, Callable[[Address, TraceOptions, Station], Lease]] = {
    Protocol.UDP: _lease_udp,
    Protocol.ICMP: _lease_icmp,
    Protocol.TCP: _lease_tcp,
}
