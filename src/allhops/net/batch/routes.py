"""The ways to many destinations, as the kernel's routing tables have them now.

A connected socket answers the same question for one destination in some 20 us; netlink answers it for thousands at 2
to 3 us each, and names interface and next hop besides. Where there is no netlink, and for what it leaves open, sockets
are connected. Nothing is sent to the network.

Where several next hops share a route, it is the one that the kernel chooses for a packet without ports, as that of a
raw socket is.

Source: rtnetlink(7), linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import numpy as np

from allhops.errors import AllhopsError, SendError, UsageError, explain_errno
from allhops.net.batch.netlink import MESSAGE, MOST_QUESTIONS, Netlink, attribute, attributes
from allhops.net.batch.wire import Way
from allhops.net.source import check_source, socket_address, source_towards
from allhops.wire.family import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from allhops.model import Address
    from allhops.net.batch.netlink import Answers
    from allhops.options import TraceOptions

_NEW_ROUTE, _GET_ROUTE = 24, 26
"""RTM_*."""
_DST, _SRC, _OIF, _GATEWAY, _PREFSRC, _VIA = 1, 2, 4, 5, 7, 18
"""RTA_*."""
_ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, prefix lengths of destination and source, TOS, table, protocol, scope, type, flags."""
_TYPE_OFFSET = MESSAGE.size + 7
_USABLE = (1, 2, 4, 5)
"""RTN_UNICAST, _LOCAL, _ANYCAST, _MULTICAST."""
_BROADCAST = 3
_FORBIDDEN = {6: errno.EINVAL, 7: errno.EHOSTUNREACH, 8: errno.EACCES, 9: errno.ENETUNREACH}
"""RTN_BLACKHOLE, _UNREACHABLE, _PROHIBIT, _THROW: what a send says. IPv4 answers with the errno itself."""
_UNTOLD = (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPERM, errno.EINTR, errno.ENOBUFS)
"""Errors about the question and not about the destination: a socket is asked instead."""
_IS_BROADCAST = -1
"""In the place of an errno."""
_DOMAINS = {4: socket.AF_INET, 6: socket.AF_INET6}
_LONGEST = 16
"""Bytes of the longest address."""


def ways(destinations: Sequence[Address], options: TraceOptions) -> list[Way | AllhopsError]:
    """The way to each destination; in its place the error that forbids it.

    Raises: UsageError for an interface or source address that there is not; CapacityError.
    """
    source = check_source(options)
    found: dict[int, Way | AllhopsError] = {}
    try:
        netlink = Netlink()
    except OSError:
        pass
    else:
        try:
            _ask(netlink, destinations, options, source, found)
        except OSError:
            pass
        finally:
            netlink.close()
    return [
        found[index] if index in found else _connected(destination, options)
        for index, destination in enumerate(destinations)
    ]


def _ask(
    netlink: Netlink,
    destinations: Sequence[Address],
    options: TraceOptions,
    source: Address | None,
    found: dict[int, Way | AllhopsError],
) -> None:
    """Find what netlink knows. Raises: OSError."""
    bound = socket.if_nametoindex(options.interface) if options.interface else 0
    known: dict[bytes, Way] = {}
    for (version, interface), indices in _alike(destinations, bound).items():
        if source is not None and source.version != version:
            continue  # connecting says so
        question = _Question(version, interface, source.packed if source else b"")
        for start in range(0, len(indices), MOST_QUESTIONS):
            chunk = indices[start : start + MOST_QUESTIONS]
            answers = netlink.ask(_GET_ROUTE, 0, question.bodies([destinations[index].packed for index in chunk]))
            for index, way in zip(chunk, _read(answers, question, known), strict=True):
                if isinstance(way, Way):
                    found[index] = way
                elif way:
                    found[index] = _error(destinations[index], way)


def _alike(destinations: Sequence[Address], bound: int) -> dict[tuple[int, int], list[int]]:
    """Indices of destinations by (IP version, interface that they must leave by, 0 for any).

    A link-local destination without an interface is left out: connecting says what is wrong with it.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    ipv4 = groups[4, bound] = []
    ipv6 = groups[6, bound] = []
    for index, destination in enumerate(destinations):
        if isinstance(destination, IPv4Address):
            ipv4.append(index)
        elif (destination.scope_id is None and not destination.is_link_local) or bound:
            ipv6.append(index)
        elif scope := _scope(destination):
            groups.setdefault((6, scope), []).append(index)
    return {key: indices for key, indices in groups.items() if indices}


def _scope(destination: IPv6Address) -> int:
    """Index of the interface that an address names; 0 for none."""
    try:
        return int(socket_address(destination)[-1])
    except UsageError:
        return 0


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of one destination after the other."""

    version: int
    interface: int
    source: bytes
    """Packed address that must be used, empty for any."""

    def bodies(self, packed: Sequence[bytes]) -> NDArray[np.uint8]:
        """(n, bytes): the bodies of n questions."""
        size = FAMILIES[self.version].address_size
        bits = 8 * size
        head = _ROUTE.pack(_DOMAINS[self.version], bits, bits if self.source else 0, 0, 0, 0, 0, 0, 0)
        rest = attribute(_SRC, self.source) if self.source else b""
        if self.interface:
            rest += attribute(_OIF, struct.pack("=i", self.interface))
        template = head + attribute(_DST, bytes(size)) + rest
        bodies = np.tile(np.frombuffer(template, np.uint8), (len(packed), 1))
        at = len(template) - len(rest) - size
        bodies[:, at : at + size] = np.frombuffer(b"".join(packed), np.uint8).reshape(-1, size)
        return bodies


def _read(answers: Answers, question: _Question, known: dict[bytes, Way]) -> list[Way | int]:
    """Ways, errnos where there is none (or `_IS_BROADCAST`), and 0 for what netlink did not say."""
    count = len(answers.rows)
    size = FAMILIES[question.version].address_size
    interface = np.zeros(count, np.int32)
    source, gateway = np.zeros((count, _LONGEST), np.uint8), np.zeros((count, _LONGEST), np.uint8)
    has_source, gateway_size = np.zeros(count, np.bool_), np.zeros(count, np.uint8)
    words = answers.words()
    if question.source:
        source[:, :size] = np.frombuffer(question.source, np.uint8)
        has_source[:] = True
    for found in attributes(answers, MESSAGE.size + _ROUTE.size):
        which, at = found.of(_OIF, 4)
        interface[which] = words[which, at // 4]
        which, at = found.of(_GATEWAY, size)
        gateway[which, :size] = _bytes(answers, which, at, size)
        gateway_size[which] = size
        which, at = found.of(_VIA, 2 + _LONGEST)  # an IPv6 router for IPv4 destinations, RFC 8950
        gateway[which] = _bytes(answers, which, at + 2, _LONGEST)
        gateway_size[which] = _LONGEST
        if not question.source:
            which, at = found.of(_PREFSRC, size)
            source[which, :size] = _bytes(answers, which, at, size)
            has_source[which] = True
    kind = answers.rows[:, _TYPE_OFFSET]
    answered = answers.kinds == _NEW_ROUTE
    usable = answered & np.isin(kind, _USABLE) & has_source & (interface > 0)
    errors = answers.errors()
    errors[np.isin(errors, _UNTOLD)] = 0
    for forbidden, code in _FORBIDDEN.items():
        errors[answered & (kind == forbidden)] = code
    errors[answered & (kind == _BROADCAST)] = _IS_BROADCAST
    keys = np.hstack([interface.view(np.uint8).reshape(count, 4), gateway_size[:, None], source, gateway])
    return [
        _way(key, question.version, known) if good else code
        for key, good, code in zip(_rows(keys), usable.tolist(), errors.tolist(), strict=True)
    ]


def _bytes(answers: Answers, which: NDArray[np.int64], at: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """(k, size): bytes of answers `which` from `at` on."""
    found: NDArray[np.uint8] = answers.rows[which[:, None], at[:, None] + np.arange(size)]
    return found


def _rows(matrix: NDArray[np.uint8]) -> Iterable[bytes]:
    """Each row of a matrix as bytes."""
    width = matrix.shape[1]
    flat = matrix.tobytes()
    return (flat[start : start + width] for start in range(0, len(flat), width))


def _way(key: bytes, version: int, known: dict[bytes, Way]) -> Way:
    """The same object for every destination that goes the same way."""
    way = known.get(key)
    if way is None:
        (interface,) = struct.unpack_from("=i", key)
        source, gateway = key[5 : 5 + _LONGEST], key[5 + _LONGEST :]
        way = known[key] = Way(
            version=version,
            source=source[: FAMILIES[version].address_size],
            interface=interface,
            next_hop=gateway[: key[4]] or None,
        )
    return way


def _error(destination: Address, code: int) -> AllhopsError:
    """The same words as those of a socket that cannot be connected (source.py)."""
    if code == _IS_BROADCAST:
        return UsageError(f"{destination} is a broadcast address: trace one of its hosts")
    return SendError(code, f"{destination}: {explain_errno(code)}")


def _connected(destination: Address, options: TraceOptions) -> Way | AllhopsError:
    """What a socket that is connected there knows."""
    try:
        source, where = source_towards(destination, options)
    except AllhopsError as error:
        return error
    scope = where[-1] if len(where) > 1 else 0
    assert isinstance(scope, int)
    return Way(version=destination.version, source=source, interface=scope, next_hop=None)
