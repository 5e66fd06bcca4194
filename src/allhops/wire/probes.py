"""The table of probe types: what a probe looks like, and which of its words change.

A probe is built once per destination as a template; each further one differs from it in
a handful of 16-bit words (`patches`). What a load balancer hashes (addresses, protocol,
first four bytes of the transport header, flow label) is in the template; TTL and mark are
in the patches; the transport checksum is the same for all, by `codec.balance`.

On IPv4 the IP ID carries the mark as well: 28 bytes are all that some routers quote.
Where each type carries what:

    type      flow                     mark and balance                    cookie
    UDP       source port              payload                             payload
    ICMP      identifier (checksum)    sequence; balance in the payload    payload
    TCP SYN   source port              the sequence number's two halves    TSval of the timestamp option

The SYN has the options of Linux's own, in its order (60 bytes over IPv4, 80 over IPv6): firewalls that drop bare SYNs
let it pass, and a SYN-ACK echoes the cookie in TSecr (RFC 7323 3.2).

Adding a probe type is adding an entry to `LAYOUTS`. This file knows no clock and no socket.

Source: RFC 768, RFC 792, RFC 4443, RFC 9293, RFC 7323.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allhops.model import Evidence, Protocol
from allhops.wire.checksum import MASK, fold, pseudo_header_sum, word_sum
from allhops.wire.codec import balance
from allhops.wire.family import IPV4, IPV6, Family, HeaderFields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COOKIE_SIZE = 4
"""Bytes of the session's random cookie in a payload."""
UDP = 17
TCP = 6
SYN, RST, ACK = 0x02, 0x04, 0x10
"""Flags of a TCP header."""
SYN_WINDOW = 64_240
"""Linux's first window at an MTU of 1,500 bytes; any other would do."""
ETHERNET_MTU = 1_500
_TCP_HEADER = struct.Struct("!HHIIBBHHH")
_TCP_HEADER_WORDS = 10
"""32-bit words of a SYN's header: five fixed, five of options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a probe type carries what. Offsets are bytes from the start of the IP header.

    Every layout has one word for the mark and one for its balance under the transport checksum.
    """

    family: Family
    protocol: int
    """Protocol number in the IP header."""
    transport: Callable[[Flow, int], bytes]
    """(flow, bytes of transport header and data) -> transport header, with checksum and mark zero."""
    has_pseudo_header: bool
    """Whether the transport checksum covers addresses."""
    checksum_offset: int
    flow_offset: int
    """The word that names the flow: source port or identifier."""
    peer_offset: int
    """The word that must be the same in every probe besides: destination port, or ICMP type and code."""
    mark_offset: int
    balance_offset: int
    cookie_offset: int
    smallest_size: int
    """Bytes of the smallest whole packet that has room for every field above."""
    flow_evidence: Evidence
    """What a reply is matched on when it shows the right words at `flow_offset` and `peer_offset`."""
    mark_evidence: Evidence
    """The same for `mark_offset` and `balance_offset`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What is constant over one flow: the arguments of a template.

    `source_port` is the identifier of ICMP, which has no use for `destination_port`. `key` (16 bits) and `cookie`
    (4 bytes) are the session's secrets; `size` is that of the whole packet, bytes.
    """

    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    key: int
    cookie: bytes
    size: int
    tos: int = 0
    dont_fragment: bool = False
    flow_label: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A probe that lacks only TTL and mark.

    `header_sum` is the unfolded checksum of the IP header, `ttl_base` the TTL's neighbour in its word,
    `checksum` and `peer` the words that every probe of the flow has at the layout's offsets for them.
    """

    layout: Layout
    packet: bytes
    key: int
    header_sum: int
    ttl_base: int
    checksum: int
    peer: int


def _udp(flow: Flow, length: int) -> bytes:
    """UDP header, RFC 768."""
    return struct.pack("!HHHH", flow.source_port, flow.destination_port, length, 0)


def _echo_request(family: Family) -> Callable[[Flow, int], bytes]:
    """ICMP header of an echo request, RFC 792 and RFC 4443 4.1; the sequence is the mark."""

    def header(flow: Flow, length: int) -> bytes:
        return struct.pack("!BBHHH", family.echo_request, 0, 0, flow.source_port, 0)

    return header


def _syn(family: Family) -> Callable[[Flow, int], bytes]:
    """TCP header of a SYN, RFC 9293 3.1, with Linux's options: MSS, SACK permitted, timestamp, window scale."""
    mss = ETHERNET_MTU - family.header_size - _TCP_HEADER.size
    options = struct.pack("!BBH BB BBII B BBB", 2, 4, mss, 4, 2, 8, 10, 0, 0, 1, 3, 3, 7)

    def header(flow: Flow, length: int) -> bytes:
        ports = flow.source_port, flow.destination_port
        return _TCP_HEADER.pack(*ports, 0, 0, _TCP_HEADER_WORDS << 4, SYN, SYN_WINDOW, 0, 0) + options

    return header


LAYOUTS: dict[tuple[Protocol, int], Layout] = {
    (Protocol.UDP, 4): Layout(
        family=IPV4,
        protocol=UDP,
        transport=_udp,
        has_pseudo_header=True,
        flow_offset=20,
        peer_offset=22,
        checksum_offset=26,
        cookie_offset=28,
        mark_offset=32,
        balance_offset=34,
        smallest_size=36,
        flow_evidence=Evidence.PORTS,
        mark_evidence=Evidence.MARK,
    ),
    (Protocol.UDP, 6): Layout(
        family=IPV6,
        protocol=UDP,
        transport=_udp,
        has_pseudo_header=True,
        flow_offset=40,
        peer_offset=42,
        checksum_offset=46,
        cookie_offset=48,
        mark_offset=52,
        balance_offset=54,
        smallest_size=56,
        flow_evidence=Evidence.PORTS,
        mark_evidence=Evidence.MARK,
    ),
    (Protocol.ICMP, 4): Layout(
        family=IPV4,
        protocol=IPV4.icmp_protocol,
        transport=_echo_request(IPV4),
        has_pseudo_header=False,
        peer_offset=20,
        checksum_offset=22,
        flow_offset=24,
        mark_offset=26,
        cookie_offset=28,
        balance_offset=32,
        smallest_size=34,
        flow_evidence=Evidence.IDENTIFIER,
        mark_evidence=Evidence.SEQUENCE,
    ),
    (Protocol.ICMP, 6): Layout(
        family=IPV6,
        protocol=IPV6.icmp_protocol,
        transport=_echo_request(IPV6),
        has_pseudo_header=True,
        peer_offset=40,
        checksum_offset=42,
        flow_offset=44,
        mark_offset=46,
        cookie_offset=48,
        balance_offset=52,
        smallest_size=54,
        flow_evidence=Evidence.IDENTIFIER,
        mark_evidence=Evidence.SEQUENCE,
    ),
    (Protocol.TCP, 4): Layout(
        family=IPV4,
        protocol=TCP,
        transport=_syn(IPV4),
        has_pseudo_header=True,
        flow_offset=20,
        peer_offset=22,
        mark_offset=24,
        balance_offset=26,
        checksum_offset=36,
        cookie_offset=48,
        smallest_size=60,
        flow_evidence=Evidence.PORTS,
        mark_evidence=Evidence.SEQUENCE,
    ),
    (Protocol.TCP, 6): Layout(
        family=IPV6,
        protocol=TCP,
        transport=_syn(IPV6),
        has_pseudo_header=True,
        flow_offset=40,
        peer_offset=42,
        mark_offset=44,
        balance_offset=46,
        checksum_offset=56,
        cookie_offset=68,
        smallest_size=80,
        flow_evidence=Evidence.PORTS,
        mark_evidence=Evidence.SEQUENCE,
    ),
}
"""By (protocol, IP version). ADD A PROBE TYPE HERE."""


def build_template(layout: Layout, flow: Flow) -> Template:
    """A packet of `flow.size` bytes that lacks only TTL, mark and what depends on them.

    The size is at least `layout.smallest_size`; bytes past the fields are zero.
    """
    family = layout.family
    fields = HeaderFields(
        source=flow.source,
        destination=flow.destination,
        protocol=layout.protocol,
        size=flow.size,
        tos=flow.tos,
        dont_fragment=flow.dont_fragment,
        flow_label=flow.flow_label,
    )
    length = flow.size - family.header_size
    packet = bytearray(family.header(fields) + layout.transport(flow, length).ljust(length, b"\0"))
    packet[layout.cookie_offset : layout.cookie_offset + COOKIE_SIZE] = flow.cookie
    # mark + balance(mark, key) is congruent to key: that is what `balance` is for.
    total = word_sum(packet[family.header_size :]) + flow.key
    if layout.has_pseudo_header:
        total += pseudo_header_sum(flow.source, flow.destination, layout.protocol, length)
    # A UDP checksum of 0 would mean "none" (RFC 768) and is forbidden on IPv6 (RFC 8200 8.1); to ICMP and TCP both
    # zeros of one's complement are the same.
    checksum = fold(total) ^ MASK or MASK
    struct.pack_into("!H", packet, layout.checksum_offset, checksum)
    return Template(
        layout=layout,
        packet=bytes(packet),
        key=flow.key,
        header_sum=word_sum(packet[: family.header_size]),
        ttl_base=int.from_bytes(packet[family.ttl_word : family.ttl_word + 2], "big"),
        checksum=checksum,
        peer=int.from_bytes(packet[layout.peer_offset : layout.peer_offset + 2], "big"),
    )


_BY_NUMBER = {(layout.family.version, layout.protocol): layout for layout in LAYOUTS.values()}


def layout_of(version: int, protocol: int) -> Layout | None:
    """Layout of the probe type with this protocol number; None when we send none."""
    return _BY_NUMBER.get((version, protocol))


def patches(template: Template, ttl: int, mark: int) -> Iterator[tuple[int, int]]:
    """(offset, 16-bit word) pairs that turn the template into the probe with this TTL and mark.

    Arithmetic that means the same for an int and for arrays of TTLs and marks.
    """
    layout = template.layout
    family = layout.family
    shifted = ttl << family.ttl_shift
    yield family.ttl_word, template.ttl_base + shifted
    yield layout.mark_offset, mark
    yield layout.balance_offset, balance(mark, template.key)
    if family.id_offset is not None and family.checksum_offset is not None:
        yield family.id_offset, mark
        yield family.checksum_offset, fold(template.header_sum + shifted + mark) ^ MASK
