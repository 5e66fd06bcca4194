"""A reply that names no probe is given to one only when no other row's can be meant."""

from __future__ import annotations

import pytest

from allhops.net.errqueue.alone import QUIET_FACTOR, QUIET_NS, Outstanding

MS = 1_000_000
X, Y = b"\x0a\0\0\x01", b"\x0a\0\0\x02"


def name(ttl: int, attempt: int = 0) -> bytes:
    return bytes((ttl, attempt))


def burst(*ttls: int, at_ns: int = 0, attempts: int = 1) -> Outstanding:
    outstanding = Outstanding()
    for ttl in ttls:
        for attempt in range(attempts):
            outstanding.sent(name(ttl, attempt), ttl, at_ns, name(ttl, attempt))
    return outstanding


def test_a_burst_names_nobody() -> None:
    assert burst(1, 2, 3).only_possible(X, MS) is None


def test_the_last_row_that_is_out_is_meant() -> None:
    outstanding = burst(1, 2)
    outstanding.answered(name(1), MS)
    out = outstanding.only_possible(X, 2 * MS)
    assert out is not None
    assert out.packet == name(2)
    assert outstanding.only_possible(X, 2 * MS) is None, "and is answered now"


def test_a_row_asked_again_alone_is_meant_although_others_stayed_silent() -> None:
    outstanding = burst(1, 2, 3)
    outstanding.sent(name(2, 1), 2, QUIET_NS + 1, name(2, 1))
    out = outstanding.only_possible(X, QUIET_NS + MS)
    assert out is not None
    assert out.packet == name(2, 1)


def test_a_row_asked_again_too_soon_is_not() -> None:
    outstanding = burst(1, 2, 3)
    outstanding.sent(name(2, 1), 2, QUIET_NS - 1, name(2, 1))
    assert outstanding.only_possible(X, QUIET_NS + MS) is None


def test_slow_replies_lengthen_the_quiet_time() -> None:
    outstanding = burst(1, 2, 3)
    slow = QUIET_NS
    outstanding.answered(name(1), slow)
    again = QUIET_FACTOR * slow
    outstanding.sent(name(2, 1), 2, again - 1, name(2, 1))
    assert outstanding.only_possible(X, again + MS) is None
    outstanding.sent(name(2, 1), 2, again, name(2, 1))
    assert outstanding.only_possible(X, again + MS) is not None


def test_attempts_of_one_row_are_answered_in_the_order_of_leaving() -> None:
    outstanding = burst(7, attempts=3)
    taken = [outstanding.only_possible(X, MS) for _ in range(4)]
    assert [out.packet if out else None for out in taken] == [name(7, 0), name(7, 1), name(7, 2), None]


def test_a_responder_is_not_put_at_a_second_ttl() -> None:
    """The network may have repeated its reply to the row before."""
    outstanding = burst(3)
    assert outstanding.only_possible(X, MS) is not None
    outstanding.sent(name(5), 5, 2 * MS, name(5))
    assert outstanding.only_possible(X, 3 * MS) is None
    out = outstanding.only_possible(Y, 4 * MS)
    assert out is not None
    assert out.ttl == 5


def test_a_reply_older_than_the_probe_is_not_its() -> None:
    assert burst(3, at_ns=MS).only_possible(X, MS - 1) is None


@pytest.mark.parametrize("withdrawn", [0, 1])
def test_what_did_not_leave_is_not_out(withdrawn: int) -> None:
    outstanding = burst(1, 2)
    outstanding.withdraw(name(1 + withdrawn))
    out = outstanding.only_possible(X, MS)
    assert out is not None
    assert out.ttl == 2 - withdrawn
    assert len(outstanding) == 0
