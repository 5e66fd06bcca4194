"""What Linux calls things, one data value a family, so that no other file here asks "which family?".

Most of these numbers the socket module does not name in every version. Source: include/uapi/linux/{in,in6,errqueue}.h.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allhops.wire.family import IPV4, IPV6, Family

if TYPE_CHECKING:
    from collections.abc import Callable

MSG_ERRQUEUE = 0x2000
SO_TIMESTAMPNS = 35
SO_MEMINFO = 55
ORIGIN_LOCAL = 1
"""`ee_origin` of an error that this machine's own stack made, such as EMSGSIZE."""
EXTENDED_ERROR_SIZE = 16
"""struct sock_extended_err; the offender's socket address follows it."""
PMTUDISC_DO = 2
"""DF set, no more than the path MTU. TCP: `PMTUDISC_PROBE` leaves its DF clear (ip_output.c, __ip_queue_xmit)."""
PMTUDISC_PROBE = 3
"""DF set, and no regard to what the path MTU is said to be."""
PMTUDISC_INTERFACE = 4
"""DF clear, and EMSGSIZE beyond the interface's MTU, as raw sockets have it. Linux 3.14."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Sockets of one family: `level` is that of every option below; the rest are options unless they say otherwise."""

    family: Family
    domain: int
    level: int
    recverr: int
    recverr_rfc4884: int
    """Linux 5.9: tell where the quote ends and the extensions begin."""
    recvttl: int
    ttl_message: int
    """Control message that carries a received TTL."""
    ttl: int
    tos: int
    mtu_discover: int
    icmp_origin: int
    """`ee_origin` of an ICMP error of this family."""
    offender: slice
    """Of the responder's address in the control message."""
    name_size: int
    """Bytes of a socket address, and where in it the address begins. The port is at 2 in both families."""
    name_address: int
    tos_of: Callable[[memoryview], int]
    """TOS or traffic class of a packet that begins there."""
    dont_fragment_of: Callable[[memoryview], bool]
    flow_label_of: Callable[[memoryview], int]


IPV4_NUMBERS = Numbers(
    family=IPV4,
    domain=socket.AF_INET,
    level=socket.IPPROTO_IP,
    recverr=11,
    recverr_rfc4884=26,
    recvttl=12,
    ttl_message=socket.IP_TTL,
    ttl=socket.IP_TTL,
    tos=socket.IP_TOS,
    mtu_discover=10,
    icmp_origin=2,
    offender=slice(EXTENDED_ERROR_SIZE + 4, EXTENDED_ERROR_SIZE + 8),
    name_size=16,
    name_address=4,
    tos_of=lambda packet: packet[1],
    dont_fragment_of=lambda packet: bool(packet[6] & 0x40),
    flow_label_of=lambda packet: 0,
)

IPV6_NUMBERS = Numbers(
    family=IPV6,
    domain=socket.AF_INET6,
    level=socket.IPPROTO_IPV6,
    recverr=25,
    recverr_rfc4884=31,
    recvttl=socket.IPV6_RECVHOPLIMIT,
    ttl_message=socket.IPV6_HOPLIMIT,
    ttl=socket.IPV6_UNICAST_HOPS,
    tos=socket.IPV6_TCLASS,
    mtu_discover=23,
    icmp_origin=3,
    offender=slice(EXTENDED_ERROR_SIZE + 8, EXTENDED_ERROR_SIZE + 24),
    name_size=28,
    name_address=8,
    tos_of=lambda packet: int.from_bytes(packet[:2]) >> 4 & 0xFF,
    dont_fragment_of=lambda packet: True,
    flow_label_of=lambda packet: int.from_bytes(packet[1:4]) & 0xFFFFF,
)

NUMBERS = {4: IPV4_NUMBERS, 6: IPV6_NUMBERS}
"""By IP version."""
