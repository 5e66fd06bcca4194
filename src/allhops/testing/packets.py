"""Packets as the simulated internet sees them: read, aged, translated, built.

Offsets and type numbers are written down here a second time on purpose: this
is what judges the probes of `allhops.wire`, and a judge that shares the table
of the judged finds no mistake in it. Only the checksum is shared; it has its
own tests. Both families are data (`IPV4`, `IPV6`). This file knows no clock,
no socket and no scenario.

Source: RFC 791, 792, 768, 9293, 8200, 4443.
"""

from __future__ import annotations

import zlib
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from allhops.wire.checksum import internet_checksum

if TYPE_CHECKING:
    from collections.abc import Callable

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

TOS_OF_ERRORS = 0xC0
"""Linux sends ICMP errors with precedence "internetwork control". Source: net/ipv4/icmp.c."""

_IPV4_HEADER = Struct("!BBHHHBBH4s4s")
_IPV6_HEADER = Struct("!IHBB16s16s")
_IPV4_PSEUDO = Struct("!4s4sHH")
_IPV6_PSEUDO = Struct("!16s16sII")
_PORTS = Struct("!HH")
_UDP_HEADER = Struct("!HHHH")
_TCP_HEADER = Struct("!HHIIBBHHH")
_ICMP_HEADER = Struct("!BBH4s")


class Layout(NamedTuple):
    """What differs between the families: offsets in bytes from the start of the IP header, numbers, rules."""

    version: int
    bits: int
    header_bytes: int
    ttl_at: int
    tos_shift: int
    source_at: int
    destination_at: int
    destination_end: int
    icmp: int
    """Protocol number of the family's ICMP."""
    echo_request: int
    echo_reply: int
    time_exceeded: int
    unreachable: int
    port_unreachable: int
    too_big: tuple[int, int]
    extensible: frozenset[int]
    """ICMP types that may carry extensions (RFC 4884 section 4; parameter problem in IPv4 alone)."""
    length_at: int
    """Of the RFC 4884 length attribute in the ICMP header."""
    length_unit: int
    """Bytes that one of it counts."""
    error_room: int
    """Most bytes that a whole ICMP error has by default."""
    pseudo: Callable[[bytes, bytes, int, int], bytes]
    """(source, destination, length, protocol) -> pseudo-header of UDP and TCP."""
    icmp_pseudo: Callable[[bytes, bytes, int, int], bytes]
    """The same for ICMP, which in IPv4 has none."""
    header: Callable[[bytes, bytes, int, int, int, int, int], bytes]
    """(source, destination, protocol, payload length, ttl, tos, ident) -> IP header."""


class Sent(NamedTuple):
    """A packet that came in and is in order."""

    layout: Layout
    packet: bytes
    source: bytes
    destination: bytes
    ttl: int
    protocol: int
    transport: int
    """Offset of the transport header, bytes."""
    fragile: bool
    """Whether a router may not fragment it: DF, or IPv6."""


def _ipv4_pseudo(source: bytes, destination: bytes, length: int, protocol: int) -> bytes:
    return _IPV4_PSEUDO.pack(source, destination, protocol, length)


def _ipv6_pseudo(source: bytes, destination: bytes, length: int, protocol: int) -> bytes:
    return _IPV6_PSEUDO.pack(source, destination, length, protocol)


def _no_pseudo(source: bytes, destination: bytes, length: int, protocol: int) -> bytes:
    return b""


def _ipv4_header(
    source: bytes, destination: bytes, protocol: int, length: int, ttl: int, tos: int, ident: int
) -> bytes:
    fields = (0x45, tos, 20 + length, ident, 0, ttl, protocol)
    blank = _IPV4_HEADER.pack(*fields, 0, source, destination)
    return _IPV4_HEADER.pack(*fields, internet_checksum(blank), source, destination)


def _ipv6_header(
    source: bytes, destination: bytes, protocol: int, length: int, ttl: int, tos: int, ident: int
) -> bytes:
    return _IPV6_HEADER.pack(6 << 28 | tos << 20, length, protocol, ttl, source, destination)


IPV4 = Layout(
    version=4,
    bits=32,
    header_bytes=20,
    ttl_at=8,
    tos_shift=0,
    source_at=12,
    destination_at=16,
    destination_end=20,
    icmp=ICMP,
    echo_request=8,
    echo_reply=0,
    time_exceeded=11,
    unreachable=3,
    port_unreachable=3,
    too_big=(3, 4),
    extensible=frozenset({3, 11, 12}),
    length_at=5,
    length_unit=4,
    error_room=576,
    pseudo=_ipv4_pseudo,
    icmp_pseudo=_no_pseudo,
    header=_ipv4_header,
)

IPV6 = Layout(
    version=6,
    bits=128,
    header_bytes=40,
    ttl_at=7,
    tos_shift=4,
    source_at=8,
    destination_at=24,
    destination_end=40,
    icmp=ICMPV6,
    echo_request=128,
    echo_reply=129,
    time_exceeded=3,
    unreachable=1,
    port_unreachable=4,
    too_big=(2, 0),
    extensible=frozenset({1, 3}),
    length_at=4,
    length_unit=8,
    error_room=1280,
    pseudo=_ipv6_pseudo,
    icmp_pseudo=_ipv6_pseudo,
    header=_ipv6_header,
)

LAYOUTS = {4: IPV4, 6: IPV6}


def read(packet: bytes) -> Sent | str:
    """Read a full IP packet; a string says under which name it is to be counted and dropped."""
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        return _read_ipv4(packet)
    if version == 6:
        return _read_ipv6(packet)
    return "malformed"


def _read_ipv4(packet: bytes) -> Sent | str:
    transport = (packet[0] & 0x0F) * 4
    if not 20 <= transport <= len(packet) or int.from_bytes(packet[2:4]) != len(packet):
        return "malformed"
    if internet_checksum(packet[:transport]):
        return "bad_ip_checksum"
    if int.from_bytes(packet[6:8]) & 0x3FFF:
        return "fragment"
    sent = Sent(IPV4, packet, packet[12:16], packet[16:20], packet[8], packet[9], transport, bool(packet[6] & 0x40))
    return transport_fault(sent) or sent


def _read_ipv6(packet: bytes) -> Sent | str:
    if len(packet) < 40 or int.from_bytes(packet[4:6]) != len(packet) - 40:
        return "malformed"
    sent = Sent(IPV6, packet, packet[8:24], packet[24:40], packet[7], packet[6], 40, True)
    return transport_fault(sent) or sent


TRANSPORT_HEADER = {UDP: 8, TCP: 20, ICMP: 8, ICMPV6: 8}
"""Bytes of the header in front of the payload, options of TCP apart."""
CHECKSUM_AT = {UDP: 6, TCP: 16, ICMP: 2, ICMPV6: 2}
"""Offset of the checksum in the transport header, bytes."""


def transport_fault(sent: Sent) -> str | None:
    """What is wrong with the transport header; None when it is in order or of an unknown protocol."""
    layout, packet, source, destination, _, protocol, transport, _ = sent
    if protocol not in TRANSPORT_HEADER:
        return None
    segment = packet[transport:]
    length = len(segment)
    if length < TRANSPORT_HEADER[protocol]:
        return "malformed"
    if protocol == UDP:
        if int.from_bytes(segment[4:6]) != length:
            return "malformed"
        if segment[6:8] == b"\0\0":  # RFC 768: none transmitted; RFC 8200 8.1 forbids that in IPv6
            return "bad_transport_checksum" if layout.version == 6 else None
    pseudo = layout.icmp_pseudo if protocol == layout.icmp else layout.pseudo
    if internet_checksum(pseudo(source, destination, length, protocol) + segment):
        return "bad_transport_checksum"
    return None


def flow_hash(sent: Sent) -> int:
    """Hash, 32 bits, of what load balancers look at.

    Addresses, protocol, IPv6 flow label; the ports of UDP and TCP; type, code,
    checksum and identifier of ICMP, whose first four bytes stand where others
    have ports.
    """
    packet, protocol, transport = sent.packet, sent.protocol, sent.transport
    size = 6 if protocol == sent.layout.icmp else 4
    label = int.from_bytes(packet[:4]) & 0xFFFFF if sent.layout.version == 6 else 0
    return hash_fields(sent.source, sent.destination, protocol, label, packet[transport : transport + size])


def hash_fields(source: bytes, destination: bytes, protocol: int, label: int, first: bytes) -> int:
    """The hash behind `flow_hash`; `first` are the bytes of the transport header that count."""
    return zlib.crc32(first, zlib.crc32(source + destination, protocol << 20 | label))


def udp_or_tcp_hash(source: bytes, destination: bytes, protocol: int, ports: tuple[int, int], label: int) -> int:
    """The hash of a flow that is known by its (source, destination) ports instead of by a packet."""
    return hash_fields(source, destination, protocol, label, _PORTS.pack(*ports))


def aged(sent: Sent, ttl: int) -> bytes:
    """The packet as it arrives with `ttl` left, header checksum updated."""
    return with_header_byte(sent.layout, sent.packet, sent.transport, sent.layout.ttl_at, ttl)


def with_header_byte(layout: Layout, packet: bytes, transport: int, at: int, value: int) -> bytes:
    """The packet with one byte of its IP header changed, header checksum updated."""
    if layout.version == 6:
        return packet[:at] + bytes((value,)) + packet[at + 1 :]
    head = bytearray(packet[:transport])
    head[at] = value
    seal_header(head)
    return bytes(head) + packet[transport:]


def seal_header(head: bytearray) -> None:
    """Set the checksum of an IPv4 header, in place."""
    head[10:12] = b"\0\0"
    head[10:12] = internet_checksum(head).to_bytes(2)


def translated(sent: Sent, source: bytes, port_shift: int) -> Sent:
    """The packet as a source NAT passes it on: other source, shifted port or ICMP identifier, right checksums."""
    layout, protocol, transport = sent.layout, sent.protocol, sent.transport
    packet = bytearray(sent.packet)
    packet[layout.source_at : layout.destination_at] = source
    if protocol in TRANSPORT_HEADER:
        at = transport + (4 if protocol == layout.icmp else 0)
        port = int.from_bytes(packet[at : at + 2]) + port_shift & 0xFFFF
        packet[at : at + 2] = port.to_bytes(2)
        _seal_transport(layout, packet, transport, protocol, source, sent.destination)
    if layout.version == 4:
        head = packet[:transport]
        seal_header(head)
        packet[:transport] = head
    return sent._replace(packet=bytes(packet), source=source)


def restored(sent: Sent, after: Sent) -> Sent:
    """The packet with its own addresses and port again but the transport checksum it had past the NAT."""
    if sent.protocol not in CHECKSUM_AT:
        return sent
    at = sent.transport + CHECKSUM_AT[sent.protocol]
    return sent._replace(packet=sent.packet[:at] + after.packet[at : at + 2] + sent.packet[at + 2 :])


def _seal_transport(
    layout: Layout, packet: bytearray, transport: int, protocol: int, source: bytes, destination: bytes
) -> None:
    at = transport + CHECKSUM_AT[protocol]
    if protocol == UDP and packet[at : at + 2] == b"\0\0":
        return
    packet[at : at + 2] = b"\0\0"
    pseudo = layout.icmp_pseudo if protocol == layout.icmp else layout.pseudo
    segment = packet[transport:]
    checksum = internet_checksum(pseudo(source, destination, len(segment), protocol) + segment)
    packet[at : at + 2] = (checksum or 0xFFFF if protocol == UDP else checksum).to_bytes(2)


def icmp_message(
    layout: Layout, source: bytes, destination: bytes, head: tuple[int, int, bytes], payload: bytes
) -> bytes:
    """An ICMP message with its checksum; `head` is type, code and the four bytes behind the checksum."""
    icmp_type, code, rest = head
    blank = _ICMP_HEADER.pack(icmp_type, code, 0, rest) + payload
    checksum = internet_checksum(layout.icmp_pseudo(source, destination, len(blank), layout.icmp) + blank)
    return _ICMP_HEADER.pack(icmp_type, code, checksum, rest) + payload


def udp_datagram(layout: Layout, source: bytes, destination: bytes, ports: tuple[int, int], payload: bytes) -> bytes:
    """A UDP datagram with its checksum; `ports` are source and destination."""
    length = 8 + len(payload)
    blank = _UDP_HEADER.pack(*ports, length, 0) + payload
    checksum = internet_checksum(layout.pseudo(source, destination, length, UDP) + blank) or 0xFFFF
    return _UDP_HEADER.pack(*ports, length, checksum) + payload


def tcp_segment(
    layout: Layout, source: bytes, destination: bytes, ports: tuple[int, int], numbers: tuple[int, int, int]
) -> bytes:
    """A TCP segment without options and data; `numbers` are sequence, acknowledgement and flags."""
    sequence, acknowledgement, flags = numbers
    window = 0 if flags & RST else 0xFFFF
    fields = (*ports, sequence, acknowledgement, 0x50, flags, window)
    blank = _TCP_HEADER.pack(*fields, 0, 0)
    checksum = internet_checksum(layout.pseudo(source, destination, len(blank), TCP) + blank)
    return _TCP_HEADER.pack(*fields, checksum, 0)


def tcp_answer(segment: bytes, sequence: int, *, is_open: bool) -> tuple[int, int, int] | None:
    """(sequence, acknowledgement, flags) of a host's answer to `segment`, None where it stays quiet.

    SYN gets SYN-ACK or RST-ACK; FIN gets RST, which ends what a connect() has begun;
    RST and the bare ACK of a handshake get nothing. Source: RFC 9293 3.5.2, 3.10.7.
    """
    _, _, their_sequence, their_acknowledgement, _, flags, _, _, _ = _TCP_HEADER.unpack_from(segment)
    if flags & RST:
        return None
    if flags & SYN:
        acknowledgement = their_sequence + 1 & 0xFFFFFFFF
        return (sequence, acknowledgement, SYN | ACK) if is_open else (0, acknowledgement, RST | ACK)
    return (their_acknowledgement, 0, RST) if flags & FIN else None


def ports_of(segment: bytes) -> tuple[int, int]:
    """(source, destination) ports of a UDP or TCP header."""
    source, destination = _PORTS.unpack_from(segment)
    return source, destination
