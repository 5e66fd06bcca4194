"""Answers of the kernel's routing tables: recorded, cut and forged. And what is said without netlink."""

from __future__ import annotations

import errno
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.errors import AllhopsError, SendError, UsageError, explain_errno
from allhops.net.batch import netlink, routes
from allhops.net.batch.group import Group
from allhops.net.batch.netlink import ATTRIBUTE, ERROR, MESSAGE, Answers
from allhops.net.batch.routes import _Question, _read
from allhops.net.batch.wire import Way
from allhops.options import TraceOptions

# `ip route get` on Linux 6.18, in a namespace with 10.200.0.1/24 and fd00:200::1/64 on interface 2.
BY_ROUTER = bytes.fromhex(
    "7000000018000000000000009243000002200000fe0000010002000008000f00fe00000008000100c0000207080004000200000008000700"
    "0ac80001080005000ac80002080019000000000024000c000200000000000000000000000000000000000000000000000000000000000000"
)
BY_IPV6_ROUTER = bytes.fromhex(
    "8000000018000000010000009243000002200000fe0000010002000008000f00fe000000080001000a090101080004000200000008000700"
    "0ac80001160012000a00fd0002000000000000000000000000020000080019000000000024000c0002000000000000000000000000000000"
    "00000000000000000000000000000000"
)
BROADCAST = bytes.fromhex(
    "6800000018000000020000009243000002200000fe0000030002009008000f00fe000000080001000ac800ff080004000200000008000700"
    "0ac80001080019000000000024000c000200000000000000000000000000000000000000000000000000000000000000"
)
IPV6 = bytes.fromhex(
    "b00000001800000003000000924300000a808000fe0300010000000008000f00fe0000001400010020010db8000000000000000000000007"
    "140002000000000000000000000000000000000014000700fd000200000000000000000000000001080006000004000014000500fd000200"
    "000000000000000000000002080004000200000024000c000200000000000000000000000000000000000000000000000000000000000000"
    "0500140000000000"
)
ANY_IPV4, ANY_IPV6 = _Question(4, 0, b""), _Question(6, 0, b"")
TYPE = MESSAGE.size + 7
LISTED, DONE = MESSAGE.pack(28, 24, 0, 0, 0) + bytes(12), MESSAGE.pack(20, netlink.DONE, 0, 0, 0) + bytes(4)


def packed(text: str) -> bytes:
    return ip_address(text).packed


def numbered(message: bytes, sequence: int) -> bytes:
    return message[:8] + sequence.to_bytes(4, "little") + message[12:]


def refusal(sequence: int, code: int) -> bytes:
    body = (-code).to_bytes(4, "little", signed=True) + bytes(MESSAGE.size)
    return MESSAGE.pack(MESSAGE.size + len(body), ERROR, 0, sequence, 0) + body


def read(answers: Answers, question: _Question) -> list[Way | int]:
    """Ways, and in their place the codes that say why there is none."""
    kinds: dict[Way | AllhopsError, int] = {}
    of, codes, _ = _read(answers, question, kinds)
    ways = [way for way in kinds if isinstance(way, Way)]
    return [ways[way] if way >= 0 else code for way, code in zip(of.tolist(), codes.tolist(), strict=True)]


def answers(*messages: bytes, first: int = 0) -> Answers:
    """As they come off the socket, cut where they do not fit."""
    rows = bytearray(len(messages) * netlink._ANSWER_SIZE)
    for at, one in enumerate(messages):
        kept = one[: netlink._ANSWER_SIZE]
        rows[at * netlink._ANSWER_SIZE : at * netlink._ANSWER_SIZE + len(kept)] = kept
    matrix = np.frombuffer(rows, np.uint8).reshape(len(messages), -1)
    return netlink._sorted(matrix, np.array([len(one) for one in messages]), first)


def test_recorded_answers_are_read() -> None:
    ipv4 = answers(*(numbered(one, at) for at, one in enumerate((BY_ROUTER, BY_IPV6_ROUTER, BROADCAST))))
    assert read(ipv4, ANY_IPV4) == [
        Way(4, packed("10.200.0.1"), 2, packed("10.200.0.2")),
        Way(4, packed("10.200.0.1"), 2, packed("fd00:200::2")),
        routes._IS_BROADCAST,
    ]
    assert read(answers(numbered(IPV6, 0)), ANY_IPV6) == [Way(6, packed("fd00:200::1"), 2, packed("fd00:200::2"))]


def test_answers_find_their_questions_in_whatever_order() -> None:
    shuffled = answers(numbered(BROADCAST, 12), refusal(10, errno.EHOSTUNREACH), numbered(BY_ROUTER, 11), first=10)
    unreachable, way, broadcast = read(shuffled, ANY_IPV4)
    assert (unreachable, broadcast) == (errno.EHOSTUNREACH, routes._IS_BROADCAST)
    assert isinstance(way, Way)


def test_a_question_that_nobody_answers_is_left_open() -> None:
    foreign = numbered(BY_ROUTER, 99)
    assert read(answers(foreign, numbered(BY_ROUTER, 1)), ANY_IPV4)[0] == 0
    assert read(answers(refusal(0, errno.EOPNOTSUPP)), ANY_IPV6) == [0]


@pytest.mark.parametrize(
    ("kind", "code"), [(6, errno.EINVAL), (7, errno.EHOSTUNREACH), (8, errno.EACCES), (9, errno.ENETUNREACH)]
)
def test_routes_that_forbid_are_errors(kind: int, code: int) -> None:
    forbidding = bytearray(numbered(IPV6, 0))
    forbidding[TYPE] = kind
    assert read(answers(bytes(forbidding)), ANY_IPV6) == [code]


def test_a_source_that_was_asked_for_is_the_source() -> None:
    question = _Question(4, 0, packed("10.200.0.9"))
    (way,) = read(answers(numbered(BY_ROUTER, 0)), question)
    assert isinstance(way, Way)
    assert way.source == packed("10.200.0.9")


def test_ways_that_are_alike_are_one() -> None:
    first, second = read(answers(numbered(BY_ROUTER, 0), numbered(BY_ROUTER, 1)), ANY_IPV4)
    assert first is second


@pytest.mark.parametrize("message", [BY_ROUTER, BY_IPV6_ROUTER, IPV6])
def test_a_cut_answer_is_no_other_way(message: bytes) -> None:
    question = ANY_IPV6 if message is IPV6 else ANY_IPV4
    (whole,) = read(answers(numbered(message, 0)), question)
    assert isinstance(whole, Way)
    for length in range(len(message)):
        honest = len(message[:length]).to_bytes(4, "little") + numbered(message, 0)[4:length]
        for cut in (numbered(message, 0)[:length], honest):
            (way,) = read(answers(cut), question)
            assert way in (0, whole, whole._replace(next_hop=None))


@given(st.binary(max_size=80), st.integers(MESSAGE.size, 160), st.sampled_from([BY_ROUTER, BY_IPV6_ROUTER, IPV6]))
def test_no_answer_raises(noise: bytes, at: int, message: bytes) -> None:
    spoilt = numbered(message, 0)[:at] + noise + numbered(message, 0)[at + len(noise) :]
    for question in (ANY_IPV4, ANY_IPV6):
        (way,) = read(answers(spoilt), question)
        assert isinstance(way, Way | int)


def test_an_attribute_of_length_0_ends_the_walk() -> None:
    endless = MESSAGE.pack(60, 24, 0, 0, 0) + bytes(12) + ATTRIBUTE.pack(0, 4) + bytes(28)
    assert read(answers(endless), ANY_IPV4) == [0]


LOOPBACK = Group.of([ip_address("127.0.0.1"), ip_address("127.9.9.9")])


def test_loopback_is_reached_from_itself() -> None:
    ways = routes.ways(LOOPBACK, TraceOptions())
    assert len(ways.of) == 2
    for kind in ways.of.tolist():
        way = ways.kinds[kind]
        assert isinstance(way, Way)
        assert (way.source, way.next_hop) == (packed("127.0.0.1"), None)


def test_without_netlink_sockets_are_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError(errno.EPERM, "no netlink here")

    monkeypatch.setattr(routes, "Netlink", refuse)
    ways = routes.ways(LOOPBACK, TraceOptions())
    assert (ways.kinds, ways.of.tolist()) == ([Way(4, packed("127.0.0.1"), 0, None)], [0, 0])


def test_what_there_is_not_is_refused_for_all() -> None:
    for options in (TraceOptions(interface="no-such"), TraceOptions(source="192.0.2.77"), TraceOptions(source="x")):
        with pytest.raises(UsageError):
            routes.ways(LOOPBACK, options)


def test_destinations_of_the_other_version_are_refused() -> None:
    options = TraceOptions(source="127.0.0.1")
    (way,) = routes.ways(LOOPBACK, options).kinds
    (refused,) = routes.ways(Group.of([ip_address("::1")]), options).kinds
    assert isinstance(way, Way)
    assert isinstance(refused, UsageError)


def test_errors_speak_as_those_of_a_socket() -> None:
    error = routes._error(LOOPBACK.address(0), errno.EACCES)
    assert isinstance(error, SendError)
    assert str(error) == f"{LOOPBACK.names[0]}: {explain_errno(errno.EACCES)}"


@pytest.mark.parametrize(
    ("pieces", "entries"),
    [
        ([LISTED + LISTED, LISTED + DONE], 3),
        ([LISTED + MESSAGE.pack(28, 24, netlink.INTERRUPTED, 0, 0) + bytes(12), DONE], None),
        ([LISTED + refusal(0, errno.EPERM)], None),
        ([LISTED * 5, DONE], None),
        ([bytes(64)], None),
    ],
)
def test_a_list_is_whole_or_none(pieces: list[bytes], entries: int | None) -> None:
    asking, waiting = netlink.Netlink(), iter(pieces)
    asking.close()
    heard: Any = SimpleNamespace(send=len, recv=lambda *_: next(waiting))
    asking._sock = heard
    listed = asking.dump(26, bytes(12), 4)
    assert (None if listed is None else len(listed)) == entries
