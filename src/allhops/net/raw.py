"""Raw sockets: whole IP packets out, ICMP in. Needs CAP_NET_RAW.

Sending is on IPPROTO_RAW sockets, where we write the IP header ourselves. They ask for `IP_RECVERR` although nothing
reads their error queue: without it Linux reports success for packets that its own queue drops, and local loss would be
printed as silence (measured: 2,000 of 2,000 sends "succeed" into a full tbf; with it, 1,999 say ENOBUFS). An
IPPROTO_RAW socket is never handed errors about UDP, so none of them is lost on a send either. And they ask for
`IP_PMTUDISC_PROBE`: without it the kernel refuses packets larger than what some router once said would fit
(measured: EMSGSIZE for 1,500 bytes ten minutes long after a "fragmentation needed" that named 1,300).

Receiving is on one ICMP socket a family, with kernel receive stamps and a filter that drops what concerns nobody here
(under 100,000 forged errors a second IPv6 rows lost most of their answers without it; with it, none under 250,000),
and, from the first TCP trace on, one TCP socket a family that sees SYN-ACKs and RSTs to our ports only. IPv6 raw
sockets leave the IP header out; it is put back from the control messages, so that beyond this file every packet is
whole.

What a destination answers to a UDP probe with a datagram (port 53, say) is not read: it does not name its probe.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time
from typing import TYPE_CHECKING

from allhops.core.lanes import ROW_SIZE
from allhops.errors import NETWORK_IS_DOWN
from allhops.model import Protocol
from allhops.net.filters import MOST_EXPECTED, Expected, answers_about, answers_to, attach, everything
from allhops.net.interface_mtu import interface_mtu
from allhops.net.raw_sockets import SO_RXQ_OVFL, SO_TIMESTAMPNS, Drops, open_receiver, open_sender, refusal
from allhops.net.source import hold_flow, socket_address
from allhops.wire.family import FAMILIES, IPV4, IPV6, Family, HeaderFields
from allhops.wire.probes import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.core.lanes import Block, Ring
    from allhops.core.ledger import Counters
    from allhops.model import Address
    from allhops.net.source import Held
    from allhops.options import TraceOptions

_TIMESPEC = struct.Struct("@ll")
"""Of SO_TIMESTAMPNS: longs, which 32-bit machines have four bytes for."""
_COUNT = struct.Struct("@I")
_ANCILLARY_SPACE = 256
_QUEUE_IS_FULL = (errno.EAGAIN, errno.ENOBUFS)


class RawTransport:
    """See the module."""

    backend = "raw"

    def __init__(self) -> None:
        self._receivers: list[_Receiver] = []
        self._tcp_receivers: dict[int, _Receiver] = {}
        self._senders: dict[tuple[int, str | None], socket.socket] = {}
        self._leases: set[RawLease] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_readable: Callable[[], None] | None = None
        self._counters: Counters | None = None

    def open(self, on_readable: Callable[[], None], counters: Counters) -> None:
        """Open an ICMP socket a family; a machine without IPv6 gets along with one.

        Raises: PrivilegeError, CapacityError.
        """
        self._loop = asyncio.get_running_loop()
        self._on_readable, self._counters = on_readable, counters
        try:
            for family in FAMILIES.values():
                try:
                    self._add_receiver(family, family.icmp_protocol)
                except OSError as error:
                    if error.errno != errno.EAFNOSUPPORT:
                        raise
        except OSError as error:
            self.close()
            raise refusal(error) from error

    def open_all(self, interface: str | None) -> None:
        """A sender and a TCP receiver for each family that there is; the receivers let nothing through yet."""
        for version in [receiver.family.version for receiver in self._receivers]:
            self._sender(version, interface)
            self._admit_answers(version)

    def lease(self, destination: Address, options: TraceOptions) -> RawLease:
        """Hold a flow, and find the socket that sends for it."""
        taken = {lease.source_port for lease in self._leases if lease.protocol is Protocol.ICMP}
        held = hold_flow(destination, options, taken)
        try:
            sender = self._sender(destination.version, options.interface)
            lease = RawLease(held, sender, destination, options.protocol, self)
        except BaseException:
            held.close()
            raise
        self._leases.add(lease)
        if lease.protocol is Protocol.TCP:
            try:
                self._admit_answers(lease.version)
            except OSError as error:
                self._leases.discard(lease)
                held.close()
                raise refusal(error) from error
        return lease

    def interface_mtu(self, destination: Address, source: bytes, options: TraceOptions) -> int:
        """Of the interface, whatever the kernel remembers of the path."""
        return interface_mtu(destination, source, options)

    def receive(self, ring: Ring) -> None:
        """Fill the ring from every socket in turn."""
        ring.clear()
        for receiver in self._receivers:
            receiver.drain(ring)

    def _note_drops(self, version: int) -> None:
        """Count what the kernel dropped: on packets it says so only when a later one arrives."""
        for receiver in self._receivers:
            if receiver.family.version == version:
                receiver.drops.ask(receiver.sock)

    def close(self) -> None:
        """Readers first: a loop that still knows a closed descriptor would watch its next owner."""
        for receiver in self._receivers:
            if self._loop is not None:
                self._loop.remove_reader(receiver.sock.fileno())
            receiver.sock.close()
        self._receivers.clear()
        self._tcp_receivers.clear()
        for sender in self._senders.values():
            sender.close()
        self._senders.clear()
        for lease in tuple(self._leases):
            lease.close()

    def _add_receiver(self, family: Family, protocol: int) -> _Receiver:
        assert self._loop is not None  # opened
        assert self._on_readable is not None
        assert self._counters is not None
        receiver = _Receiver(family, protocol, self._counters)
        self._receivers.append(receiver)
        self._loop.add_reader(receiver.sock.fileno(), self._on_readable)
        return receiver

    def expect(self, version: int) -> None:
        """Let through the ICMP that concerns leases of this family, and no other; all of it if there are too many.

        A lease that ends is left in until the next one begins.
        """
        icmp = FAMILIES[version].icmp_protocol
        receiver = next((one for one in self._receivers if one.protocol == icmp), None)
        if receiver is None:
            return
        expected = [lease.expected for lease in self._leases if lease.version == version and lease.expected]
        if len(expected) <= MOST_EXPECTED:
            attach(receiver.sock, answers_about(receiver.family, expected))
            receiver.lets_all_through = False
        elif not receiver.lets_all_through:
            attach(receiver.sock, everything())
            receiver.lets_all_through = True

    def forget(self, lease: RawLease) -> None:
        """A lease has ended."""
        self._leases.discard(lease)
        self._note_drops(lease.version)
        if lease.protocol is Protocol.TCP:
            self._admit_answers(lease.version)

    def _admit_answers(self, version: int) -> None:
        """Let through the TCP segments for leases of this family, and no others."""
        receiver = self._tcp_receivers.get(version)
        if receiver is None:
            if not self._receivers:
                return
            family = FAMILIES[version]
            receiver = self._tcp_receivers[version] = self._add_receiver(family, socket.IPPROTO_TCP)
        ports = sorted(
            lease.source_port for lease in self._leases if lease.version == version and lease.protocol is Protocol.TCP
        )
        attach(receiver.sock, answers_to(FAMILIES[version], ports))

    def _sender(self, version: int, interface: str | None) -> socket.socket:
        sender = self._senders.get((version, interface))
        if sender is None:
            sender = self._senders[version, interface] = open_sender(version, interface)
        return sender


class RawLease:
    """A held flow, and the raw socket that sends in its name."""

    flow_constant = True

    def __init__(
        self,
        held: Held,
        sender: socket.socket,
        destination: Address,
        protocol: Protocol,
        transport: RawTransport,
    ) -> None:
        self.source = held.source
        self.source_port = held.source_port
        self.protocol = protocol
        self.version = destination.version
        self._held = held
        self._sender = sender
        self._where = socket_address(destination)
        self._transport = transport
        self.expected: Expected | None = None

    def expect(self, cookie: bytes) -> None:
        """Have the kernel let through what concerns this flow or shows this cookie."""
        self.expected = Expected(LAYOUTS[self.protocol, self.version], self.source_port, cookie)
        try:
            self._transport.expect(self.version)
        except OSError as error:  # no memory for the filter
            raise refusal(error) from error

    def send(self, block: Block) -> None:
        """One `sendto` a probe, stamped just before it."""
        view = memoryview(block.packets)
        sendto, where, size = self._sender.sendto, self._where, block.size
        for position in range(len(block)):
            block.sent_ns[position] = time.time_ns()
            try:
                sendto(view[position * size : (position + 1) * size], where)
            except OSError as error:
                if error.errno in _QUEUE_IS_FULL:
                    return
                block.errors[position] = error.errno or errno.EIO
            block.handed += 1
            if block.errors[position] in NETWORK_IS_DOWN:
                return

    def close(self) -> None:
        """Give the flow back."""
        self._held.close()
        self._transport.forget(self)


class _Receiver:
    """One raw socket, and how its packets become whole rows."""

    def __init__(self, family: Family, protocol: int, counters: Counters) -> None:
        self.family = family
        self.protocol = protocol
        self.drops = Drops(counters)
        self.lets_all_through = True
        self.sock = open_receiver(family, protocol)
        self._read_row = self._read_ipv4 if family is IPV4 else self._read_ipv6

    def drain(self, ring: Ring) -> None:
        """Read until the socket is empty or the ring is full."""
        while ring.count < ring.capacity:
            try:
                length, stamp_ns = self._read_row(ring.room())
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # ENETDOWN and the like: the socket works again when the network does.
                return
            ring.add(length, stamp_ns)

    # MSG_TRUNC as a wish: the length of the packet, not of the part that the row holds.

    def _read_ipv4(self, row: memoryview) -> tuple[int, int]:
        length, ancillary, _, _ = self.sock.recvmsg_into([row], _ANCILLARY_SPACE, socket.MSG_TRUNC)
        # Some kernels (macOS, older BSDs) hand it over in the host's byte order, without the header: this one is right.
        row[IPV4.length_offset : IPV4.length_offset + 2] = length.to_bytes(2, "big")
        return min(length, ROW_SIZE), self._controls(ancillary)[0]

    def _read_ipv6(self, row: memoryview) -> tuple[int, int]:
        header = IPV6.header_size
        length, ancillary, _, where = self.sock.recvmsg_into([row[header:]], _ANCILLARY_SPACE, socket.MSG_TRUNC)
        stamp_ns, hop_limit, destination = self._controls(ancillary)
        fields = HeaderFields(
            source=socket.inet_pton(socket.AF_INET6, where[0].partition("%")[0]),
            destination=destination,
            protocol=self.protocol,
            size=header + length,
        )
        row[:header] = IPV6.header(fields)
        row[IPV6.ttl_offset] = hop_limit
        return min(header + length, ROW_SIZE), stamp_ns

    def _controls(self, ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int, bytes]:
        """(receive stamp, hop limit, destination) from control messages; drops are counted on the way."""
        stamp_ns, hop_limit, destination = 0, 0, bytes(IPV6.address_size)
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                seconds, nanoseconds = _TIMESPEC.unpack_from(data)
                stamp_ns = seconds * 1_000_000_000 + nanoseconds
            elif (level, kind) == (socket.SOL_SOCKET, SO_RXQ_OVFL):
                (drops,) = _COUNT.unpack_from(data)
                self.drops.are(drops)
            elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT):
                (hop_limit,) = _COUNT.unpack_from(data)
            elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                destination = data[: IPV6.address_size]
        return stamp_ns or time.time_ns(), hop_limit, destination
