"""A device at work: whether it answers, from where, and with which bytes.

A `Device` is what all paths and both families share: its IP ID counter and the
bucket for all peers. A `Responder` is a device in one family, with its packets
prepared as far as they can be. Time is an argument. This file knows no path.

Source: Linux net/ipv4/icmp.c for limits and quoting; RFC 792, RFC 4443.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from allhops.model import Protocol
from allhops.testing.packets import (
    IPV4,
    TCP,
    TOS_OF_ERRORS,
    UDP,
    Layout,
    Sent,
    aged,
    icmp_message,
    ports_of,
    tcp_answer,
    tcp_segment,
    udp_datagram,
)
from allhops.testing.quoting import Quoting
from allhops.testing.scenario import IcmpAnswer, Stage, TcpAnswer, UdpAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.model import Address
    from allhops.testing.scenario import IcmpError, Limit, Router

SECOND = 1_000_000_000


class TokenBucket:
    """Linux's way to limit ICMP: credit grows with time up to a burst, a message costs one.

    >>> bucket = TokenBucket(burst=1, per_second=1.0)
    >>> bucket.take(0), bucket.take(1), bucket.take(SECOND)
    (True, False, True)
    """

    __slots__ = ("_capacity", "_cost", "_credit", "_last")

    def __init__(self, *, burst: int, per_second: float) -> None:
        self._cost = round(SECOND / per_second)
        self._capacity = burst * self._cost
        self._credit = self._capacity
        self._last: int | None = None

    def take(self, now_ns: int) -> bool:
        """Whether a message may go now; pays for it if so."""
        if self._last is not None and now_ns > self._last:
            self._credit = min(self._capacity, self._credit + now_ns - self._last)
        self._last = now_ns if self._last is None else max(self._last, now_ns)
        if self._credit < self._cost:
            return False
        self._credit -= self._cost
        return True


class Device:
    """What the two families of a router share: IP ID counter, random numbers, the limit for all peers."""

    __slots__ = ("_ident", "bucket", "loss", "random", "router")

    def __init__(self, router: Router, random: Callable[[], float]) -> None:
        self.router = router
        self.random = random
        self.loss = router.loss
        self.bucket = _bucket(router.global_limit)
        self._ident = int(random() * 0xFFFF)

    def next_ident(self) -> int:
        """The next IP ID, never 0: one counter for all replies, as alias resolution expects."""
        self._ident = self._ident % 0xFFFF + 1
        return self._ident


def _bucket(limit: Limit | None) -> TokenBucket | None:
    return TokenBucket(burst=limit.burst, per_second=limit.per_second) if limit else None


class Visit(NamedTuple):
    """A packet at a device."""

    sent: Sent
    """As it left the vantage point; replies go to its source."""
    seen: Sent
    """As it looks here: the same, unless a NAT stands in between."""
    ttl_left: int
    distance: int
    """Routers between here and the vantage point: what the reply's TTL loses."""
    now_ns: int


class Responder:
    """A device in one family.

    `obstacle` says that packets may end here although their TTL does not:
    `blocks` holds the ICMP error for them, `mtu` what fits through. The methods
    give a packet, or the name under which its absence is to be counted.
    """

    __slots__ = (
        "_alias",
        "_buckets",
        "_icmp_source",
        "_limit",
        "_quoting",
        "address",
        "blocks",
        "device",
        "ingress",
        "key",
        "layout",
        "mtu",
        "obstacle",
        "silent",
    )

    def __init__(self, device: Device, layout: Layout) -> None:
        router = device.router
        first = layout is IPV4
        own = router.ipv4 if first else router.ipv6
        other = router.answers_from if first else router.answers_from_ipv6
        self.device = device
        self.layout = layout
        self.key = router.key
        self.silent = router.silent
        self.blocks: IcmpError | None = router.icmp if first else router.icmp_ipv6
        self.ingress = self.blocks is not None and self.blocks.stage is Stage.INGRESS
        self.mtu = router.mtu
        self.obstacle = self.blocks is not None or self.mtu is not None
        self.address = other or own
        """Source of its Time Exceeded; None when it has none of this family."""
        self._alias = other
        self._icmp_source = other.packed if other else None
        self._limit = router.limit if first else router.limit_ipv6 or router.limit
        self._buckets: dict[bytes, TokenBucket] = {}
        self._quoting = Quoting(layout, router.quote if first else router.quote_ipv6, router.rewrite, router.extensions)

    def shows(self, destination: Address, protocol: Protocol, *, arrived: bool) -> Address | None:
        """The responder's address that a probe brings to light; None when it is silent."""
        if self.silent:
            return None
        if not arrived:
            return self.address
        host = self.device.router.host
        behaviour = {Protocol.UDP: host.udp, Protocol.ICMP: host.icmp, Protocol.TCP: host.tcp}[protocol]
        if behaviour == "silent":
            return None
        speaks_icmp = protocol is Protocol.ICMP or behaviour is UdpAnswer.UNREACHABLE
        return self._alias or destination if speaks_icmp else destination

    def error(self, visit: Visit, error: tuple[int, int, int]) -> bytes | str:
        """The ICMP error (type, code, MTU) of a router about a passing packet."""
        address = self.address
        return self._error(visit, error, address.packed) if address else "silent"

    def refusal(self, visit: Visit) -> bytes | str:
        """What a router says of a packet that is too big for its link onwards."""
        router = self.device.router
        told = self.mtu if router.mtu_told is None else router.mtu_told
        return "silent" if router.black_hole else self.error(visit, (*self.layout.too_big, told or 0))

    def arrived(self, visit: Visit) -> bytes | str:
        """What the device answers as the destination: from the probed address, so one device can own a prefix."""
        sent = visit.sent
        if self.silent:
            return "silent"
        if sent.protocol == UDP:
            return self._udp_answer(visit)
        if sent.protocol == self.layout.icmp:
            return self._echo_answer(visit)
        if sent.protocol == TCP:
            return self._tcp_answer(visit)
        return "unknown_protocol"

    def _udp_answer(self, visit: Visit) -> bytes | str:
        behaviour, sent, layout = self.device.router.host.udp, visit.sent, self.layout
        if behaviour is UdpAnswer.UNREACHABLE:
            error = (layout.unreachable, layout.port_unreachable, 0)
            return self._error(visit, error, self._icmp_source or sent.destination)
        if behaviour is UdpAnswer.SILENT:
            return "silent"
        source_port, destination_port = ports_of(sent.packet[sent.transport :])
        ports = (destination_port, source_port)
        payload = sent.packet[sent.transport + 8 :]
        datagram = udp_datagram(layout, sent.destination, sent.source, ports, payload)
        return self._packet(visit, sent.destination, UDP, datagram)

    def _echo_answer(self, visit: Visit) -> bytes | str:
        sent, layout = visit.sent, self.layout
        request = sent.packet[sent.transport :]
        if request[0] != layout.echo_request:
            return "not_a_probe"
        if self.device.router.host.icmp is IcmpAnswer.SILENT:
            return "silent"
        source = self._icmp_source or sent.destination
        message = icmp_message(layout, source, sent.source, (layout.echo_reply, 0, request[4:8]), request[8:])
        return self._packet(visit, source, layout.icmp, self._perhaps_corrupt(message))

    def _tcp_answer(self, visit: Visit) -> bytes | str:
        behaviour, sent = self.device.router.host.tcp, visit.sent
        if behaviour is TcpAnswer.SILENT:
            return "silent"
        segment = sent.packet[sent.transport :]
        sequence = int(self.device.random() * 0xFFFFFFFF)
        numbers = tcp_answer(segment, sequence, is_open=behaviour is TcpAnswer.OPEN)
        if numbers is None:
            return "not_a_probe"
        source_port, destination_port = ports_of(segment)
        ports = (destination_port, source_port)
        answer = tcp_segment(self.layout, sent.destination, sent.source, ports, numbers)
        return self._packet(visit, sent.destination, TCP, answer)

    def _error(self, visit: Visit, error: tuple[int, int, int], source: bytes) -> bytes | str:
        sent, seen, ttl_left, _, now_ns = visit
        if self.silent:
            return "silent"
        if not may_cause_error(sent):
            return "not_a_probe"
        if not self._may_send_error(seen.source, now_ns):
            return "rate_limited"
        icmp_type, code, mtu = error
        rest, payload = self._quoting.payload(seen, aged(seen, ttl_left), mtu.to_bytes(4), icmp_type)
        message = icmp_message(self.layout, source, sent.source, (icmp_type, code, rest), payload)
        return self._packet(visit, source, self.layout.icmp, self._perhaps_corrupt(message), TOS_OF_ERRORS)

    def _may_send_error(self, peer: bytes, now_ns: int) -> bool:
        """Whether both limits let an error go; what the peer's refuses costs the device nothing (Linux since 6.11)."""
        limit = self._limit
        if limit is not None:
            bucket = self._buckets.get(peer)
            if bucket is None:
                bucket = self._buckets[peer] = TokenBucket(burst=limit.burst, per_second=limit.per_second)
            if not bucket.take(now_ns):
                return False
        common = self.device.bucket
        return common is None or common.take(now_ns)

    def _perhaps_corrupt(self, message: bytes) -> bytes:
        if not self.device.router.corrupt:
            return message
        return message[:2] + bytes((message[2] ^ 0xFF,)) + message[3:]

    def _packet(self, visit: Visit, source: bytes, protocol: int, segment: bytes, tos: int = 0) -> bytes | str:
        ttl = self.device.router.reply_ttl - visit.distance
        if ttl < 1:
            return "reply_expired"
        ident = self.device.next_ident()
        return self.layout.header(source, visit.sent.source, protocol, len(segment), ttl, tos, ident) + segment


def may_cause_error(sent: Sent) -> bool:
    """Whether routers may answer it with an error: no ICMP but echo requests (RFC 1122 3.2.2, RFC 4443 2.4 e)."""
    return sent.protocol != sent.layout.icmp or sent.packet[sent.transport] == sent.layout.echo_request
