"""A reply that names no probe of a window is given to one only when no other TTL of its destination can be meant."""

from __future__ import annotations

from allhops.net.errqueue.in_flight import InFlight
from allhops.wire.codec import encode_mark

MS = 1_000_000
PATIENCE = 1_000 * MS
A, B = b"\x0a\0\0\x01", b"\x0a\0\0\x02"
ROUTER = b"\xc0\0\2\x01"
KEY = 0xBEEF


def name(ttl: int, attempt: int = 0) -> bytes:
    return b"cook" + encode_mark(ttl, attempt, KEY).to_bytes(2) + b"ba"


def sent(*probes: tuple[bytes, int], at_ns: int = 0) -> InFlight:
    in_flight = InFlight(PATIENCE)
    for destination, ttl in probes:
        in_flight.sent(destination, name(ttl), at_ns)
    return in_flight


def test_the_only_probe_of_its_destination_is_meant_whatever_is_out_to_others() -> None:
    in_flight = sent((A, 3), (B, 3), (B, 4))
    assert in_flight.only_possible(B, ROUTER, MS) is None
    assert in_flight.only_possible(A, ROUTER, MS) == name(3)
    assert in_flight.only_possible(A, ROUTER, MS) is None, "and is answered now"
    assert len(in_flight) == 2


def test_what_was_answered_by_name_is_not_meant() -> None:
    in_flight = sent((A, 3), (A, 4))
    in_flight.answered(A, name(4))
    in_flight.answered(A, name(4))
    assert in_flight.only_possible(A, ROUTER, MS) == name(3)


def test_attempts_at_one_ttl_are_answered_in_the_order_of_leaving() -> None:
    in_flight = InFlight(PATIENCE)
    for attempt in range(3):
        in_flight.sent(A, name(5, attempt), attempt * MS)
    taken = [in_flight.only_possible(A, ROUTER, 9 * MS) for _ in range(4)]
    assert taken == [name(5, 0), name(5, 1), name(5, 2), None]


def test_a_probe_that_was_waited_for_in_vain_is_not_meant() -> None:
    in_flight = sent((A, 3))
    in_flight.sent(A, name(4), PATIENCE)
    assert in_flight.only_possible(A, ROUTER, PATIENCE) is None
    assert in_flight.only_possible(A, ROUTER, PATIENCE + 1) == name(4)


def test_a_reply_older_than_the_probe_is_not_its() -> None:
    assert sent((A, 3), at_ns=5 * MS).only_possible(A, ROUTER, 4 * MS) is None


def test_a_responder_is_not_put_at_a_second_ttl_of_a_path() -> None:
    """The network may have repeated its reply to the probe before."""
    in_flight = sent((A, 3), (B, 4))
    assert in_flight.only_possible(A, ROUTER, MS) == name(3)
    in_flight.sent(A, name(5), 2 * MS)
    assert in_flight.only_possible(A, ROUTER, 3 * MS) is None
    assert in_flight.only_possible(B, ROUTER, 3 * MS) == name(4), "of another path it may be"
    assert in_flight.only_possible(A, B, 3 * MS) == name(5)


def test_the_old_are_forgotten() -> None:
    in_flight = InFlight(PATIENCE)
    for second in range(10):
        in_flight.age(second * 1_000 * MS + second)
        in_flight.sent(A, name(second + 1), second * 1_000 * MS + second)
        assert len(in_flight) <= 2
    in_flight.age(0)
    in_flight.age(1)
    assert len(in_flight) <= 2, "the clock was set back"
