"""The sieve lets through what a trace of ours would be given, and holds back everybody else's."""

from __future__ import annotations

import pytest

from allhops.core.lanes import Ring
from allhops.core.lanes.scalar import ScalarLane
from allhops.core.lanes.sieve import Sieve
from allhops.core.ledger import Counters
from allhops.model import Protocol
from allhops.testing.packets import LAYOUTS
from benchmarks.replies import COOKIE, changed, echo_reply, error_about, plan_for, probe_of, valid_replies

PORT = 40_000
PROBE_TYPES = [(protocol, version) for protocol in Protocol for version in (4, 6)]
OURS = {(version, number, PORT) for version in (4, 6) for number in (1, 6, 17, 58)}


def passes(sieve: Sieve, packet: bytes) -> bool:
    return sieve.passes(memoryview(packet))


def stranger(protocol: Protocol, version: int) -> bytes:
    """A probe of somebody else: neither our port nor our cookie."""
    probe = probe_of(plan_for(protocol, version, source_port=PORT + 1))
    return probe.replace(COOKIE, b"else")


@pytest.mark.parametrize(("protocol", "version"), PROBE_TYPES)
def test_the_flow_alone_is_enough_and_so_is_the_cookie(protocol: Protocol, version: int) -> None:
    by_flow, by_cookie = Sieve(OURS, ()), Sieve((), {COOKIE})
    for reply in valid_replies(protocol, version):
        assert passes(by_flow, reply)
        assert passes(by_cookie, reply) or COOKIE not in reply


@pytest.mark.parametrize(("protocol", "version"), PROBE_TYPES)
@pytest.mark.parametrize("quote", [None, 8])
def test_what_has_neither_is_counted_and_not_read(protocol: Protocol, version: int, quote: int | None) -> None:
    counters, ring = Counters(), Ring()
    reply = error_about(stranger(protocol, version), quote=quote and quote + LAYOUTS[version].header_bytes)
    ring.append(reply, 1)
    sieve = Sieve(OURS, {COOKIE})
    assert not passes(sieve, reply)
    assert ScalarLane(counters, sieve).unpack(ring) == []
    assert counters.foreign == 1


@pytest.mark.parametrize("version", [4, 6])
def test_an_echo_reply_that_may_be_a_guess_is_read(version: int) -> None:
    """So that guesses are counted: see Ledger.is_under_attack."""
    sieve, request = Sieve(OURS, {COOKIE}), stranger(Protocol.ICMP, version)
    assert passes(sieve, echo_reply(request, payload=0))
    assert not passes(sieve, echo_reply(request))


def test_options_in_the_quote_are_stepped_over() -> None:
    probe = stranger(Protocol.UDP, 4)
    with_options = changed(probe[:20] + b"\x01\x01\x01\x00" + probe[20:], 0, b"\x46")
    assert not passes(Sieve(OURS, ()), error_about(with_options))
    assert passes(Sieve({(4, 17, PORT + 1)}, ()), error_about(with_options))


@pytest.mark.parametrize(("protocol", "version"), PROBE_TYPES)
def test_what_is_cut_short_passes_or_not_but_never_raises(protocol: Protocol, version: int) -> None:
    sieve = Sieve((), ())
    for reply in valid_replies(protocol, version):
        for length in range(len(reply)):
            sieve.passes(memoryview(reply[:length]))
    assert passes(sieve, b"")
    assert passes(sieve, b"\x00" * 60)
