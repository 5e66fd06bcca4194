"""The ways to many destinations, as the kernel's routing tables have them now.

A connected socket answers the same question for one destination in some 20 us; netlink answers it for thousands at 2
to 3 us each, and names interface and next hop besides. Of those that the tables cannot tell apart one is asked about
(alike.py). Where there is no netlink, and for what it leaves open, sockets are connected. Nothing is sent to the
network.

Where several next hops share a route, it is the one that the kernel chooses for a packet without ports, as that of a
raw socket is.

Source: rtnetlink(7), linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allhops.errors import AllhopsError, SendError, UsageError, explain_errno
from allhops.net.batch.alike import alike
from allhops.net.batch.netlink import MESSAGE, MOST_QUESTIONS, Netlink, attribute, attributes
from allhops.net.batch.wire import Way, Ways
from allhops.net.source import check_source, socket_address, source_towards
from allhops.wire.family import FAMILIES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.model import Address
    from allhops.net.batch.group import Group
    from allhops.net.batch.netlink import Answers
    from allhops.options import TraceOptions

_NEW_ROUTE, _GET_ROUTE = 24, 26
"""RTM_*."""
_DST, _SRC, _OIF, _GATEWAY, _PREFSRC, _VIA = 1, 2, 4, 5, 7, 18
"""RTA_*."""
_ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, prefix lengths of destination and source, TOS, table, protocol, scope, type, flags."""
_TYPE_OFFSET = MESSAGE.size + 7
_UNICAST = 1
_USABLE = (_UNICAST, 2, 4, 5)
"""RTN_UNICAST, _LOCAL, _ANYCAST, _MULTICAST."""
_BROADCAST = 3
_FORBIDDEN = {6: errno.EINVAL, 7: errno.EHOSTUNREACH, 8: errno.EACCES, 9: errno.ENETUNREACH}
"""RTN_BLACKHOLE, _UNREACHABLE, _PROHIBIT, _THROW: what a send says. IPv4 answers with the errno itself."""
_UNTOLD = (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPERM, errno.EINTR, errno.ENOBUFS)
"""Errors about the question and not about the destination: a socket is asked instead."""
_IS_BROADCAST = -1
"""In the place of an errno."""
_NONE = -1
"""In the place of a way."""
_DOMAINS = {4: socket.AF_INET, 6: socket.AF_INET6}
_LONGEST = 16
"""Bytes of the longest address."""
WORTH_A_LOOK = 64
"""Destinations from which on it takes less time to look at the tables than to ask about each."""


def ways(destinations: Group, options: TraceOptions) -> Ways:
    """The way to each destination; in its place the error that forbids it.

    Raises: UsageError for an interface or source address that there is not; CapacityError.
    """
    source = check_source(options)
    kinds: dict[Way | AllhopsError, int] = {}
    of, codes = np.full(len(destinations), _NONE), np.zeros(len(destinations), np.int64)
    with suppress(OSError), closing(Netlink()) as netlink:
        question = _question(destinations, options, source)
        if question is not None:
            of, codes = _ask_once(netlink, destinations, question, kinds)
    for place in np.flatnonzero(of == _NONE).tolist():
        address, code = destinations.address(place), int(codes[place])
        kind = _error(address, code) if code else _connected(address, options)
        of[place] = kinds.setdefault(kind, len(kinds))
    return Ways([*kinds], of)


def _question(destinations: Group, options: TraceOptions, source: Address | None) -> _Question | None:
    """What to ask of each; None where connecting says better what is wrong. Raises: OSError."""
    interface = socket.if_nametoindex(options.interface) if options.interface else 0
    if destinations.scope is not None and not interface:
        interface = _scope(destinations.address(0))
        if not interface:
            return None
    if source is not None and source.version != destinations.version:
        return None
    return _Question(destinations.version, interface, source.packed if source else b"")


def _scope(destination: Address) -> int:
    """Index of the interface that an address names; 0 for none."""
    try:
        return int(socket_address(destination)[-1])
    except UsageError:
        return 0


def _ask_once(
    netlink: Netlink, destinations: Group, question: _Question, kinds: dict[Way | AllhopsError, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`of` and `codes` of all destinations, asking about one for many where that is as good. Raises: OSError."""
    packed = destinations.packed
    models = alike(destinations.keys) if destinations.version == 4 and len(packed) >= WORTH_A_LOOK else None
    if models is None:
        told = _ask(netlink, packed, question, kinds)
        return told.of, told.codes
    asked = np.flatnonzero(models == np.arange(len(packed)))
    told = _ask(netlink, packed[asked], question, kinds)
    place = np.searchsorted(asked, models)
    of, codes, is_open = told.of[place], told.codes[place], ~told.is_unicast[place]
    is_open[asked] = False
    if is_open.any():
        others = _ask(netlink, packed[is_open], question, kinds)
        of[is_open], codes[is_open] = others.of, others.codes
    return of, codes


def _ask(
    netlink: Netlink, packed: NDArray[np.uint8], question: _Question, kinds: dict[Way | AllhopsError, int]
) -> _Told:
    """What is said of each of these destinations. Raises: OSError."""
    parts = [
        _read(netlink.ask(_GET_ROUTE, 0, question.bodies(packed[start : start + MOST_QUESTIONS])), question, kinds)
        for start in range(0, len(packed), MOST_QUESTIONS)
    ]
    return parts[0] if len(parts) == 1 else _Told(*map(np.concatenate, zip(*parts, strict=True)))


class _Told(NamedTuple):
    """What is said of n destinations; new ways are added to `kinds`."""

    of: NDArray[np.int64]
    """(n,): place of each one's way in `kinds`, or `_NONE`."""
    codes: NDArray[np.int64]
    """(n,): why there is none, an errno or `_IS_BROADCAST`; 0 for what netlink did not say."""
    is_unicast: NDArray[np.bool_]
    """(n,): whether there is one, and it leads to somebody else."""


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of one destination after the other."""

    version: int
    interface: int
    source: bytes
    """Packed address that must be used, empty for any."""

    def bodies(self, packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(n, bytes): the bodies of n questions about these addresses."""
        size = FAMILIES[self.version].address_size
        bits = 8 * size
        head = _ROUTE.pack(_DOMAINS[self.version], bits, bits if self.source else 0, 0, 0, 0, 0, 0, 0)
        rest = attribute(_SRC, self.source) if self.source else b""
        if self.interface:
            rest += attribute(_OIF, struct.pack("=i", self.interface))
        template = head + attribute(_DST, bytes(size)) + rest
        bodies = np.tile(np.frombuffer(template, np.uint8), (len(packed), 1))
        at = len(template) - len(rest) - size
        bodies[:, at : at + size] = packed
        return bodies


def _read(answers: Answers, question: _Question, kinds: dict[Way | AllhopsError, int]) -> _Told:
    """What the kernel said."""
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
    different, each = np.unique(keys[usable].view(f"V{keys.shape[1]}").ravel(), return_inverse=True)
    ways = [_way(key, question.version) for key in different.tolist()]
    places = np.array([kinds.setdefault(way, len(kinds)) for way in ways], np.int64)
    of = np.full(count, _NONE)
    of[usable] = places[each]
    return _Told(of, errors, usable & (kind == _UNICAST))


def _bytes(answers: Answers, which: NDArray[np.int64], at: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """(k, size): bytes of answers `which` from `at` on."""
    found: NDArray[np.uint8] = answers.rows[which[:, None], at[:, None] + np.arange(size)]
    return found


def _way(key: bytes, version: int) -> Way:
    (interface,) = struct.unpack_from("=i", key)
    source, gateway = key[5 : 5 + _LONGEST], key[5 + _LONGEST :]
    return Way(
        version=version,
        source=source[: FAMILIES[version].address_size],
        interface=interface,
        next_hop=gateway[: key[4]] or None,
    )


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
