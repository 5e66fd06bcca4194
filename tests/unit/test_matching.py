"""Which slot a reply names, on what evidence; and that nobody who does not know the secrets changes a row."""

from __future__ import annotations

import random

import pytest

from allhops.core.evidence import evidence_in, flags_in
from allhops.core.ledger import ANSWERED, IN_FLIGHT, MAX_GUESSES, TIMED_OUT, UNSENT
from allhops.core.paths import hop_from
from allhops.model import Evidence, Protocol, ReplyFlag
from allhops.testing.packets import ACK, LAYOUTS, RST, SYN
from benchmarks.replies import (
    COOKIE,
    DESTINATIONS,
    ROUTERS,
    SOURCES,
    STAMP_NS,
    Bench,
    changed,
    datagram,
    echo_reply,
    error_about,
    plan_for,
    probe_of,
    tcp_answer,
    valid_replies,
)

EVERY_TYPE = [(protocol, version) for protocol in Protocol for version in (4, 6)]
TTL, ATTEMPT = 7, 1


def bench(protocol: Protocol = Protocol.UDP, version: int = 4) -> Bench:
    return Bench(plan_for(protocol, version))


def transport_at(version: int) -> int:
    return LAYOUTS[version].header_bytes


@pytest.mark.parametrize(("protocol", "version"), EVERY_TYPE)
def test_every_true_reply_names_its_probe(protocol: Protocol, version: int) -> None:
    for reply in valid_replies(protocol, version):
        one = bench(protocol, version)
        answered = one.receive(reply)
        unnamed = (protocol, version) == (Protocol.UDP, 6) and len(reply) == 40 + 8 + 48
        assert answered == ([] if unnamed else [one.plan.slot(0, TTL, ATTEMPT)])
        assert one.counters.unnamed == unnamed
        assert one.counters.foreign == one.counters.forged == one.counters.malformed == 0


@pytest.mark.parametrize("payload", [0, 1, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("version", [4, 6])
def test_an_echo_reply_needs_no_payload_but_may_not_have_a_false_one(version: int, payload: int) -> None:
    one = bench(Protocol.ICMP, version)
    probe = probe_of(one.plan)
    (slot,) = one.receive(echo_reply(probe, payload=payload))
    shown = evidence_in(one.ledger.matched[slot])
    assert shown[0] is Evidence.DST
    assert {Evidence.SEQUENCE, Evidence.IDENTIFIER} <= set(shown)
    assert (Evidence.COOKIE in shown) == (payload >= 4)
    at = transport_at(version) + 8
    stranger = changed(probe, at, b"\1\2\3\4")
    other = bench(Protocol.ICMP, version)
    assert other.receive(echo_reply(stranger)) == []
    assert other.counters.foreign == 1


@pytest.mark.parametrize("version", [4, 6])
def test_what_tcp_answers_must_acknowledge(version: int) -> None:
    probe = probe_of(plan_for(Protocol.TCP, version))
    for flags in (SYN | ACK, RST | ACK):
        for shift, believed in ((1, True), (0, False), (2, False), (0x10001, False)):
            one = bench(Protocol.TCP, version)
            assert bool(one.receive(tcp_answer(probe, flags, shift=shift))) is believed
            assert one.counters.forged == (not believed)
    one = bench(Protocol.TCP, version)
    for flags in (SYN, ACK, RST, 0, ACK | 1):
        assert one.receive(tcp_answer(probe, flags)) == []
    assert one.counters.foreign == 5


def test_an_echoed_timestamp_is_the_cookie() -> None:
    probe = probe_of(plan_for(Protocol.TCP, 4))
    for echo, believed in ((COOKIE, True), (bytes(4), True), (b"\1\2\3\4", False)):
        one = bench(Protocol.TCP)
        answered = one.receive(tcp_answer(probe, echo=echo))
        assert bool(answered) is believed
        if believed:
            assert (Evidence.COOKIE in evidence_in(one.ledger.matched[answered[0]])) is (echo == COOKIE)


def test_a_datagram_without_our_payload_names_nothing() -> None:
    one = bench()
    assert one.receive(changed(datagram(probe_of(one.plan)), 28, b"dns!")) == []
    assert one.counters.foreign == 1
    assert one.counters.forged == 0


@pytest.mark.parametrize(("protocol", "version"), EVERY_TYPE)
@pytest.mark.parametrize("field", ["source", "destination", "port", "ip_id", "checksum"])
def test_with_the_cookie_a_nat_may_have_changed_the_rest(protocol: Protocol, version: int, field: str) -> None:
    one = bench(protocol, version)
    layout = one.plan.layout
    addresses = {4: bytes([198, 51, 100, 77]), 6: bytes.fromhex("20010db8007700000000000000000077")}
    at, value = {
        "source": (layout.family.source_offset, addresses[version]),
        "destination": (layout.family.destination_offset, addresses[version]),
        "port": (layout.flow_offset, b"\x12\x34"),
        "ip_id": (layout.family.id_offset or layout.flow_offset, b"\x12\x34"),
        "checksum": (layout.checksum_offset, b"\x12\x34"),
    }[field]
    (slot,) = one.receive(error_about(changed(probe_of(one.plan), at, value)))
    assert slot == one.plan.slot(0, TTL, ATTEMPT)
    assert flags_in(one.ledger.flags[slot]) == (ReplyFlag.NAT,)


@pytest.mark.parametrize("protocol", Protocol)
def test_without_the_cookie_nothing_may_differ(protocol: Protocol) -> None:
    probe = probe_of(plan_for(protocol, 4))
    for at in (12, 16, 20, 22, 24, 26):
        if at == 26 and protocol is Protocol.ICMP:
            continue  # the sequence: it names another probe, with other check bits, see below
        one = bench(protocol)
        believed = one.receive(error_about(changed(probe, at, b"\x12\x34"), quote=28))
        # A TCP quote of 28 bytes shows nothing that depends on the source address; a UDP length is nobody's business.
        harmless = (at == 12 and protocol is not Protocol.UDP) or (at == 24 and protocol is Protocol.UDP)
        assert bool(believed) is harmless, at


def test_a_short_quote_may_differ_by_exactly_what_a_nat_explains() -> None:
    """A NAT that changed the address alone: the quoted checksum, which covers it, differs by the same."""
    one = bench()
    probe = probe_of(one.plan)
    checksum = int.from_bytes(probe[26:28])
    behind = changed(probe, 12, bytes([192, 0, 2, 5]))
    assert one.receive(error_about(changed(behind, 26, (checksum - 4).to_bytes(2)), quote=28))
    slot = one.plan.slot(0, TTL, ATTEMPT)
    assert flags_in(one.ledger.flags[slot]) == (ReplyFlag.SHORT_QUOTE, ReplyFlag.NAT)
    assert Evidence.CHECKSUM in evidence_in(one.ledger.matched[slot])
    for wrong in (-5, -3, 0, 4):
        assert not bench().receive(error_about(changed(behind, 26, (checksum + wrong).to_bytes(2)), quote=28))


def test_zeros_behind_a_short_quote_are_padding() -> None:
    one = bench()
    short = probe_of(one.plan)[:28] + bytes(100)
    (slot,) = one.receive(error_about(short))
    assert flags_in(one.ledger.flags[slot]) == (ReplyFlag.SHORT_QUOTE,)


def test_a_second_responder_is_suspect_and_the_first_stays() -> None:
    one = bench()
    probe = probe_of(one.plan)
    (slot,) = one.receive(error_about(probe))
    assert one.receive(error_about(probe), stamp_ns=STAMP_NS + 5) == []
    assert flags_in(one.ledger.flags[slot]) == (ReplyFlag.DUPLICATE,)
    assert one.receive(error_about(probe, source=bytes([10, 0, 0, 8]))) == []
    assert flags_in(one.ledger.flags[slot]) == (ReplyFlag.DUPLICATE, ReplyFlag.SPOOF_SUSPECT)
    assert one.ledger.responder_of(slot, 4) == ROUTERS[4]
    assert one.ledger.duplicates[slot] == one.counters.duplicate == 2
    assert one.ledger.rtt_ns(slot) == 1_000_000


def test_a_late_reply_is_recorded_and_its_row_stays_lost() -> None:
    one = bench()
    slot = one.plan.slot(0, TTL, ATTEMPT)
    one.ledger.state[slot] = TIMED_OUT
    probe = probe_of(one.plan)
    assert one.receive(error_about(probe), error_about(probe), stamp_ns=STAMP_NS + 7) == []
    hop = hop_from(one.plan, one.ledger, TTL, [slot])
    assert hop.probes[0].reply is None
    assert hop.probes[0].late_rtt_ns == 1_000_007
    assert one.counters.late == 2


def test_a_probe_that_was_not_sent_is_not_answered() -> None:
    one = bench()
    one.ledger.state[one.plan.slot(0, TTL, ATTEMPT)] = UNSENT
    assert one.receive(error_about(probe_of(one.plan))) == []
    assert one.counters.forged == 1


@pytest.mark.parametrize("version", [4, 6])
def test_nobody_answers_from_an_address_that_nobody_has(version: int) -> None:
    size = {4: 4, 6: 16}[version]
    for first in (b"\0", b"\xff", *([b"\x7f", b"\xe0", b"\xf0"] if version == 4 else [])):
        one = bench(version=version)
        assert one.receive(error_about(probe_of(one.plan), source=first.ljust(size, b"\1"))) == []
        assert one.counters.forged == 1


# A forger knows both addresses, the destination port and this source, sees nothing, and has some seconds.

FORGED = 20_000


def forged_probe(protocol: Protocol, version: int, chance: random.Random, *, knows_port: bool) -> bytes:
    port = 40_000 if knows_port else chance.randrange(32_768, 65_536)
    plan = plan_for(protocol, version, source_port=port, key=chance.getrandbits(16))
    probe = probe_of(plan, ttl=chance.randint(1, 30), attempt=chance.randrange(3))
    layout = plan.layout
    probe = changed(probe, layout.cookie_offset, chance.randbytes(4))
    return changed(probe, layout.checksum_offset, chance.randbytes(2))


def states(one: Bench) -> set[int]:
    return set(one.ledger.state)


@pytest.mark.parametrize("knows_port", [False, True], ids=["port_unknown", "port_known"])
@pytest.mark.parametrize(("protocol", "version"), EVERY_TYPE)
def test_a_forger_changes_no_row(protocol: Protocol, version: int, knows_port: bool) -> None:
    chance = random.Random(f"{protocol}{version}{knows_port}")
    one = Bench(plan_for(protocol, version, asked_port=40_000 if knows_port else None))
    short = LAYOUTS[version].header_bytes + 8
    for _ in range(FORGED // 80):
        probes = [forged_probe(protocol, version, chance, knows_port=knows_port) for _ in range(20)]
        one.receive(*(error_about(probe) for probe in probes))
        one.receive(*(error_about(probe, quote=short) for probe in probes))
        if protocol is Protocol.ICMP:
            one.receive(*(echo_reply(probe) for probe in probes), *(echo_reply(probe, payload=0) for probe in probes))
        if protocol is Protocol.TCP:
            one.receive(*(tcp_answer(probe) for probe in probes), *(tcp_answer(probe, RST | ACK) for probe in probes))
    assert states(one) == {IN_FLIGHT}
    assert one.counters.matched == one.counters.malformed == 0
    assert one.counters.forged + one.counters.foreign + one.counters.unnamed > FORGED // 3
    assert one.ledger.is_under_attack or not knows_port


def test_who_guesses_long_enough_to_be_right_is_not_believed_any_more() -> None:
    one = bench()
    probe = probe_of(one.plan)
    wrong = changed(probe, 26, b"\x12\x34")
    one.receive(*(error_about(wrong, quote=28) for _ in range(MAX_GUESSES + 1)))
    assert one.receive(error_about(probe, quote=28)) == []
    assert one.receive(error_about(probe)) == [one.plan.slot(0, TTL, ATTEMPT)]


def test_guesses_at_an_identifier_are_noticed() -> None:
    one = bench(Protocol.ICMP)
    probe = probe_of(one.plan)
    strangers = [changed(probe, 24, number.to_bytes(2)) for number in range(1, MAX_GUESSES + 2)]
    one.receive(*(echo_reply(stranger, payload=0) for stranger in strangers))
    assert one.receive(echo_reply(probe, payload=0)) == []
    assert one.receive(echo_reply(probe)) == [one.plan.slot(0, TTL, ATTEMPT)]


def test_strangers_are_foreign_whatever_they_probe() -> None:
    for protocol in Protocol:
        for other in (one for one in Protocol if one is not protocol):
            one = bench(protocol)
            one.receive(error_about(probe_of(plan_for(other, 4))))
            assert one.counters.foreign == 1
    one = bench()
    elsewhere = changed(probe_of(plan_for(Protocol.UDP, 4, source_port=40_001)), 28, b"\1\2\3\4")
    one.receive(error_about(elsewhere))
    assert one.counters.foreign == 1
    assert states(one) == {IN_FLIGHT}
    assert SOURCES[4] != DESTINATIONS[4]


def test_the_first_reply_answers() -> None:
    one = bench()
    (slot,) = one.receive(error_about(probe_of(one.plan)))
    assert one.ledger.state[slot] == ANSWERED
