"""IPv4 and IPv6 as two data values: where the bytes stand and what the numbers mean.

Whatever differs between the families is a field here, so that no other file asks
"which family?". Offsets are bytes from the start of the IP header. This file knows
no clock and no socket.

Source: RFC 791, RFC 792, RFC 8200, RFC 4443, RFC 4884.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One version of IP and its ICMP.

    `header_size` is that of a header without options or extensions, which is what
    our own probes carry. `ttl_word` is the 16-bit word that holds TTL (or hop limit);
    `ttl_shift` is how far left in it. `id_offset` and `checksum_offset` are None where
    the family has no such field.
    """

    version: int
    address_size: int
    header_size: int
    length_offset: int
    id_offset: int | None
    ttl_offset: int
    ttl_word: int
    ttl_shift: int
    tos_shift: int
    """Bits to the right of the TOS or traffic class in the header's first 16-bit word."""
    protocol_offset: int
    checksum_offset: int | None
    source_offset: int
    destination_offset: int
    icmp_protocol: int
    echo_request: int
    echo_reply: int
    time_exceeded: int
    unreachable: int
    port_unreachable: int
    """Code of `unreachable`."""
    too_big: tuple[int, int]
    """(type, code) of the answer that names a next-hop MTU."""
    parameter_problem: int
    mtu_offset: int
    """Of the next-hop MTU in a `too_big` message, bytes from the ICMP header; it ends where that header does."""
    icmp_has_pseudo_header: bool
    """Whether the ICMP checksum covers the addresses."""
    length_covers_header: bool
    """Whether the length field counts the IP header itself."""
    extensible: frozenset[int]
    """ICMP types that may carry extensions."""
    length_attribute: int
    """Offset in the ICMP header of the byte that says where the quote ends and extensions begin."""
    length_unit: int
    """Bytes that one of it counts."""
    never_responds: frozenset[int]
    """First bytes of addresses that no responder can have, but for a loopback destination's own."""
    default_size: int
    """Bytes of a whole probe when the user does not say: what traceroute(8) sends."""
    least_mtu: int
    """Bytes of a whole packet that every link carries: who names a smaller next-hop MTU is not believed."""
    header: Callable[[HeaderFields], bytes]
    """Builds a header whose TTL, ID and checksum are zero."""
    header_length: Callable[[int], int]
    """First byte of a header to its length, bytes, options included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderFields:
    """What the caller chooses in an IP header. `size` is that of the whole packet, bytes."""

    source: bytes
    destination: bytes
    protocol: int
    size: int
    tos: int = 0
    dont_fragment: bool = False
    flow_label: int = 0


def _ipv4_header(fields: HeaderFields) -> bytes:
    """RFC 791 3.1, no options. The flow label has no place in it."""
    return struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        fields.tos,
        fields.size,
        0,
        0x4000 * fields.dont_fragment,
        0,
        fields.protocol,
        0,
        fields.source,
        fields.destination,
    )


def _ipv4_header_length(first_byte: int) -> int:
    return (first_byte & 15) * 4


def _ipv6_header_length(first_byte: int) -> int:
    return 40


def _ipv6_header(fields: HeaderFields) -> bytes:
    """RFC 8200 3. Routers never fragment IPv6, so `dont_fragment` is always true here."""
    return struct.pack(
        "!IHBB16s16s",
        6 << 28 | fields.tos << 20 | fields.flow_label,
        fields.size - 40,
        fields.protocol,
        0,
        fields.source,
        fields.destination,
    )


IPV4 = Family(
    version=4,
    address_size=4,
    header_size=20,
    length_offset=2,
    id_offset=4,
    ttl_offset=8,
    ttl_word=8,
    ttl_shift=8,
    tos_shift=0,
    protocol_offset=9,
    checksum_offset=10,
    source_offset=12,
    destination_offset=16,
    icmp_protocol=1,
    echo_request=8,
    echo_reply=0,
    time_exceeded=11,
    unreachable=3,
    port_unreachable=3,
    too_big=(3, 4),
    parameter_problem=12,
    mtu_offset=6,
    icmp_has_pseudo_header=False,
    length_covers_header=True,
    extensible=frozenset({3, 11, 12}),
    length_attribute=5,
    length_unit=4,
    never_responds=frozenset({0, 127, *range(224, 256)}),  # this network, loopback, multicast, class E
    default_size=60,
    least_mtu=68,  # RFC 791 3.2
    header=_ipv4_header,
    header_length=_ipv4_header_length,
)

IPV6 = Family(
    version=6,
    address_size=16,
    header_size=40,
    length_offset=4,
    id_offset=None,
    ttl_offset=7,
    ttl_word=6,
    ttl_shift=0,
    tos_shift=4,
    protocol_offset=6,
    checksum_offset=None,
    source_offset=8,
    destination_offset=24,
    icmp_protocol=58,
    echo_request=128,
    echo_reply=129,
    time_exceeded=3,
    unreachable=1,
    port_unreachable=4,
    too_big=(2, 0),
    parameter_problem=4,
    mtu_offset=4,
    icmp_has_pseudo_header=True,
    length_covers_header=False,
    extensible=frozenset({1, 3}),
    length_attribute=4,
    length_unit=8,
    never_responds=frozenset({0x00, 0xFF}),  # unspecified, loopback and v4-mapped; multicast
    default_size=80,
    least_mtu=1280,  # RFC 8200 5
    header=_ipv6_header,
    header_length=_ipv6_header_length,
)

FAMILIES = {4: IPV4, 6: IPV6}
