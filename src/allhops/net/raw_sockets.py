"""Raw sockets as both transports want them: how they are opened, and how what the kernel dropped on them is counted.

Source: raw(7), socket(7), ip(7), ipv6(7).
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
from typing import TYPE_CHECKING

from allhops.errors import AllhopsError, CapacityError, PrivilegeError
from allhops.net.filters import answer_types, answers_to, attach
from allhops.net.source import bind_to_interface
from allhops.wire.family import IPV4, IPV6, Family

if TYPE_CHECKING:
    from allhops.core.ledger import Counters

_log = logging.getLogger("allhops")

RECEIVE_BUFFER = 4 << 20
"""Bytes. The default holds some 255 ICMP errors; a kernel books about 832 bytes for each."""

# Linux numbers that the socket module does not name in every version.
SO_TIMESTAMPNS = 35
SO_RXQ_OVFL = 40
_SO_RCVBUFFORCE = 33
_SOL_RAW = 255
_ICMP_FILTER = 1
_ICMP6_FILTER = 1
_IP_RECVERR = 11
_IPV6_RECVERR = 25
_IP_MTU_DISCOVER = 10
_IPV6_MTU_DISCOVER = 23
_PMTUDISC_PROBE = 3
_COUNT = struct.Struct("@I")
_SO_MEMINFO = 55
_MEMORY_SIZE = 36
"""Bytes of SO_MEMINFO: nine 32-bit words (SK_MEMINFO_VARS)."""
_DROPS_OFFSET = 32
"""Of SK_MEMINFO_DROPS."""


class Drops:
    """How many packets found one socket's receive buffer full."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._seen = 0

    def ask(self, sock: socket.socket) -> None:
        """Ask the kernel: on packets it says so only when a later one arrives."""
        with contextlib.suppress(OSError, struct.error):
            memory = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMORY_SIZE)
            (drops,) = _COUNT.unpack_from(memory, _DROPS_OFFSET)
            self.are(drops)

    def are(self, drops: int) -> None:
        """The kernel's count, 32 bits; an older packet may bring an older one."""
        new = drops - self._seen & 0xFFFFFFFF
        if not 0 < new < 1 << 31:
            return
        self._seen = drops
        count_drops(self._counters, new)


def count_drops(counters: Counters, new: int) -> None:
    """So many packets more found a receive buffer full; the first ones are told."""
    if not counters.kernel_drops:
        _log.warning(
            "a receive buffer was full and replies were lost: stars may be this machine's doing; "
            "probe more slowly or raise net.core.rmem_max"
        )
    counters.kernel_drops += new


def refusal(error: OSError) -> AllhopsError:
    """What it means that a raw socket could not be opened."""
    if isinstance(error, PermissionError):
        return PrivilegeError("raw sockets are not allowed: run it with sudo, or give the process CAP_NET_RAW")
    return CapacityError(f"no raw socket: {error.strerror}")


def open_receiver(family: Family, protocol: int, buffer: int = RECEIVE_BUFFER) -> socket.socket:
    """A non-blocking raw socket that lets only answers through, with stamps and a drop counter.

    `buffer` is how many bytes may wait. Raises: OSError.
    """
    domain = socket.AF_INET if family is IPV4 else socket.AF_INET6
    sock = socket.socket(domain, socket.SOCK_RAW, protocol)
    sock.setblocking(False)
    if protocol == family.icmp_protocol:
        _admit_icmp(sock, family)
    else:
        attach(sock, answers_to(family, ()))
    grow_buffer(sock, buffer)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
    if family is IPV6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    return sock


def _admit_icmp(sock: socket.socket, family: Family) -> None:
    """Let through the ICMP types that can answer a probe."""
    answers = answer_types(family)
    if family is IPV4:
        blocked = ~sum({1 << kind for kind in answers}) & 0xFFFFFFFF
        sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("@I", blocked))
    else:
        blocked = ~sum({1 << kind for kind in answers}) & (1 << 256) - 1
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _words_of(blocked))


def _words_of(bits: int) -> bytes:
    """Eight native 32-bit words, lowest ICMP types first: struct icmp6_filter."""
    return struct.pack("@8I", *(bits >> shift & 0xFFFFFFFF for shift in range(0, 256, 32)))


def grow_buffer(sock: socket.socket, size: int) -> None:
    """Let so many bytes wait: beyond net.core.rmem_max if we may, up to it if not."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def open_sender(version: int, interface: str | None) -> socket.socket:
    """A non-blocking socket that takes whole IP packets and owns up to local drops.

    Raises: PrivilegeError, CapacityError, UsageError for an interface that there is not.
    """
    domain = socket.AF_INET if version == IPV4.version else socket.AF_INET6
    try:
        sock = socket.socket(domain, socket.SOCK_RAW, socket.IPPROTO_RAW)
    except PermissionError as error:
        raise PrivilegeError("raw sockets are not allowed any more") from error
    except OSError as error:
        raise CapacityError(f"no raw socket: {error.strerror}") from error
    sock.setblocking(False)
    level, recverr, mtu_discover = socket.IPPROTO_IP, _IP_RECVERR, _IP_MTU_DISCOVER
    if version == IPV6.version:
        level, recverr, mtu_discover = socket.IPPROTO_IPV6, _IPV6_RECVERR, _IPV6_MTU_DISCOVER
    try:
        sock.setsockopt(level, recverr, 1)
        sock.setsockopt(level, mtu_discover, _PMTUDISC_PROBE)
        bind_to_interface(sock, interface)
    except BaseException:
        sock.close()
        raise
    return sock
