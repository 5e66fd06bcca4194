"""UDP and ICMP without privilege: one connected socket a flow, every TTL in flight on it.

The socket holds the port (or, for ICMP, the identifier), and being connected it is handed only what concerns this
very flow: whoever forges an error must guess the source port. The kernel writes the headers; what of ours it has to
take over (TTL, TOS, DF, flow label) is set by socket options when it changes. TTLs ascend in a wave, all attempts of
one together, so that is one call in three; control messages would do the same, but ICMPv6 sockets ignore them before
Linux 5.18.

A pending ICMP error makes the next send fail, without sending, with that error: it says nothing about the packet.
So the queue is read and the packet sent again, at once. It is this machine that refuses only if there is no error
to read, twice in a row.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from allhops.core.lanes.hearsay import NAMED_ALONE, NAMELESS, SEEN_WHOLE
from allhops.errors import NETWORK_IS_DOWN
from allhops.net.errqueue.alone import Outstanding
from allhops.net.errqueue.hearing import NAME_SIZE, Hearing
from allhops.net.errqueue.numbers import NUMBERS
from allhops.net.errqueue.queue import fill
from allhops.net.errqueue.queues import Queues
from allhops.net.errqueue.setup import (
    HeaderChoice,
    grow_buffer,
    listen_to_errors,
    plain_flow_label,
    set_flow_label,
)
from allhops.net.errqueue.synthesis import UDP_HEADER_SIZE

if TYPE_CHECKING:
    from allhops.core.lanes import Block
    from allhops.model import Address
    from allhops.net.errqueue.hearing import Kind
    from allhops.net.errqueue.queue import Told
    from allhops.net.errqueue.station import Station
    from allhops.net.source import Held

QUEUE_IS_FULL = (errno.EAGAIN, errno.ENOBUFS)
SEND_TRIES = 32
"""Of one packet, while each failure is explained by an error that was pending."""
UNEXPLAINED = 2
"""Failures in a row that make it this machine that refuses, if no answer of the network's in the error queue explains
them. Not one: the kernel queues an entry first and marks the socket afterwards (__udp4_lib_err), so the entry may have
been read in between.
"""


class FlowLease:
    """One flow: its socket, what is out on it, and how what is told of it becomes packets.

    The socket of `held` is bound and connected to the destination; it is the lease's from now on.
    Raises: OSError where there is no error queue; it stays the caller's then.
    """

    flow_constant = True

    def __init__(self, held: Held, kind: Kind, destination: Address, station: Station) -> None:
        assert held.sock is not None  # both sorts of flow are held by a socket
        self.sock = sock = held.sock
        self._kind = kind
        self._numbers = numbers = NUMBERS[destination.version]
        self.source = held.source
        self.source_port = held.source_port
        self._station = station
        self._arrivals = station.arrivals
        self._outstanding = Outstanding()
        self._misses_before = None if kind.always_named else station.misses.level()
        self._hearing = Hearing(held.source, held.source_port, kind, numbers, station.arrivals, self._name)
        self._queues = Queues(self.sock, numbers, self._hearing)
        self._header = HeaderChoice(tos=-1, dont_fragment=False, flow_label=0)
        self._ttl = -1
        listen_to_errors(sock, numbers)
        grow_buffer(sock)
        plain_flow_label(sock)
        station.watch.add(sock, self)
        station.leases.add(self)

    # Sending

    def expect(self, cookie: bytes) -> None:
        """The kernel lets in what quotes our own addresses and ports, and nothing else."""

    def send(self, block: Block) -> None:
        """One `send` a probe, stamped just before it, and again after a pending error."""
        view = memoryview(block.packets)
        size = block.size
        self._hearing.expect_size(size)
        header = self._numbers.family.header_size
        self._set_header(view)
        for position in range(len(block)):
            packet = view[position * size : (position + 1) * size]
            self._set_ttl(packet[self._numbers.family.ttl_offset])
            name = self._note(packet, header)
            code = self._send_one(packet[header + self._kind.kernel_header :], block, position)
            if name is not None and code:
                self._outstanding.withdraw(name)
            if code in QUEUE_IS_FULL:
                break
            block.errors[position] = code
            block.handed += 1
            if code in NETWORK_IS_DOWN:
                break
        if len(self._arrivals):
            self._arrivals.announce()

    def _send_one(self, payload: memoryview, block: Block, position: int) -> int:
        """Hand one packet over; errno, or 0 when it left."""
        unexplained = 0
        for _ in range(SEND_TRIES):
            block.sent_ns[position] = time.time_ns()
            try:
                self.sock.send(payload)
            except OSError as error:
                code = error.errno or errno.EIO
                unexplained = 0 if self._queues.drain_errors() else unexplained + 1
                if code in QUEUE_IS_FULL or unexplained == UNEXPLAINED:
                    return code
            else:
                return 0
        return errno.EAGAIN

    def _note(self, packet: memoryview, header: int) -> bytes | None:
        """Remember a probe whose reply may come without its name. Before it leaves: the reply may be here at once."""
        if self._kind.always_named:
            return None
        family = self._numbers.family
        start = header + UDP_HEADER_SIZE
        name = bytes(packet[start : start + NAME_SIZE])
        self._outstanding.sent(name, packet[family.ttl_offset], time.time_ns(), name)
        return name

    def _set_header(self, view: memoryview) -> None:
        """What is the same in every probe of a flow."""
        wanted = HeaderChoice.of(self._numbers, view)
        if wanted != self._header:
            wanted.apply(self.sock, self._numbers)
            if wanted.flow_label != self._header.flow_label:
                set_flow_label(self.sock, wanted.flow_label)
            self._header = wanted

    def _set_ttl(self, ttl: int) -> None:
        if ttl != self._ttl:
            self.sock.setsockopt(self._numbers.level, self._numbers.ttl, ttl)
            self._ttl = ttl

    # Listening

    def drain(self, room: int, events: int) -> None:
        """Read up to `room` packets of the queues that have some."""
        self._arrivals.watch_fill(*fill(self.sock))
        self._queues.drain(room, events)

    def _name(self, told: Told, destination: bytes) -> tuple[bytes, int]:
        """The name of the probe that a reply is about, if there is only one that it can be."""
        if len(told.data) >= NAME_SIZE:
            self._outstanding.answered(told.data[:NAME_SIZE], told.stamp_ns)
            return told.data, SEEN_WHOLE
        assert told.icmp is not None  # only errors quote
        if self._station.misses.suspicious_since(self._misses_before):
            return told.data, NAMELESS
        out = self._outstanding.only_possible(told.icmp.offender, told.stamp_ns)
        return (told.data, NAMELESS) if out is None else (out.packet, NAMED_ALONE)

    def close(self) -> None:
        """Give the port back."""
        self._station.leases.discard(self)
        self._station.misses.orphans += len(self._outstanding)
        self._station.watch.remove(self.sock)
        self.sock.close()
