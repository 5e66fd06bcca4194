"""A window of a batch without privilege: one unconnected socket for the probes to all its destinations.

Replies make pending errors, and each lets one send fail, which sends nothing and says nothing about its packet: so
the socket is read after every few probes, and what was refused is sent again (flow.py says when it is this
machine that refuses). A slice that was cut short needs no such question: the next one begins where it ended.

The error queue of an unconnected socket takes errors about any destination from whoever knows the port; the lane
believes none that does not show the window's cookie, and a nameless one is only about what was sent a moment ago.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from allhops.core.lanes.hearsay import NAMED_ALONE, NAMELESS, SEEN_WHOLE
from allhops.errors import NETWORK_IS_DOWN
from allhops.net.errqueue.flow import QUEUE_IS_FULL, SEND_TRIES, UNEXPLAINED
from allhops.net.errqueue.hearing import NAME_SIZE, Hearing
from allhops.net.errqueue.in_flight import InFlight
from allhops.net.errqueue.numbers import NUMBERS
from allhops.net.errqueue.outbox import MOST, Outbox
from allhops.net.errqueue.queue import fill
from allhops.net.errqueue.queues import Queues
from allhops.net.errqueue.setup import (
    HeaderChoice,
    allow_flow_label,
    grow_buffer,
    listen_to_errors,
    plain_flow_label,
)

if TYPE_CHECKING:
    from allhops.core.lanes import Block
    from allhops.net.errqueue.hearing import Kind
    from allhops.net.errqueue.queue import Told
    from allhops.net.errqueue.station import Station
    from allhops.net.source import Held

SLICE = 16
"""Probes sent between two looks at the error queue, and between two of the clock."""


class WindowLease:
    """A source address and port, its socket, and what is out on it.

    The socket of `held` is bound and not connected; it is the lease's from now on. `patience` is how long a probe may
    be answered without its name, seconds; `scope` as in outbox.py.
    Raises: OSError where there is no error queue; it stays the caller's then.
    """

    def __init__(self, held: Held, kind: Kind, version: int, scope: int, patience: float, station: Station) -> None:
        assert held.sock is not None  # both sorts of probes have a socket
        self.sock = held.sock
        self.source = held.source
        self.source_port = held.source_port
        self._kind = kind
        self._numbers = numbers = NUMBERS[version]
        self._station = station
        self._arrivals = station.arrivals
        self._outbox = Outbox(kind, numbers, scope)
        self._hearing = Hearing(held.source, held.source_port, kind, numbers, station.arrivals, self._name)
        self._queues = Queues(self.sock, numbers, self._hearing)
        self._in_flight = InFlight(int(patience * 1e9))
        self._misses_before = None if kind.always_named else station.misses.level()
        self._is_suspicious: bool | None = None
        self._header = HeaderChoice(tos=-1, dont_fragment=False, flow_label=0)
        listen_to_errors(self.sock, numbers)
        grow_buffer(self.sock)
        plain_flow_label(self.sock)
        station.watch.add(self.sock, self)
        station.leases.add(self)

    # Sending

    def expect(self, cookie: bytes) -> None:
        """The kernel lets in what quotes our own address and port, and nothing else."""

    def send(self, block: Block, most: int) -> None:
        """Send by slices, stamped before and after, and listen in between."""
        end = min(len(block), block.handed + most)
        if block.handed >= end:
            return
        self._look_at_fill()
        self._hearing.expect_size(block.size)
        self._set_header(block)
        goes_on = True
        while goes_on and block.handed < end:
            first = block.handed
            count = min(end - first, MOST)
            self._outbox.fill(block, first, count)
            goes_on = self._send_messages(block, first, count)
        self._outbox.release()
        if len(self._arrivals):
            self._arrivals.announce()

    def _send_messages(self, block: Block, first: int, count: int) -> bool:
        """Send the messages that were made of probes `first` and following; whether the kernel will take more."""
        tries = unexplained = noted = 0
        while (done := block.handed - first) < count:
            wanted = min(SLICE, count - done)
            before = time.time_ns()
            if noted < done + wanted:
                self._note(block, first + noted, done + wanted - noted, before)
                noted = done + wanted
            sent, code = self._outbox.send(self.sock.fileno(), done, wanted)
            if sent:
                _stamp(block, sent, before, time.time_ns())
                tries = unexplained = 0
                self._queues.drain_errors()
                continue
            tries += 1
            unexplained = 0 if self._queues.drain_errors() else unexplained + 1
            if code in QUEUE_IS_FULL or tries == SEND_TRIES:
                return False
            if unexplained == UNEXPLAINED:
                self._refuse(block, code, before)
                tries = unexplained = 0
                if code in NETWORK_IS_DOWN:
                    return False
        return True

    def _refuse(self, block: Block, code: int, now_ns: int) -> None:
        """This machine does not send the next probe."""
        position = block.handed
        block.errors[position] = code
        block.sent_ns[position] = now_ns
        block.handed += 1
        if not self._kind.always_named:
            self._in_flight.answered(*self._names(block, position))

    def _note(self, block: Block, first: int, count: int, now_ns: int) -> None:
        """Remember probes whose replies may come without their names, before they leave: it may be here at once."""
        if self._kind.always_named:
            return
        in_flight = self._in_flight
        in_flight.age(now_ns)
        for position in range(first, first + count):
            destination, name = self._names(block, position)
            in_flight.sent(destination, name, now_ns)

    def _names(self, block: Block, position: int) -> tuple[bytes, bytes]:
        """(packed destination, name) of a probe."""
        family = self._numbers.family
        start = position * block.size
        at = start + family.destination_offset
        name = start + family.header_size + self._kind.kernel_header
        packets = block.packets
        return bytes(packets[at : at + family.address_size]), bytes(packets[name : name + NAME_SIZE])

    def _set_header(self, block: Block) -> None:
        """What is the same in every probe of a window."""
        wanted = HeaderChoice.of(self._numbers, memoryview(block.packets))
        if wanted != self._header:
            wanted.apply(self.sock, self._numbers)
            if wanted.flow_label:
                allow_flow_label(self.sock)
            self._header = wanted

    # Listening

    def drain(self, room: int, events: int) -> None:
        """Read up to `room` packets of the queues that have some."""
        self._look_at_fill()
        self._queues.drain(room, events)

    def _look_at_fill(self) -> None:
        """How full the queue is, before it is read. Whether somebody guesses ports is asked anew after that."""
        self._arrivals.watch_fill(*fill(self.sock))
        self._is_suspicious = None

    def _name(self, told: Told, destination: bytes) -> tuple[bytes, int]:
        """The name of the probe that a reply is about, if there is only one that it can be."""
        if len(told.data) >= NAME_SIZE:
            self._in_flight.answered(destination, told.data[:NAME_SIZE])
            return told.data, SEEN_WHOLE
        assert told.icmp is not None  # only errors quote
        if self._is_suspicious is None:
            self._is_suspicious = self._station.misses.suspicious_since(self._misses_before)
        if self._is_suspicious:
            return told.data, NAMELESS
        name = self._in_flight.only_possible(destination, told.icmp.offender, told.stamp_ns)
        return (told.data, NAMELESS) if name is None else (name, NAMED_ALONE)

    def close(self) -> None:
        """Give the port back."""
        self._station.leases.discard(self)
        self._station.misses.orphans += len(self._in_flight)
        self._station.watch.remove(self.sock)
        self.sock.close()


def _stamp(block: Block, sent: int, before_ns: int, after_ns: int) -> None:
    """The next so many probes left one after the other in this time."""
    first, stamps = block.handed, block.sent_ns
    for nth in range(sent):
        stamps[first + nth] = before_ns + (after_ns - before_ns) * nth // sent
    block.handed += sent
