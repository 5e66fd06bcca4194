"""Behind which link header a packet socket sends what goes a way: the next hop is looked up in the kernel's tables.

A router may fail over to another one with the same address, so an answer is read again every few seconds. What is not
known is resolved by the kernel, either because we ask it to or because packets go there by a raw socket meanwhile.
Nothing is sent by this file.

Source: rtnetlink(7), linux/neighbour.h, packet(7), netdevice(7).
"""

from __future__ import annotations

import fcntl
import socket
import struct
import time
from typing import TYPE_CHECKING

import numpy as np

from allhops.net.batch.netlink import ACKNOWLEDGE, CREATE, MESSAGE, Netlink, attribute, attributes

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.net.batch.netlink import Answers
    from allhops.net.batch.wire import Way

READ_AGAIN_S = 10.0
"""As long as a router's failover may take to be followed; asking takes 20 us."""
ASK_AGAIN_S = 0.001
"""For a next hop that is being resolved."""
RESOLVING_S = 1.0
"""Linux asks three times, a second apart; a router on the link answers the first, in less than a millisecond."""

_NEW_NEIGHBOUR, _GET_NEIGHBOUR = 28, 30
"""RTM_*."""
_DST, _LINK_ADDRESS = 1, 2
"""NDA_*."""
_USE = 0x01
"""NTF_USE: resolve it as if a packet were to go there. Needs CAP_NET_ADMIN."""
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
"""struct ndmsg: family, interface, state, flags, type."""
_STATE = MESSAGE.size + 8
_VALID = 0xDE
"""NUD_VALID: reachable, stale, delay, probe, noarp, permanent."""
_SETTLED = 0xC2
"""Of these reachable, noarp, permanent: nothing is to be found out."""
LINK_HEADROOM = 16
"""Bytes for the longest link header; rounded up, so that packets stay aligned."""
_DOMAINS = {4: socket.AF_INET, 16: socket.AF_INET6}
"""By bytes of a packed address."""
ETHERTYPES = {4: 0x0800, 6: 0x86DD}
"""By IP version."""
_ETHERNET, _NO_LINK_HEADER = 1, 0xFFFE
"""ARPHRD_ETHER, and ARPHRD_NONE, which is that of TUN."""
_ETHERNET_ADDRESS = 6
_SIOCGIFHWADDR = 0x8927
_INTERFACE_REQUEST = struct.Struct("=16sH6s16x")
"""struct ifreq: name, kind of device, its link address."""


class NextHop:
    """What the table says of the next hop of a way, read again when that is due."""

    def __init__(self, look_up: Callable[[Way], bytes | None], way: Way) -> None:
        self._look_up = look_up
        self._way = way
        self.is_resolving = False
        """Whether `header` said None for a next hop that may still answer: packets wait for that in the kernel."""
        self.forget()

    def forget(self) -> None:
        """Look it up again before the next packet."""
        self._header: bytes | None = None
        self._again_at = 0.0
        self._asked_at: float | None = None

    def header(self) -> bytes | None:
        """What stands before the packets of this way; nothing on a link that has no headers.

        None for a way that no packet socket can go now: on-link, loopback, unresolved, another kind of link.
        """
        now = time.monotonic()
        if now >= self._again_at:
            self._header = self._look_up(self._way)
            if self._asked_at is None:
                self._asked_at = now
            may_answer = self._header is None and self._way.next_hop is not None
            self.is_resolving = may_answer and now - self._asked_at < RESOLVING_S
            self._again_at = now + (ASK_AGAIN_S if self.is_resolving else READ_AGAIN_S)
        return self._header


class Neighbours:
    """Next hops by way, which share what is known of one."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, bytes | None], NextHop] = {}
        self._netlink: Netlink | None = None

    def close(self) -> None:
        """Close what is asked."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def next_hop(self, way: Way) -> NextHop:
        """That of a way."""
        return self._known.setdefault((way.version, way.interface, way.next_hop), NextHop(self._look_up, way))

    def _look_up(self, way: Way) -> bytes | None:
        kind, own_address = _device(way.interface)
        if kind == _NO_LINK_HEADER:
            return b""
        if kind != _ETHERNET or way.next_hop is None:
            return None
        try:
            state, address = self._ask(way.interface, way.next_hop)
            if not state & _SETTLED:
                self._resolve(way.interface, way.next_hop)
                state, address = self._ask(way.interface, way.next_hop)
        except OSError:
            return None
        if not state & _VALID or not address:
            return None
        return address + own_address + ETHERTYPES[way.version].to_bytes(2)

    def _resolve(self, interface: int, next_hop: bytes) -> None:
        """Have the kernel confirm or find the address; where it does not let us, sending there does it.

        Never of an entry that is permanent: asked to use it, Linux makes it an ordinary one.
        """
        self._question(_NEW_NEIGHBOUR, CREATE | ACKNOWLEDGE, interface, next_hop, _USE)

    def _ask(self, interface: int, next_hop: bytes) -> tuple[int, bytes]:
        """(NUD_* state, link address); 0 and nothing of what is not in the table."""
        answers = self._question(_GET_NEIGHBOUR, 0, interface, next_hop, 0)
        if answers.kinds[0] != _NEW_NEIGHBOUR or answers.ends[0] < MESSAGE.size + _NEIGHBOUR.size:
            return 0, b""
        address = b""
        for found in attributes(answers, MESSAGE.size + _NEIGHBOUR.size):
            for start in found.of(_LINK_ADDRESS, _ETHERNET_ADDRESS)[1]:
                address = answers.rows[0, start : start + _ETHERNET_ADDRESS].tobytes()
        return int(answers.rows[0, _STATE]), address

    def _question(self, kind: int, flags: int, interface: int, next_hop: bytes, use: int) -> Answers:
        if self._netlink is None:
            self._netlink = Netlink()
        body = _NEIGHBOUR.pack(_DOMAINS[len(next_hop)], interface, 0, use, 0) + attribute(_DST, next_hop)
        return self._netlink.ask(kind, flags, np.frombuffer(body, np.uint8)[None, :])


def _device(interface: int) -> tuple[int | None, bytes]:
    """(ARPHRD_* of an interface, its link address if that is Ethernet's); None if there is none."""
    try:
        request = _INTERFACE_REQUEST.pack(socket.if_indextoname(interface).encode(), 0, b"")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            _, kind, address = _INTERFACE_REQUEST.unpack(fcntl.ioctl(sock, _SIOCGIFHWADDR, request))
    except OSError:
        return None, b""
    return kind, address
