"""What one packet that arrived says, with dpkt behind a guard.

dpkt checks and reads what is quoted and TCP's options; ports and marks are read from the raw bytes, because dpkt
believes the quoted IP length, which some routers rewrite, and then drops the transport header. Nothing that
the network sends raises past `dissect`: it says `MALFORMED` or `NOT_OURS`, and the caller counts.

dpkt 1.9.8 lets exceptions of its own bugs out (AttributeError on IPv6 extension headers, RecursionError
on some 300 nested IP headers), so it is shown nothing that nests and nothing with extension headers, and the rest is
caught. This file knows no clock and no socket.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import TYPE_CHECKING, Any

from allhops.core.lanes import ROW_SIZE, parsers
from allhops.core.lanes.rows import ReplyRow, Sighting
from allhops.wire.checksum import MASK, pseudo_header_sum, word_sum
from allhops.wire.classify import CLOSED, DESTINATION, ERROR_KINDS, IGNORED, NO_PORT, OPEN
from allhops.wire.extensions import ICMP_HEADER, split_body
from allhops.wire.family import FAMILIES, Family
from allhops.wire.probes import ACK, COOKIE_SIZE, RST, SYN, TCP, UDP, Layout, layout_of

if TYPE_CHECKING:
    from collections.abc import Callable

_HOSTILE = (parsers.Error, AttributeError, IndexError, TypeError, ValueError, struct.error, RecursionError)
_PARSERS = {4: parsers.IP, 6: parsers.IP6}
SHORTEST_QUOTE = 8
"""Bytes of the quoted transport header, the least that RFC 792 asks for."""
TCP_HEADER = 20
_TIMESTAMPS = struct.Struct("!II")


class Refusal(Enum):
    """Why a packet makes no row."""

    MALFORMED = "malformed"
    NOT_OURS = "not_ours"
    """A sound packet that is no reply to a kind of probe that we send."""


if TYPE_CHECKING:
    _Reader = Callable[[Family, bytes, int, int], ReplyRow | Refusal]
    """(family, whole packet, offset of its transport header, receive stamp)."""

MALFORMED, NOT_OURS = Refusal.MALFORMED, Refusal.NOT_OURS


def dissect(packet: memoryview, stamp_ns: int) -> ReplyRow | Refusal:
    """Read a whole IP packet, or an echo reply that was cut off at `ROW_SIZE`."""
    family = FAMILIES.get(packet[0] >> 4) if packet else None
    if family is None or not family.header_size <= len(packet) <= ROW_SIZE:
        return MALFORMED
    header = family.header_length(packet[0])
    end = int.from_bytes(packet[family.length_offset : family.length_offset + 2], "big")
    end += 0 if family.length_covers_header else header
    is_cut = len(packet) == ROW_SIZE < end
    if is_cut:
        end = ROW_SIZE
    if not family.header_size <= header <= end - ICMP_HEADER <= len(packet) - ICMP_HEADER:
        return MALFORMED
    protocol = packet[family.protocol_offset]
    read = _READERS.get((family.version, protocol, packet[header] if protocol == family.icmp_protocol else None))
    if is_cut:
        if read is not _read_echo_reply:
            return MALFORMED
        read = _read_start_of_echo_reply
    if read is None:
        return NOT_OURS
    try:
        return read(family, bytes(packet[:end]), header, stamp_ns)
    except _HOSTILE:
        return MALFORMED


# ICMP errors


def _read_error(family: Family, packet: bytes, header: int, stamp_ns: int) -> ReplyRow | Refusal:
    """An ICMP error about a kind of probe that we send."""
    icmp_type, icmp_code = packet[header], packet[header + 1]
    kind = ERROR_KINDS[family.version][icmp_type << 8 | icmp_code]
    if kind == IGNORED:
        return NOT_OURS
    body, extensions = split_body(family, packet[header:])
    if len(body) < family.header_size + SHORTEST_QUOTE:
        return MALFORMED
    layout = layout_of(family.version, body[family.protocol_offset])
    quoted_header = family.header_length(body[0])
    if body[0] >> 4 != family.version or not family.header_size <= quoted_header <= len(body) - SHORTEST_QUOTE:
        return MALFORMED
    if layout is None or not _may_cause_errors(layout, body[quoted_header]):
        return NOT_OURS
    if not _checksum_is_right(family, packet, header):
        return MALFORMED
    quote = _without_padding(family, body[: family.header_size] + body[quoted_header:])
    return ReplyRow(
        stamp_ns=stamp_ns,
        kind=kind,
        responder=_source(family, packet),
        reply_ttl=packet[family.ttl_offset],
        icmp_type=icmp_type,
        icmp_code=icmp_code,
        quoted_ttl=quote[family.ttl_offset],
        quoted_tos=(quote[0] << 8 | quote[1]) >> family.tos_shift & 0xFF,
        mtu=_mtu(family, packet, header, icmp_type, icmp_code),
        port_state=NO_PORT,
        extensions=extensions,
        probe=_quoted_probe(layout, body, quote),
    )


def _quoted_probe(layout: Layout, body: bytes, quote: bytes) -> Sighting:
    """The probe in a quote whose IP options, if any, have been cut out. Raises what dpkt raises."""
    family = layout.family
    parser = _PARSERS[family.version]
    quoted: Any = parser(body)
    cookie = quote[layout.cookie_offset : layout.cookie_offset + COOKIE_SIZE]
    # No probe leaves with an ID or a checksum of 0: who shows that has wiped it out.
    return Sighting(
        layout=layout,
        source=quoted.src,
        destination=quoted.dst,
        flow=quote[layout.flow_offset] << 8 | quote[layout.flow_offset + 1],
        peer=_word(quote, layout.peer_offset),
        ip_id=(_word(quote, family.id_offset) or None) if family.id_offset is not None else None,
        checksum=_word(quote, layout.checksum_offset) or None,
        mark=_word(quote, layout.mark_offset),
        balance=_word(quote, layout.balance_offset),
        cookie=cookie if len(cookie) == COOKIE_SIZE else None,
        is_quote=True,
    )


def _may_cause_errors(layout: Layout, first: int) -> bool:
    """Whether a packet with this first transport byte may: of ICMP only requests (RFC 1122 3.2.2, RFC 4443 2.4 e)."""
    return layout.protocol != layout.family.icmp_protocol or first == layout.family.echo_request


def _without_padding(family: Family, quote: bytes) -> bytes:
    """A quote as long as it is true: some routers quote 8 bytes and fill up with zeros (RFC 4884 4 wants 128 bytes)."""
    shortest = family.header_size + SHORTEST_QUOTE
    return quote if quote[shortest:].strip(b"\0") else quote[:shortest]


def _mtu(family: Family, packet: bytes, header: int, icmp_type: int, icmp_code: int) -> int:
    """Next-hop MTU, bytes, or 0. RFC 1191 4 has 16 bits, RFC 4443 3.2 has 32: what is larger is no limit to us."""
    if (icmp_type, icmp_code) != family.too_big:
        return 0
    return min(int.from_bytes(packet[header + family.mtu_offset : header + ICMP_HEADER], "big"), MASK)


# Direct answers


def _read_echo_reply(family: Family, packet: bytes, header: int, stamp_ns: int) -> ReplyRow | Refusal:
    """An echo reply is laid out like its request: identifier, sequence and payload come back where they were."""
    if not _checksum_is_right(family, packet, header):
        return MALFORMED
    return _read_start_of_echo_reply(family, packet, header, stamp_ns)


def _read_start_of_echo_reply(family: Family, packet: bytes, header: int, stamp_ns: int) -> ReplyRow | Refusal:
    """Of a reply longer than a row: its checksum cannot be told, its cookie can."""
    layout = layout_of(family.version, family.icmp_protocol)
    if layout is None:
        return MALFORMED
    return _answer(packet, header, stamp_ns, NO_PORT, _mirrored(layout, packet, header))


def _read_udp(family: Family, packet: bytes, header: int, stamp_ns: int) -> ReplyRow | Refusal:
    """A datagram to one of our ports: which probe it answers, only a payload that came back can tell."""
    layout = layout_of(family.version, UDP)
    if layout is None:
        return NOT_OURS
    datagram: Any = parsers.UDP(packet[header:])
    probe = _mirrored(layout, packet, header)
    return _answer(packet, header, stamp_ns, OPEN, probe._replace(flow=datagram.dport, peer=datagram.sport))


def _read_tcp(family: Family, packet: bytes, header: int, stamp_ns: int) -> ReplyRow | Refusal:
    """A SYN-ACK or RST acknowledges the sequence number after the SYN's (RFC 9293 3.5, 3.10.7.1)."""
    layout = layout_of(family.version, TCP)
    if layout is None or len(packet) < header + TCP_HEADER:
        return MALFORMED
    segment: Any = parsers.TCP(packet[header:])
    if segment.flags & (SYN | ACK) != SYN | ACK and segment.flags & (RST | ACK) != RST | ACK:
        return NOT_OURS
    sequence = segment.ack - 1 & 0xFFFFFFFF
    probe = _mirrored(layout, packet, header)._replace(
        flow=segment.dport,
        peer=segment.sport,
        mark=sequence >> 16,
        balance=sequence & MASK,
        cookie=_echoed_timestamp(segment),
    )
    return _answer(packet, header, stamp_ns, CLOSED if segment.flags & RST else OPEN, probe)


def _echoed_timestamp(segment: Any) -> bytes | None:
    """TSecr of a timestamp option, which holds the TSval of the SYN (RFC 7323 3.2); None when there is none, or 0."""
    for kind, data in filter(None, parsers.parse_opts(segment.opts)):
        if kind == parsers.TCP_OPT_TIMESTAMP and len(data) == _TIMESTAMPS.size and any(data[COOKIE_SIZE:]):
            return bytes(data[COOKIE_SIZE:])
    return None


def _mirrored(layout: Layout, packet: bytes, header: int) -> Sighting:
    """The probe that a direct answer shows, as far as the answer is laid out like it."""
    family = layout.family
    shift = header - family.header_size
    cookie = packet[layout.cookie_offset + shift : layout.cookie_offset + shift + COOKIE_SIZE]
    return Sighting(
        layout=layout,
        source=_destination(family, packet),
        destination=_source(family, packet),
        flow=packet[layout.flow_offset + shift] << 8 | packet[layout.flow_offset + shift + 1],
        peer=None,
        ip_id=None,
        checksum=None,
        mark=_word(packet, layout.mark_offset + shift),
        balance=_word(packet, layout.balance_offset + shift),
        cookie=cookie if len(cookie) == COOKIE_SIZE else None,
        is_quote=False,
    )


def _answer(packet: bytes, header: int, stamp_ns: int, port_state: int, probe: Sighting) -> ReplyRow:
    """The row of the destination's own answer. Its type and code are only meant for ICMP."""
    return ReplyRow(
        stamp_ns=stamp_ns,
        kind=DESTINATION,
        responder=probe.destination,
        reply_ttl=packet[probe.layout.family.ttl_offset],
        icmp_type=packet[header],
        icmp_code=packet[header + 1],
        quoted_ttl=0,
        quoted_tos=0,
        mtu=0,
        port_state=port_state,
        extensions=(),
        probe=probe,
    )


# Both


def _word(data: bytes, offset: int) -> int | None:
    return data[offset] << 8 | data[offset + 1] if len(data) >= offset + 2 else None


def _source(family: Family, packet: bytes) -> bytes:
    return packet[family.source_offset : family.source_offset + family.address_size]


def _destination(family: Family, packet: bytes) -> bytes:
    return packet[family.destination_offset : family.destination_offset + family.address_size]


def _checksum_is_right(family: Family, packet: bytes, header: int) -> bool:
    """ICMP's: RFC 792; RFC 4443 2.3, which covers a pseudo-header.

    Those of UDP and TCP are not looked at: raw sockets see packets before the kernel or the network card has completed
    them, and on veth and loopback nobody ever does (Linux, CHECKSUM_PARTIAL).
    """
    total = word_sum(packet[header:])
    if family.icmp_has_pseudo_header:
        length = len(packet) - header
        total += pseudo_header_sum(_source(family, packet), _destination(family, packet), family.icmp_protocol, length)
    return total % MASK == 0


def _readers() -> dict[tuple[int, int, int | None], _Reader]:
    """By (IP version, protocol number, ICMP type or None): who reads it."""
    readers: dict[tuple[int, int, int | None], _Reader] = {}
    for version, family in FAMILIES.items():
        readers[version, UDP, None] = _read_udp
        readers[version, TCP, None] = _read_tcp
        readers[version, family.icmp_protocol, family.echo_reply] = _read_echo_reply
        for icmp_type in (family.time_exceeded, family.unreachable, family.too_big[0], family.parameter_problem):
            readers[version, family.icmp_protocol, icmp_type] = _read_error
    return readers


_READERS = _readers()
