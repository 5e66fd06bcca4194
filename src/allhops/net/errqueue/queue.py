"""Control messages to numbers: what the kernel told about one packet.

Nothing that the network sends raises here beyond `OSError` of the read itself: what is cut short is left out.
This file knows no lease.

Source: ip(7) IP_RECVERR, include/uapi/linux/errqueue.h.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from allhops.core.lanes import ROW_SIZE
from allhops.net.errqueue.numbers import EXTENDED_ERROR_SIZE, MSG_ERRQUEUE, SO_MEMINFO, SO_TIMESTAMPNS

if TYPE_CHECKING:
    from allhops.net.errqueue.numbers import Numbers

_ANCILLARY_SPACE = 512
_TIMESPEC = struct.Struct("@ll")
_INT = struct.Struct("@i")
_EXTENDED_ERROR = struct.Struct("@IBBBBIHBB")
"""errno, origin, type, code, pad, info; then sock_ee_data_rfc4884: length, flags, reserved."""
_MEMORY = struct.Struct("@II")
NEARLY_FULL = 0.8
"""Share of a receive buffer from which on replies are about to be lost."""
BOOKED_FOR_AN_ERROR = 832
"""Bytes of a receive buffer that one ICMP error takes up, measured on Linux 6.18."""


class IcmpTold(NamedTuple):
    """The ICMP error that an entry of the error queue stands for."""

    errno: int
    origin: int
    icmp_type: int
    icmp_code: int
    info: int
    """Next-hop MTU of a packet that was too big, pointer of a parameter problem."""
    extensions_at: int
    """RFC 4884: bytes of quoted data before the extensions; 0 when there are none, or the kernel does not tell."""
    offender: bytes
    """Packed address of the responder; empty when there is none."""


class Told(NamedTuple):
    """One packet as the kernel tells of it.

    `where` is the socket address: whose answer it is on the ordinary queue, what the probe was sent to on the error
    queue. `data` is what follows the headers that the kernel read. `reply_ttl` is None when it does not tell.
    """

    where: Any
    data: bytes
    stamp_ns: int
    reply_ttl: int | None
    icmp: IcmpTold | None


def read_error(sock: socket.socket, numbers: Numbers) -> Told:
    """The oldest entry of the error queue. Raises: OSError, BlockingIOError when it is empty."""
    return _told(numbers, *sock.recvmsg(ROW_SIZE, _ANCILLARY_SPACE, MSG_ERRQUEUE))


def read_answer(sock: socket.socket, numbers: Numbers) -> Told:
    """The oldest packet of the ordinary queue. Raises: OSError, BlockingIOError when it is empty."""
    return _told(numbers, *sock.recvmsg(ROW_SIZE, _ANCILLARY_SPACE))


def _told(numbers: Numbers, data: bytes, ancillary: list[tuple[int, int, bytes]], flags: int, where: Any) -> Told:
    stamp_ns, reply_ttl, icmp = 0, None, None
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET:
            if kind == SO_TIMESTAMPNS and len(value) >= _TIMESPEC.size:
                seconds, nanoseconds = _TIMESPEC.unpack_from(value)
                stamp_ns = seconds * 1_000_000_000 + nanoseconds
        elif level == numbers.level:
            if kind == numbers.ttl_message and len(value) >= _INT.size:
                (reply_ttl,) = _INT.unpack_from(value)
            elif kind == numbers.recverr and len(value) >= EXTENDED_ERROR_SIZE:
                icmp = _icmp_told(numbers, value)
    return Told(where, data, stamp_ns or time.time_ns(), reply_ttl, icmp)


def _icmp_told(numbers: Numbers, value: bytes) -> IcmpTold:
    code, origin, icmp_type, icmp_code, _, info, extensions_at, _, _ = _EXTENDED_ERROR.unpack_from(value)
    offender = value[numbers.offender]
    if len(offender) < numbers.family.address_size:
        offender = b""
    return IcmpTold(code, origin, icmp_type, icmp_code, info, extensions_at, offender)


def fill(sock: socket.socket) -> tuple[int, int]:
    """(bytes booked in the receive buffer, bytes it may hold). The error queue is booked there too."""
    booked, capacity = _MEMORY.unpack_from(sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMORY.size))
    return booked, capacity
