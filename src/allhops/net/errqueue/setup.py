"""Socket options of a probing socket: what it must tell, and how much it may hold.

Options that a kernel does not know are left out where the trace is right without them.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from allhops.net.errqueue.numbers import (
    NUMBERS,
    PMTUDISC_DO,
    PMTUDISC_INTERFACE,
    PMTUDISC_PROBE,
    SO_TIMESTAMPNS,
)
from allhops.net.source import OUT_OF_SOCKETS

if TYPE_CHECKING:
    from allhops.net.errqueue.numbers import Numbers

RECEIVE_BUFFER = 4 << 20
"""Bytes; the kernel grants up to net.core.rmem_max. The default holds 255 ICMP errors, which two traces can fill."""
_IPV6_AUTOFLOWLABEL = 70
_IPV6_FLOWINFO_SEND = 33


def listen_to_errors(sock: socket.socket, numbers: Numbers) -> None:
    """Non-blocking, with an error queue that tells TTLs and receive stamps. Raises: OSError without one (gVisor)."""
    sock.setblocking(False)
    sock.setsockopt(numbers.level, numbers.recverr, 1)
    sock.setsockopt(numbers.level, numbers.recvttl, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    with contextlib.suppress(OSError):  # Linux < 5.9
        sock.setsockopt(numbers.level, numbers.recverr_rfc4884, 1)


def grow_buffer(sock: socket.socket) -> None:
    """As large as an ordinary user may have it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def plain_flow_label(sock: socket.socket) -> None:
    """No IPv6 flow label of the kernel's own making: probes are the same as those of raw sockets.

    Does nothing to a socket of the other family.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_AUTOFLOWLABEL, 0)


def allow_flow_label(sock: socket.socket) -> None:
    """Take the IPv6 flow label from the address that the socket is connected to."""
    sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FLOWINFO_SEND, 1)


def set_flow_label(sock: socket.socket, label: int) -> None:
    """Send with this IPv6 flow label, 20 bits, from now on. The socket must be connected: it is connected again."""
    host, port, _, scope = sock.getpeername()
    allow_flow_label(sock)
    sock.connect((host, port, label, scope))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderChoice:
    """What we choose in the IP header of every probe of a flow, TTL apart."""

    tos: int
    dont_fragment: bool
    flow_label: int

    @classmethod
    def of(cls, numbers: Numbers, packet: memoryview) -> Self:
        """As a packet that was built has it."""
        return cls(
            tos=numbers.tos_of(packet),
            dont_fragment=numbers.dont_fragment_of(packet),
            flow_label=numbers.flow_label_of(packet),
        )

    def apply(self, sock: socket.socket, numbers: Numbers) -> None:
        """Have the kernel choose the same. The flow label belongs to the address that is connected to."""
        sock.setsockopt(numbers.level, numbers.tos, self.tos)
        set_df = PMTUDISC_DO if sock.type == socket.SOCK_STREAM else PMTUDISC_PROBE
        mode = set_df if self.dont_fragment else PMTUDISC_INTERFACE
        sock.setsockopt(numbers.level, numbers.mtu_discover, mode)


def errors_are_told() -> bool:
    """Whether this kernel and its sandbox have error queues at all, for either family.

    Raises: OSError where it cannot be found out, for want of a file descriptor or of memory.
    """
    for numbers in NUMBERS.values():
        try:
            with socket.socket(numbers.domain, socket.SOCK_DGRAM) as sock:
                sock.setsockopt(numbers.level, numbers.recverr, 1)
                return True
        except OSError as error:
            if error.errno in OUT_OF_SOCKETS:
                raise
    return False
