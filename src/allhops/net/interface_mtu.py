"""The MTU of the interface that packets to a destination leave by: where a path MTU discovery begins.

Not IP_MTU of a connected socket: once a router has said "too big", Linux remembers it for ten minutes and answers that
(measured: 1,300 after `traceroute --mtu` over a link of 1,300 bytes, and tracepath then calls it the local MTU). The
hops in front of the bottleneck would look as narrow as those behind it. So the kernel is asked for the route, over
netlink, and the route's interface for its MTU. Nothing is sent to the network.

Source: rtnetlink(7), netdevice(7).
"""

from __future__ import annotations

import fcntl
import socket
import struct
from typing import TYPE_CHECKING

from allhops.net.source import socket_address

if TYPE_CHECKING:
    from allhops.model import Address
    from allhops.options import TraceOptions

ETHERNET_MTU = 1_500
"""Where nobody tells, as in a sandbox without netlink: if it is too large, sending says so."""
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_NLM_F_REQUEST = 1
_RTA_DST, _RTA_SRC, _RTA_OIF = 1, 2, 4
_SIOCGIFMTU = 0x8921
_MESSAGE = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, prefix lengths of destination and source, TOS, then what a question leaves 0."""
_ATTRIBUTE = struct.Struct("=HH")
_INDEX = struct.Struct("=i")
_INTERFACE_REQUEST = struct.Struct("=16si20x")
_ANSWER_SIZE = 8_192
_TIMEOUT_S = 1.0
"""The kernel answers while it is asked; this is for what pretends to be one."""


def interface_mtu(destination: Address, source: bytes, options: TraceOptions) -> int:
    """Bytes of the largest packet that the interface towards a destination takes; `source` is a packed address."""
    _, _, *rest = socket_address(destination)
    scope = rest[1] if rest else 0
    try:
        index = socket.if_nametoindex(options.interface) if options.interface else scope
        return _mtu(socket.if_indextoname(index or _way_out(destination, source, options.tos)))
    except OSError:
        return ETHERNET_MTU


def _way_out(destination: Address, source: bytes, tos: int) -> int:
    """Index of the interface of the route. Raises: OSError."""
    domain = socket.AF_INET if destination.version == 4 else socket.AF_INET6
    bits = 8 * len(source)
    body = _ROUTE.pack(domain, bits, bits, tos, 0, 0, 0, 0, 0)
    body += _attribute(_RTA_DST, destination.packed) + _attribute(_RTA_SRC, source)
    head = _MESSAGE.pack(_MESSAGE.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(_TIMEOUT_S)
        sock.send(head + body)
        return _interface_in(sock.recv(_ANSWER_SIZE))


def _attribute(kind: int, value: bytes) -> bytes:
    """One attribute; addresses need no padding."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def _interface_in(answer: bytes) -> int:
    """Index of the interface that a route leaves by. Raises: OSError when the answer tells none."""
    if len(answer) >= _MESSAGE.size and _MESSAGE.unpack_from(answer)[1] == _RTM_NEWROUTE:
        at = _MESSAGE.size + _ROUTE.size
        while at + _ATTRIBUTE.size <= len(answer):
            length, kind = _ATTRIBUTE.unpack_from(answer, at)
            if kind == _RTA_OIF and length == _ATTRIBUTE.size + _INDEX.size <= len(answer) - at:
                return int(_INDEX.unpack_from(answer, at + _ATTRIBUTE.size)[0])
            at += max(_ATTRIBUTE.size, length + 3 & ~3)
    raise OSError("the kernel tells no route")


def _mtu(name: str) -> int:
    """What the interface is set to. Raises: OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = _INTERFACE_REQUEST.pack(name.encode(), 0)
        return int(_INTERFACE_REQUEST.unpack(fcntl.ioctl(sock, _SIOCGIFMTU, request))[1])
