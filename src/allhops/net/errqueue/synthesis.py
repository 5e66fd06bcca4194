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
from allhops.wire.probes import ACK, RST, SYN, TCP

if TYPE_CHECKING:
    from allhops.net.errqueue.queue import IcmpTold
    from allhops.wire.family import Family

_ICMP_HEADER = struct.Struct("!BBH4s")
_WORD = struct.Struct("!H")
_NO_REST = bytes(4)
_TCP_HEADER = struct.Struct("!HHIIBBHHH")
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
    """A UDP header of ours or to us: the kernel checked the ports, and does not tell the checksum."""
    return struct.pack("!HHHH", source_port, destination_port, size, 0)


class ErrorWriter:
    """Writes ICMP errors to `own` (packed address). What is the same in all of them is prepared once."""

    def __init__(self, family: Family, own: bytes) -> None:
        self._family = family
        fields = HeaderFields(source=bytes(len(own)), destination=own, protocol=family.icmp_protocol, size=1 << 8)
        self._header = bytearray(family.header(fields))
        self._header[family.length_offset : family.length_offset + 2] = bytes(2)
        self._header_sum = word_sum(self._header)
        self._own_sum = word_sum(own) + family.icmp_protocol if family.icmp_has_pseudo_header else 0

    def write(self, icmp: IcmpTold, quote: bytes, *, told: int, reply_ttl: int) -> bytes:
        """The error of a responder; the last `told` bytes of the quote are from the kernel, headers stand before."""
        family = self._family
        offender_sum = word_sum(icmp.offender)
        message = _ICMP_HEADER.pack(icmp.icmp_type, icmp.icmp_code, 0, self._rest(icmp, len(quote) - told)) + quote
        total = word_sum(message)
        if family.icmp_has_pseudo_header:
            total += self._own_sum + offender_sum + len(message)
        checksum = fold(total) ^ MASK
        header = self._header.copy()
        at = family.source_offset
        header[at : at + family.address_size] = icmp.offender
        header[family.ttl_offset] = reply_ttl & 0xFF
        length = len(message) + (family.header_size if family.length_covers_header else 0)
        _WORD.pack_into(header, family.length_offset, length)
        if family.checksum_offset is not None:
            ttl_word = (reply_ttl & 0xFF) << family.ttl_shift
            _WORD.pack_into(
                header, family.checksum_offset, fold(self._header_sum + offender_sum + ttl_word + length) ^ MASK
            )
        return bytes(header) + message[:2] + _WORD.pack(checksum) + message[4:]

    def _rest(self, icmp: IcmpTold, headers: int) -> bytes:
        """Bytes 4 to 8 of the ICMP header: MTU, pointer, and where extensions begin."""
        if not icmp.info and not icmp.extensions_at:
            return _NO_REST
        family = self._family
        rest = bytearray(4)
        if (icmp.icmp_type, icmp.icmp_code) == family.too_big:
            # RFC 1191 has the MTU in the low 16 bits of the word, RFC 4443 in all 32.
            width = 8 - family.mtu_offset
            rest[-width:] = min(icmp.info, (1 << 8 * width) - 1).to_bytes(width)
        elif icmp.icmp_type == family.parameter_problem:
            rest[:] = (icmp.info if family.icmp_has_pseudo_header else (icmp.info & 0xFF) << 24).to_bytes(4)
        if icmp.extensions_at:
            length = (headers + icmp.extensions_at) // family.length_unit
            rest[family.length_attribute - 4] = min(length, 0xFF)
        return bytes(rest)


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
