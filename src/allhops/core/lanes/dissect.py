"""What dpkt says of one packet that arrived, behind a guard.

The header objects are dpkt's; ports and marks are read from the raw quote, because dpkt believes
the quoted IP length, which some routers rewrite, and then drops the transport header. Nothing that
the network sends raises past `dissect`: it returns None and the caller counts.

dpkt 1.9.8 lets exceptions of its own bugs out (AttributeError on IPv6 extension headers, RecursionError
on some 300 nested IP headers), so what nests is turned away before dpkt sees it and the rest is caught.
This file knows no clock and no socket.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import dpkt

from allhops.core.lanes import ROW_SIZE
from allhops.wire.checksum import MASK, pseudo_header_sum, word_sum
from allhops.wire.family import FAMILIES, Family
from allhops.wire.probes import LAYOUTS

_HOSTILE = (dpkt.Error, AttributeError, IndexError, TypeError, ValueError, struct.error, RecursionError)
_PARSERS = {4: dpkt.ip.IP, 6: dpkt.ip6.IP6}
_PROBE_PROTOCOLS = {
    version: {layout.protocol for layout in LAYOUTS.values() if layout.family.version == version}
    for version in FAMILIES
}
ICMP_HEADER = 8
"""Bytes before the quote in an ICMP error, both families."""
SHORTEST_QUOTE = 8
"""Bytes of the quoted transport header, the least that RFC 792 asks for."""


class IcmpError(NamedTuple):
    """An ICMP error, split. `quote` is the quoted packet from its IP header on, without IP options."""

    family: Family
    responder: bytes
    reply_ttl: int
    icmp_type: int
    icmp_code: int
    mtu: int
    protocol: int
    destination: bytes
    quoted_ttl: int
    quote: bytes


NOT_AN_ERROR = object()
"""A sound packet that is no ICMP error about a kind of probe that we send."""


def dissect(packet: memoryview) -> IcmpError | object | None:
    """Split a whole IP packet; `NOT_AN_ERROR` when it is somebody else's business, None when malformed."""
    family = FAMILIES.get(packet[0] >> 4) if packet else None
    if family is None or len(packet) > ROW_SIZE:
        return None
    header = family.header_length(packet[0])
    quote_at = header + ICMP_HEADER
    if header < family.header_size or len(packet) < quote_at:
        return None
    if packet[family.protocol_offset] != family.icmp_protocol or packet[header] not in _error_types(family):
        return NOT_AN_ERROR
    end = int.from_bytes(packet[family.length_offset : family.length_offset + 2], "big")
    end += 0 if family.length_covers_header else header
    if end > len(packet) or end < quote_at + family.header_size + SHORTEST_QUOTE:
        return None
    if packet[quote_at + family.protocol_offset] not in _PROBE_PROTOCOLS[family.version]:
        return NOT_AN_ERROR
    if not _checksum_is_right(family, packet, header, end):
        return None
    try:
        return _read(family, bytes(packet[:end]), header)
    except _HOSTILE:
        return None


def _error_types(family: Family) -> tuple[int, ...]:
    return family.time_exceeded, family.unreachable, family.too_big[0], family.parameter_problem


def _checksum_is_right(family: Family, packet: memoryview, header: int, end: int) -> bool:
    """RFC 792; RFC 4443 2.3, whose checksum covers a pseudo-header."""
    total = word_sum(packet[header:end])
    if family.icmp_has_pseudo_header:
        source = bytes(packet[family.source_offset : family.source_offset + family.address_size])
        destination = bytes(packet[family.destination_offset : family.destination_offset + family.address_size])
        total += pseudo_header_sum(source, destination, family.icmp_protocol, end - header)
    return total % MASK == 0


def _read(family: Family, packet: bytes, header: int) -> IcmpError | None:
    outer: Any = _PARSERS[family.version](packet)
    icmp = outer.data
    quoted = icmp.data.data
    if not isinstance(quoted, _PARSERS[family.version]):
        return None
    quote_at = header + ICMP_HEADER
    quoted_header = family.header_length(packet[quote_at])
    quote = packet[quote_at : quote_at + family.header_size] + packet[quote_at + quoted_header :]
    if quoted_header < family.header_size or len(quote) < family.header_size + SHORTEST_QUOTE:
        return None
    return IcmpError(
        family=family,
        responder=outer.src,
        reply_ttl=packet[family.ttl_offset],
        icmp_type=icmp.type,
        icmp_code=icmp.code,
        mtu=_mtu(family, packet, header, icmp.type, icmp.code),
        protocol=quote[family.protocol_offset],
        destination=quoted.dst,
        quoted_ttl=quote[family.ttl_offset],
        quote=quote,
    )


def _mtu(family: Family, packet: bytes, header: int, icmp_type: int, icmp_code: int) -> int:
    """Next-hop MTU, bytes, or 0. RFC 1191 4 has 16 bits, RFC 4443 3.2 has 32: what is larger is no limit to us."""
    if (icmp_type, icmp_code) != family.too_big:
        return 0
    return min(int.from_bytes(packet[header + family.mtu_offset : header + ICMP_HEADER], "big"), MASK)
