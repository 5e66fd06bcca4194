"""What a UDP or ping socket was told, on its way to becoming packets: the headers that the kernel keeps to itself.

Which probe is meant by a quote that does not name it, somebody else has to say, who knows what is out. This file
knows no lease and no clock.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allhops.core.lanes.hearsay import QUOTED_CHECKSUM, QUOTED_HEADER, REPLY_TTL, SEEN_WHOLE
from allhops.net.errqueue.synthesis import UDP_HEADER_SIZE, ErrorWriter, ip_packet, quoted_header, udp_header
from allhops.wire.probes import UDP

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.net.errqueue.arrivals import Arrivals
    from allhops.net.errqueue.numbers import Numbers
    from allhops.net.errqueue.queue import Told

NAME_SIZE = 8
"""Bytes of a UDP payload that name a probe: cookie, mark and balance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What UDP and ICMP sockets do differently."""

    protocol: int
    kernel_header: int
    """Bytes of transport header that the kernel writes and keeps to itself."""
    always_named: bool
    """Whether every quote names its probe: that of an ICMP echo has identifier, sequence and checksum in it."""


def udp_kind() -> Kind:
    """UDP over either family."""
    return Kind(protocol=UDP, kernel_header=UDP_HEADER_SIZE, always_named=False)


def ping_kind(numbers: Numbers) -> Kind:
    """ICMP echo, through a ping socket."""
    return Kind(protocol=numbers.family.icmp_protocol, kernel_header=0, always_named=True)


class Hearing:
    """What the socket with this packed source address, and port or identifier, is told, written down for the ring.

    `name` is asked about each error over UDP: from what was told, and the packed destination of the probe, it says
    what to quote behind the headers, and the hearsay of that.
    """

    def __init__(
        self,
        source: bytes,
        source_port: int,
        kind: Kind,
        numbers: Numbers,
        arrivals: Arrivals,
        name: Callable[[Told, bytes], tuple[bytes, int]],
    ) -> None:
        self._source = source
        self._source_port = source_port
        self._kind = kind
        self._numbers = numbers
        self._arrivals = arrivals
        self._name = name
        self._writer = ErrorWriter(numbers.family, source)
        self._size = 0
        self._quoted = b""
        self.expect_size(numbers.family.default_size)

    def expect_size(self, size: int) -> None:
        """Probes have this many bytes from now on."""
        if size != self._size:
            self._size = size
            nowhere = bytes(self._numbers.family.address_size)
            self._quoted = quoted_header(self._numbers.family, self._source, nowhere, self._kind.protocol, size)

    def take_error(self, told: Told) -> None:
        """Write an ICMP error down as a packet; a local error says nothing that the send did not."""
        icmp, numbers = told.icmp, self._numbers
        if icmp is None or icmp.origin != numbers.icmp_origin or not icmp.offender:
            return
        hearsay = QUOTED_HEADER
        if told.reply_ttl is None:
            hearsay |= REPLY_TTL
        destination = self._packed(told.where[0])
        quoted = told.data
        if not self._kind.always_named:
            quoted, named = self._name(told, destination)
            hearsay |= QUOTED_CHECKSUM | named
        quote = self._headers(destination, told.where[1]) + quoted
        packet = self._writer.write(icmp, quote, told=len(quoted), reply_ttl=told.reply_ttl or 0)
        self._arrivals.add(packet, told.stamp_ns, hearsay)

    def _headers(self, destination: bytes, port: int) -> bytes:
        """Those of a quoted probe. Where it was sent to is as quoted, not as we know it."""
        family, kind = self._numbers.family, self._kind
        at = family.destination_offset
        header = self._quoted[:at] + destination + self._quoted[at + family.address_size :]
        if not kind.kernel_header:
            return header
        return header + udp_header(self._source_port, port, self._size - family.header_size)

    def take_answer(self, told: Told) -> None:
        """Write down an echo reply, or what a UDP service sent back."""
        kind = self._kind
        payload = told.data
        if kind.kernel_header:
            payload = udp_header(told.where[1], self._source_port, UDP_HEADER_SIZE + len(payload)) + payload
        source = self._packed(told.where[0])
        packet = ip_packet(self._numbers.family, source, self._source, kind.protocol, told.reply_ttl or 0, payload)
        hearsay = REPLY_TTL if told.reply_ttl is None else SEEN_WHOLE
        self._arrivals.add(packet, told.stamp_ns, hearsay | (QUOTED_CHECKSUM if kind.kernel_header else 0))

    def _packed(self, host: str) -> bytes:
        return socket.inet_pton(self._numbers.domain, host.partition("%")[0])
