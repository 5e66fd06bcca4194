"""What the kernel told, written down as the packet that it stood for.

So the lanes, and everything above them, read replies of one shape whatever the back end. What the kernel did not
tell stands as zero here, and the row's `hearsay` says so. This file knows no socket and no clock.

Source: RFC 791, RFC 792, RFC 4443, RFC 4884.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from allhops.wire.checksum import MASK, fold, pseudo_header_sum, word_sum
from allhops.wire.family import HeaderFields

if TYPE_CHECKING:
    from allhops.net.errqueue.numbers import Numbers
    from allhops.net.errqueue.queue import IcmpTold
    from allhops.wire.family import Family

_ICMP_HEADER = struct.Struct("!BBH4s")
_TCP_HEADER = struct.Struct("!HHIIBBHHH")
SYN, RST, ACK = 0x02, 0x04, 0x10
TCP = 6
UDP_HEADER_SIZE = 8


def ip_packet(family: Family, source: bytes, destination: bytes, protocol: int, ttl: int, payload: bytes) -> bytes:
    """A whole packet without options, its header checksum right where there is one."""
    size = family.header_size + len(payload)
    fields = HeaderFields(source=source, destination=destination, protocol=protocol, size=size)
    header = bytearray(family.header(fields))
    header[family.ttl_offset] = ttl & 0xFF
    if family.checksum_offset is not None:
        struct.pack_into("!H", header, family.checksum_offset, word_sum(header) ^ MASK)
    return bytes(header) + payload


def quoted_header(family: Family, source: bytes, destination: bytes, protocol: int, size: int) -> bytes:
    """The IP header of a quoted probe of `size` bytes, as far as the kernel tells: TTL, ID, checksum are zero."""
    return family.header(HeaderFields(source=source, destination=destination, protocol=protocol, size=size))


def udp_header(source_port: int, destination_port: int, size: int) -> bytes:
    """The UDP header of a quoted probe: the kernel checked the ports, and does not tell the checksum."""
    return struct.pack("!HHHH", source_port, destination_port, size, 0)


def icmp_error(numbers: Numbers, icmp: IcmpTold, quote: bytes, *, told: int, own: bytes, reply_ttl: int) -> bytes:
    """The ICMP error of a responder to `own` (packed address), whose last `told` bytes of quote the kernel told."""
    family = numbers.family
    rest = bytearray(4)
    kind = (icmp.icmp_type, icmp.icmp_code)
    if kind == family.too_big:
        # RFC 1191 has the MTU in the low 16 bits of the word, RFC 4443 in all 32.
        width = 8 - family.mtu_offset
        rest[-width:] = min(icmp.info, (1 << 8 * width) - 1).to_bytes(width)
    elif icmp.icmp_type == family.parameter_problem:
        rest = bytearray(struct.pack("!I", icmp.info if family.icmp_has_pseudo_header else (icmp.info & 0xFF) << 24))
    if icmp.extensions_at:
        length = (len(quote) - told + icmp.extensions_at) // numbers.length_unit
        rest[numbers.length_offset - 4] = min(length, 0xFF)
    message = _with_checksum(family, icmp, bytes(rest), quote, own)
    return ip_packet(family, icmp.offender, own, family.icmp_protocol, reply_ttl, message)


def _with_checksum(family: Family, icmp: IcmpTold, rest: bytes, quote: bytes, own: bytes) -> bytes:
    total = word_sum(_ICMP_HEADER.pack(icmp.icmp_type, icmp.icmp_code, 0, rest)) + word_sum(quote)
    if family.icmp_has_pseudo_header:
        total += pseudo_header_sum(icmp.offender, own, family.icmp_protocol, _ICMP_HEADER.size + len(quote))
    return _ICMP_HEADER.pack(icmp.icmp_type, icmp.icmp_code, fold(total) ^ MASK, rest) + quote


def tcp_answer(family: Family, probe: bytes, *, is_open: bool) -> bytes:
    """The SYN-ACK or RST that answers a SYN, as far as a connect() tells: TTL, sequence and window are zero."""
    start = family.header_size
    source = probe[family.source_offset : family.source_offset + family.address_size]
    destination = probe[family.destination_offset : family.destination_offset + family.address_size]
    source_port, destination_port, sequence = struct.unpack_from("!HHI", probe, start)
    flags = ACK | (SYN if is_open else RST)
    ports_and_numbers = (destination_port, source_port, 0, (sequence + 1) & 0xFFFFFFFF)
    blank = _TCP_HEADER.pack(*ports_and_numbers, 0x50, flags, 0, 0, 0)
    total = word_sum(blank) + pseudo_header_sum(destination, source, TCP, len(blank))
    segment = _TCP_HEADER.pack(*ports_and_numbers, 0x50, flags, 0, fold(total) ^ MASK, 0)
    return ip_packet(family, destination, source, TCP, 0, segment)
