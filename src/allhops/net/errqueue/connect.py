"""TCP without privilege: one connect() a probe, its TTL set beforehand.

A connection is named by its ports, so two probes with the same ones cannot be under way together (EADDRNOTAVAIL):
the kernel picks a source port for each, and the flow is not constant. Inside the house the lease's own port stands
for all of them; the kernel matches replies to sockets, sequence number included, and each socket is one probe.

What ends a connect() is the answer: an ICMP error on the error queue, success (SYN-ACK), refusal (RST). Success is
not left standing: with SO_LINGER 0 closing sends RST. A socket is closed before the kernel would send its SYN again,
a second after the first (RFC 6298 2.1): a probe is one packet, so an answer slower than that is not heard.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections import deque
from importlib import import_module
from typing import TYPE_CHECKING

from allhops.core.lanes.hearsay import NAMED_BY_SOCKET, QUOTED_CHECKSUM, QUOTED_HEADER, REPLY_TTL
from allhops.errors import NETWORK_IS_DOWN
from allhops.net.errqueue.numbers import NUMBERS
from allhops.net.errqueue.queue import read_error
from allhops.net.errqueue.setup import HeaderChoice, allow_flow_label, listen_to_errors, plain_flow_label
from allhops.net.errqueue.synthesis import ErrorWriter, tcp_answer
from allhops.net.errqueue.watch import EVENTS_PER_LOOK
from allhops.net.source import bind_to_interface, socket_address

if TYPE_CHECKING:
    import asyncio

    from allhops.core.lanes import Block
    from allhops.model import Address
    from allhops.net.errqueue.queue import Told
    from allhops.net.errqueue.station import Station
    from allhops.net.source import Held
    from allhops.options import TraceOptions

SYN_LIFETIME_S = 0.95
"""How long a SYN is waited for: its second copy would leave a second after the first."""
_TCP_SYNCNT = 7
_TCP_INFO = 11
_IP_BIND_ADDRESS_NO_PORT = 24
"""Linux 4.2: let connect() choose the port, so that ports are used up a destination, not in all."""
_RTT_OFFSET = 68
"""Of tcpi_rtt, microseconds, in struct tcp_info."""
_U32 = struct.Struct("@I")
_ESTABLISHED = 1
_RESET_ON_CLOSE = struct.pack("@ii", 1, 0)
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN)
_RESET = (errno.ECONNREFUSED, errno.ECONNRESET)


class ConnectLease:
    """The probes of one trace, each a socket of its own.

    `held` holds the source address, and a port that names the trace in this house; it sends nothing.
    """

    flow_constant = False

    def __init__(self, held: Held, destination: Address, options: TraceOptions, station: Station) -> None:
        assert held.sock is not None  # TCP's port is held by a socket
        host, _, *scope = held.sock.getsockname()
        self.numbers = NUMBERS[destination.version]
        self.source = held.source
        self.source_port = held.source_port
        self.station = station
        self.writer = ErrorWriter(self.numbers.family, held.source)
        self._held = held
        self._from = (host, 0, *scope)
        # 50 to 80 ms of imports between a RST and the look at it would be read as its RTT: better before the first SYN.
        import_module("allhops.core.lanes.dissect")
        self._where = socket_address(destination, options.destination_port or 0)
        self._interface = options.interface
        self._under_way: deque[_Attempt] = deque()
        self._timer: asyncio.TimerHandle | None = None
        station.leases.add(self)

    def expect(self, cookie: bytes) -> None:
        """The kernel lets in what quotes our own addresses and ports, and nothing else."""

    def send(self, block: Block) -> None:
        """One connect() a probe, as many as there are places for."""
        view = memoryview(block.packets)
        station = self.station
        for position in range(len(block)):
            packet = bytes(view[position * block.size : (position + 1) * block.size])
            code = self._probe(packet, block, position)
            if code in _NO_ROOM:
                block.waits_for_room = True
                break
            block.errors[position] = code
            block.handed += 1
            if code in NETWORK_IS_DOWN:
                break
            # Nobody stamps a RST: what has come meanwhile is to be seen now, not after the burst.
            station.watch.drain(station.arrivals, len(station.arrivals) + EVENTS_PER_LOOK)
        self._set_timer()
        if len(station.arrivals):
            station.arrivals.announce()

    def _probe(self, packet: bytes, block: Block, position: int) -> int:
        """Begin one connect(); errno, or 0 when the SYN left."""
        places = self.station.places
        if not places.take():
            return errno.EMFILE
        try:
            sock = self._socket(packet)
        except OSError as error:
            places.give_back()
            if error.errno in _NO_ROOM:
                places.shrink()
            return error.errno or errno.EIO
        block.sent_ns[position] = time.time_ns()
        attempt = _Attempt(self, sock, packet, block.sent_ns[position])
        code = sock.connect_ex(self._where_with_label(packet))
        if code == errno.EINPROGRESS:
            self._under_way.append(attempt)
            self.station.watch.add(sock, attempt, writable=True)
            return 0
        return attempt.ended_at_once(code)

    def _socket(self, packet: bytes) -> socket.socket:
        """A socket that tells its errors, forgets its connection, and gives its packets the probe's TTL and TOS."""
        numbers = self.numbers
        sock = socket.socket(numbers.domain, socket.SOCK_STREAM)
        try:
            listen_to_errors(sock, numbers)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_SYNCNT, 1)
            sock.setsockopt(numbers.level, numbers.ttl, packet[numbers.family.ttl_offset])
            header = HeaderChoice.of(numbers, memoryview(packet))
            header.apply(sock, numbers)
            plain_flow_label(sock)
            if header.flow_label:
                allow_flow_label(sock)
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            bind_to_interface(sock, self._interface)
            sock.bind(self._from)
        except BaseException:
            sock.close()
            raise
        return sock

    def _where_with_label(self, packet: bytes) -> tuple[object, ...]:
        """IPv6 has the flow label in the address: third of four."""
        host, port, *rest = self._where
        return (host, port, self.numbers.flow_label_of(memoryview(packet)), *rest[1:]) if rest else (host, port)

    def _set_timer(self) -> None:
        """For the oldest that is under way: sockets end in the order in which they began."""
        while self._under_way and self._under_way[0].closed:
            self._under_way.popleft()
        if self._timer is None and self._under_way:
            age_s = time.monotonic() - self._under_way[0].begun_at
            self._timer = self.station.loop.call_later(max(0.0, SYN_LIFETIME_S - age_s), self._expire)

    def _expire(self) -> None:
        self._timer = None
        before = time.monotonic() - SYN_LIFETIME_S
        while self._under_way and (self._under_way[0].closed or self._under_way[0].begun_at <= before):
            self._under_way.popleft().close()
        self._set_timer()

    def close(self) -> None:
        """Close every socket: what is under way is of no use to anybody."""
        if self._timer is not None:
            self._timer.cancel()
        for attempt in self._under_way:
            attempt.close()
        self._under_way.clear()
        self.station.leases.discard(self)
        self._held.close()


class _Attempt:
    """One SYN, and the socket that is its name."""

    __slots__ = ("_lease", "_packet", "_sock", "begun_at", "closed", "sent_ns")

    def __init__(self, lease: ConnectLease, sock: socket.socket, packet: bytes, sent_ns: int) -> None:
        self._lease = lease
        self._sock = sock
        self._packet = packet
        self.sent_ns = sent_ns
        self.begun_at = time.monotonic()  # the wall clock may be set meanwhile
        self.closed = False

    def drain(self, room: int, events: int) -> None:
        """Something happened: an error was told, or the connect() is over."""
        if not self._take_error():
            self._take_outcome(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        self.close()

    def ended_at_once(self, code: int) -> int:
        """connect() came back with its outcome, as on the loopback: errno of a local refusal, or 0."""
        self._lease.station.watch.looked_ns = time.time_ns()
        if self._take_error() or self._take_outcome(code):
            code = 0
        self.close()
        return code

    def _take_error(self) -> bool:
        """Write an ICMP error down; whether there was one."""
        try:
            told = read_error(self._sock, self._lease.numbers)
        except OSError:
            return False
        icmp, numbers = told.icmp, self._lease.numbers
        if icmp is None or icmp.origin != numbers.icmp_origin or not icmp.offender:
            return False
        hearsay = NAMED_BY_SOCKET | QUOTED_HEADER | QUOTED_CHECKSUM | (REPLY_TTL if told.reply_ttl is None else 0)
        quote = self._quote(told, icmp.extensions_at)
        packet = self._lease.writer.write(icmp, quote, told=len(told.data), reply_ttl=told.reply_ttl or 0)
        self._lease.station.arrivals.add(packet, told.stamp_ns, hearsay)
        return True

    def _quote(self, told: Told, extensions_at: int) -> bytes:
        """The probe, which the socket stands for, and the extensions that were told behind it."""
        if not extensions_at:
            return self._packet
        before = self._lease.numbers.family.header_size + extensions_at
        return self._packet[:before].ljust(before, b"\0") + told.data[extensions_at:]

    def _take_outcome(self, code: int) -> bool:
        """Write down what a connect() ended in; whether that was an answer."""
        if code == 0:
            info = self._sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _RTT_OFFSET + _U32.size)
            (rtt_us,) = _U32.unpack_from(info, _RTT_OFFSET)
            # The kernel's own measurement: nobody stamps a SYN-ACK for us.
            stamp_ns = self.sent_ns + rtt_us * 1_000 if info[0] == _ESTABLISHED and rtt_us else time.time_ns()
        elif code in _RESET:
            stamp_ns = max(self._lease.station.watch.looked_ns, self.sent_ns)
        else:
            return False
        answer = tcp_answer(self._lease.numbers.family, self._packet, is_open=code == 0)
        self._lease.station.arrivals.add(answer, stamp_ns, NAMED_BY_SOCKET | REPLY_TTL | QUOTED_CHECKSUM)
        return True

    def close(self) -> None:
        """Give the place back; an established connection is reset."""
        if not self.closed:
            self.closed = True
            self._lease.station.watch.remove(self._sock)
            self._sock.close()
            self._lease.station.places.give_back()
