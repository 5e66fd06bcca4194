"""Thousands of IPv4 probes as rows of bytes in, what a synthetic internet replies as rows of bytes out.

UDP, ICMP echo and TCP SYN. What is no probe, or not in order, is counted and dropped. This file knows no clock and no
socket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allhops.testing.synthetic import REACHED, SILENCE, TIME_EXCEEDED
from allhops.wire.checksum import MASK

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from allhops.testing.synthetic import Answers, SyntheticInternet

    Rows = NDArray[np.uint8]
    Words = NDArray[np.uint16]

ICMP, TCP, UDP = 1, 6, 17
IP_BYTES, ICMP_BYTES = 20, 8
SHORTEST = {ICMP: 28, TCP: 40, UDP: 28}
"""Bytes of a packet that has its whole transport header."""
CHECKSUM_WORD = {ICMP: 11, TCP: 18, UDP: 13}
"""Where the transport checksum stands, in 16-bit words from the first of the packet."""
IHL_5 = 0x45
FRAGMENT = 0x3F
"""Of the flags' byte: more fragments, and the offset's upper bits."""
ECHO_REQUEST, SYN, RST_ACK = 8, 0x02, 0x14

ERROR_ROOM = 576
"""Bytes of the largest ICMP error. Source: RFC 1812 4.3.2.3."""
ROUTERS_TTL, HOSTS_TTL = 255, 64
"""What replies start with."""

TIME_EXCEEDED_HEAD = bytes([11, 0])
PORT_UNREACHABLE_HEAD = bytes([3, 3])


@dataclass(slots=True)
class Tally:
    """What became of every packet."""

    probes: int = 0
    foreign: int = 0
    """Not IPv4, not of these protocols, or not from the vantage point."""
    malformed: int = 0
    bad_checksum: int = 0
    silent: int = 0
    """Nobody answers: a silent router, a dead host, a loss."""
    time_exceeded: int = 0
    reached: int = 0
    """A live destination was, though it answers neither ICMP but requests nor TCP but SYNs."""


class Replies(NamedTuple):
    """m packets of one length, each to one probe."""

    packets: Rows
    """(m, length)"""
    probe: NDArray[np.intp]
    """(m,): row of the probe."""
    rtt_ns: NDArray[np.int64]


class _Probes(NamedTuple):
    """Probes of one protocol that are in order, and what they meet."""

    packets: Rows
    probe: NDArray[np.intp]
    met: Answers

    def of(self, wanted: NDArray[np.bool_]) -> _Probes:
        """Those that are wanted."""
        met = self.met
        some = type(met)(met.kind[wanted], met.responder[wanted], met.rtt_ns[wanted], met.quoted_ttl[wanted])
        return _Probes(self.packets[wanted], self.probe[wanted], some)


def _nothing() -> None:
    """Nobody has anything to do between two steps."""


def reply(
    internet: SyntheticInternet, packets: Rows, tally: Tally, *, between: Callable[[], None] = _nothing
) -> list[Replies]:
    """What comes back for n packets of one length, (n, length) contiguous bytes; those of one kind together.

    For whoever cannot leave its work for as long as this takes, `between` is called between its steps: some 0.1 ms for
    256 packets.
    """
    if packets.shape[1] < IP_BYTES + ICMP_BYTES:
        tally.malformed += len(packets)
        return []
    replies: list[Replies] = []
    sound = _sound(internet, packets, tally)
    between()
    for protocol in (UDP, ICMP, TCP):
        chosen = np.flatnonzero(sound & (packets[:, 9] == protocol))
        if len(chosen):
            probes = _ask(internet, packets if len(chosen) == len(packets) else packets[chosen], chosen, protocol)
            between()
            _count(probes, tally)
            replies += _replies(internet, probes, protocol)
            between()
    return [some for some in replies if len(some.probe)]


def _sound(internet: SyntheticInternet, packets: Rows, tally: Tally) -> NDArray[np.bool_]:
    """Which packets are probes in order; the others are counted."""
    words = _words(packets)
    protocol = packets[:, 9]
    source = packets[:, 12:16].view(">u4")[:, 0]
    ours = (packets[:, 0] >> 4 == 4) & (source == int(internet.source))
    ours &= (protocol == UDP) | (protocol == ICMP) | (protocol == TCP)
    length = packets.shape[1]
    formed = (packets[:, 0] == IHL_5) & (packets[:, 2:4].view(">u2")[:, 0] == length) & (packets[:, 8] > 0)
    formed &= (packets[:, 6] & FRAGMENT | packets[:, 7]) == 0
    for number, shortest in SHORTEST.items():
        if length < shortest:
            formed &= protocol != number
    right = _sum(words[:, :10]) == MASK
    pseudo = words[:, 6:10].sum(axis=1, dtype=np.uint32) + protocol.astype(">u2").view(np.uint16)
    pseudo += np.array([length - IP_BYTES], ">u2").view(np.uint16)
    transport = _fold(words[:, 10:].sum(axis=1, dtype=np.uint32) + pseudo * (protocol != ICMP))
    right &= (transport == MASK) | ((protocol == UDP) & (words[:, CHECKSUM_WORD[UDP]] == 0))
    tally.foreign += int((~ours).sum())
    tally.malformed += int((ours & ~formed).sum())
    tally.bad_checksum += int((ours & formed & ~right).sum())
    sound: NDArray[np.bool_] = ours & formed & right
    tally.probes += int(sound.sum())
    return sound


def _ask(internet: SyntheticInternet, packets: Rows, chosen: NDArray[np.intp], protocol: int) -> _Probes:
    """Put the probes to the internet. A load balancer sees ports; identifier and checksum of ICMP."""
    numbers = packets[:, :28].view(">u2")
    first, second = (12, CHECKSUM_WORD[ICMP]) if protocol == ICMP else (10, 11)
    destination = packets[:, 16:20].view(">u4")[:, 0].astype(np.uint32)
    ports = numbers[:, first].astype(np.uint16), numbers[:, second].astype(np.uint16)
    return _Probes(packets, chosen, internet.answer(destination, packets[:, 8], *ports))


def _count(probes: _Probes, tally: Tally) -> None:
    silent, exceeded, reached = np.bincount(probes.met.kind, minlength=3).tolist()
    tally.silent += silent
    tally.time_exceeded += exceeded
    tally.reached += reached


def _replies(internet: SyntheticInternet, probes: _Probes, protocol: int) -> list[Replies]:
    kind = probes.met.kind
    if protocol == UDP:
        return [_errors(internet, probes.of(kind != SILENCE))]
    exceeded, reached = kind == TIME_EXCEEDED, kind == REACHED
    if protocol == ICMP:
        is_request = probes.packets[:, 20] == ECHO_REQUEST
        return [
            _errors(internet, probes.of(exceeded & is_request)),
            _echoes(probes.of(reached & is_request)),
        ]
    return [_errors(internet, probes.of(exceeded)), _resets(probes.of(reached & (probes.packets[:, 33] == SYN)))]


def _errors(internet: SyntheticInternet, probes: _Probes) -> Replies:
    """Time exceeded, and port unreachable of whom a probe reached."""
    packets, probe, met = probes
    quoted = min(packets.shape[1], ERROR_ROOM - IP_BYTES - ICMP_BYTES)
    replies = np.zeros((len(packets), IP_BYTES + ICMP_BYTES + quoted), np.uint8)
    quote = replies[:, 28:]
    quote[:] = packets[:, :quoted]
    quote[:, 8] = met.quoted_ttl
    _seal(quote, 5, slice(0, 10))
    replies[:, 20:22] = np.frombuffer(TIME_EXCEEDED_HEAD + PORT_UNREACHABLE_HEAD, np.uint8).reshape(2, 2)[
        (met.kind == REACHED).astype(np.intp)
    ]
    _seal(replies, CHECKSUM_WORD[ICMP], slice(10, None))
    _address(replies, probes, ICMP, int(internet.source))
    return Replies(replies, probe, met.rtt_ns)


def _echoes(probes: _Probes) -> Replies:
    packets, probe, met = probes
    replies = packets.copy()
    replies[:, 20] = 0
    _seal(replies, CHECKSUM_WORD[ICMP], slice(10, None))
    _address(replies, probes, ICMP, None)
    return Replies(replies, probe, met.rtt_ns)


def _resets(probes: _Probes) -> Replies:
    """The destination's ports are all closed. Source: RFC 9293 3.10.7.1."""
    packets, probe, met = probes
    replies = np.zeros((len(packets), SHORTEST[TCP]), np.uint8)
    replies[:, 20:22], replies[:, 22:24] = packets[:, 22:24], packets[:, 20:22]
    replies[:, 28:32].view(">u4")[:, 0] = packets[:, 24:28].view(">u4")[:, 0] + np.uint32(1)
    replies[:, 32], replies[:, 33] = 0x50, RST_ACK
    replies[:, 12:16], replies[:, 16:20] = packets[:, 16:20], packets[:, 12:16]
    replies[:, 9], replies[:, 11] = TCP, SHORTEST[TCP] - IP_BYTES
    _seal(replies, CHECKSUM_WORD[TCP], slice(4, None))  # with protocol, length and addresses: the pseudo-header
    _address(replies, probes, TCP, None)
    return Replies(replies, probe, met.rtt_ns)


def _address(replies: Rows, probes: _Probes, protocol: int, destination: int | None) -> None:
    """Fill in the IP header, whose rest of the packet is done; the probe's source is `destination` unless given."""
    met = probes.met
    hops = probes.packets[:, 8] - met.quoted_ttl
    replies[:, 12:16].view(">u4")[:, 0] = met.responder
    if destination is None:
        replies[:, 16:20] = probes.packets[:, 12:16]
    else:
        replies[:, 16:20].view(">u4")[:, 0] = destination
    replies[:, 0], replies[:, 1] = IHL_5, 0
    replies[:, 2:4].view(">u2")[:, 0] = replies.shape[1]
    replies[:, 4:8] = 0
    replies[:, 8] = np.where(met.kind == REACHED, HOSTS_TTL, ROUTERS_TTL) - hops
    replies[:, 9] = protocol
    _seal(replies, 5, slice(0, 10))


def _words(rows: Rows) -> Words:
    """(n, words): in this machine's byte order, which a one's complement sum does not mind; odd rows are padded."""
    if rows.shape[1] % 2:
        rows = np.concatenate([rows, np.zeros((len(rows), 1), np.uint8)], axis=1)
    return rows.view(np.uint16)


def _sum(words: Words) -> NDArray[np.uint32]:
    """(n,): the one's complement sum of each row."""
    return _fold(words.sum(axis=1, dtype=np.uint32))


def _fold(total: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """End-around carry, as `checksum.fold`."""
    total = (total & MASK) + (total >> 16)
    return (total & MASK) + (total >> 16)


def _seal(rows: Rows, at: int, summed: slice) -> None:
    """Set the checksum, word `at`, of the words `summed` of each row."""
    checksum = rows[:, 2 * at : 2 * at + 2].view(np.uint16)[:, 0]
    checksum[:] = 0
    checksum[:] = ~_sum(_words(rows)[:, summed]).astype(np.uint16)
