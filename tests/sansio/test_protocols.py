"""Every bundled scenario by every protocol over both families: each row shows whom that TTL must show."""

from __future__ import annotations

import pytest

from allhops.errors import UsageError
from allhops.model import (
    Evidence,
    InterfaceInfo,
    MplsLabel,
    PortState,
    Protocol,
    Reply,
    ReplyFlag,
    StopReason,
    UnknownObject,
)
from allhops.testing.internet import Internet
from allhops.testing.scenario_file import bundled_scenarios, load_scenario
from allhops.testing.virtual import VirtualTrace

V4, V6 = "203.0.113.9", "2001:db8:9::9"
DESTINATIONS = {4: V4, 6: V6}

EVERY_PATH = [
    (name, str(network[0]))
    for name in bundled_scenarios()
    for path in load_scenario(name).paths
    for network in path.destinations
]

UNPROVABLE = {
    ("lying_quotes", Protocol.UDP): {7, 9},
    ("lying_quotes", Protocol.ICMP): {7, 8, 9},
    ("lying_quotes", Protocol.TCP): {9},
    ("odd_sources", None): {2, 3, 4},
    ("short_quotes", None): {4, 5},
    ("short_quotes", Protocol.UDP, 6): {2, 3, 4, 5},
}
"""TTLs whose routers answer and cannot be believed: the payload or the checksum is false, the quote too short to name
the probe, the responder impossible."""


def played(scenario: str, destination: str, protocol: Protocol) -> VirtualTrace:
    virtual = VirtualTrace(Internet(load_scenario(scenario)), destination, protocol=protocol)
    virtual.run()
    return virtual


def rows(virtual: VirtualTrace) -> dict[int, set[str]]:
    return {
        hop.ttl: {str(probe.reply.address) for probe in hop.probes if probe.reply is not None}
        for hop in virtual.trace.hops
    }


@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize(("scenario", "destination"), EVERY_PATH)
def test_rows_are_the_truth(scenario: str, destination: str, protocol: Protocol) -> None:
    virtual = played(scenario, destination, protocol)
    version = 6 if ":" in destination else 4
    possible = virtual.internet.possible(destination, protocol=protocol)
    try:
        truth = virtual.internet.truth(destination, packet=virtual.sent[0], protocol=protocol)
    except UsageError:  # balanced by packet: no flow has one truth
        truth = ()
    silent = next(
        (
            UNPROVABLE[key]
            for key in ((scenario, protocol, version), (scenario, protocol), (scenario, None))
            if key in UNPROVABLE
        ),
        set(),
    )
    for ttl, heard in rows(virtual).items():
        assert heard <= {str(address) for address in possible[min(ttl, len(possible)) - 1]}
        if ttl <= len(truth):
            must = truth[ttl - 1].address
            assert heard == (set() if must is None or ttl in silent else {str(must)}), ttl


def reply_at(virtual: VirtualTrace, ttl: int) -> Reply:
    reply = virtual.trace.hops[ttl - 1].probes[0].reply
    assert reply is not None
    return reply


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", Protocol)
def test_hops_behind_a_nat_are_matched_and_marked(protocol: Protocol, version: int) -> None:
    for scenario in ("nat", "nat_restoring"):
        virtual = played(scenario, DESTINATIONS[version], protocol)
        quoting = [ttl for ttl in range(1, 7) if reply_at(virtual, ttl).quoted_ttl is not None]
        marked = [ttl for ttl in quoting if ReplyFlag.NAT in reply_at(virtual, ttl).flags]
        assert marked == [ttl for ttl in quoting if ttl > 2]
        assert Evidence.COOKIE in reply_at(virtual, 3).matched
        assert virtual.counters.forged == virtual.counters.foreign == 0


def test_what_a_nat_kept_is_what_a_hop_behind_it_is_matched_on() -> None:
    unaware = reply_at(played("nat", V4, Protocol.UDP), 3)
    assert unaware.matched == ("dst", "ip_id", "cookie", "checksum", "mark")
    half = reply_at(played("nat_restoring", V4, Protocol.UDP), 3)
    assert half.matched == ("dst", "ports", "ip_id", "cookie", "mark")


@pytest.mark.parametrize("protocol", Protocol)
def test_short_quotes_are_matched_on_what_there_is(protocol: Protocol) -> None:
    virtual = played("short_quotes", V4, protocol)
    for ttl in (2, 3):
        reply = reply_at(virtual, ttl)
        assert reply.flags == (ReplyFlag.SHORT_QUOTE,)
        assert Evidence.COOKIE not in reply.matched
        assert {Evidence.DST, Evidence.IP_ID} <= set(reply.matched)
        assert {Evidence.CHECKSUM, Evidence.SEQUENCE} & set(reply.matched)
    assert virtual.counters.malformed == 8  # two rows, three attempts and one more each


@pytest.mark.parametrize("version", [4, 6])
def test_a_quote_too_short_to_name_its_probe_is_counted(version: int) -> None:
    virtual = played("short_quotes", DESTINATIONS[version], Protocol.UDP)
    assert virtual.counters.unnamed == {4: 0, 6: 8}[version]


@pytest.mark.parametrize("version", [4, 6])
def test_tcp_says_whether_the_port_is_open(version: int) -> None:
    opened = played("tcp_open", DESTINATIONS[version], Protocol.TCP)
    closed = played("nat", DESTINATIONS[version], Protocol.TCP)
    for virtual, state in ((opened, PortState.OPEN), (closed, PortState.CLOSED)):
        reply = virtual.trace.hops[-1].probes[0].reply
        assert reply is not None
        assert reply.port_state is state
        assert reply.icmp_type is reply.icmp_code is reply.quoted_ttl is reply.quoted_tos is None
        assert reply.matched == ("dst", "ports", "sequence")
        assert virtual.trace.stop_reason is StopReason.REACHED


def test_a_datagram_that_brings_the_payload_back_reaches() -> None:
    virtual = played("tcp_open", V4, Protocol.UDP)
    reply = virtual.trace.hops[-1].probes[0].reply
    assert reply is not None
    assert reply.port_state is PortState.OPEN
    assert reply.matched == ("dst", "ports", "cookie", "mark")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [Protocol.UDP, Protocol.ICMP])
def test_an_alias_of_the_destination_is_marked(protocol: Protocol, version: int) -> None:
    virtual = played("alias_destination", DESTINATIONS[version], protocol)
    reply = virtual.trace.hops[-1].probes[0].reply
    assert reply is not None
    assert reply.flags == (ReplyFlag.ALT_ADDR,)


@pytest.mark.parametrize("protocol", Protocol)
def test_duplicates_are_counted_beside_the_first(protocol: Protocol) -> None:
    virtual = played("duplicates", V4, protocol)
    replies = [probe.reply for hop in virtual.trace.hops for probe in hop.probes if probe.reply is not None]
    twice = [reply for reply in replies if reply.duplicates]
    assert twice
    assert all(ReplyFlag.DUPLICATE in reply.flags for reply in twice)
    assert not [reply for reply in replies if ReplyFlag.SPOOF_SUSPECT in reply.flags]
    assert sum(reply.duplicates for reply in replies) <= virtual.counters.duplicate


def test_label_stacks_and_interfaces_are_read() -> None:
    for destination in (V4, V6):
        virtual = played("mpls", destination, Protocol.UDP)
        assert reply_at(virtual, 1).extensions == ()
        assert reply_at(virtual, 2).extensions == (
            MplsLabel(label=16001, traffic_class=0, bottom_of_stack=True, ttl=1),
        )
        assert reply_at(virtual, 3).extensions == (
            MplsLabel(label=16002, traffic_class=5, bottom_of_stack=True, ttl=1),
        )
        first, second, third = reply_at(virtual, 4).extensions
        assert first == MplsLabel(label=16003, traffic_class=0, bottom_of_stack=False, ttl=1)
        assert second == MplsLabel(label=24005, traffic_class=0, bottom_of_stack=True, ttl=2)
        assert isinstance(third, InterfaceInfo | UnknownObject)
        assert virtual.counters.extension_error == 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", Protocol)
def test_broken_extensions_cost_no_hop(protocol: Protocol, version: int) -> None:
    virtual = played("broken_extensions", DESTINATIONS[version], protocol)
    assert len(virtual.trace.hops) == 9
    assert all(reply_at(virtual, ttl).extensions == () for ttl in range(1, 10))
    answered = sum(probe.reply is not None for hop in virtual.trace.hops[:7] for probe in hop.probes)
    assert virtual.counters.extension_error == answered == 21


def test_what_the_quote_shows_of_tos_and_ttl() -> None:
    virtual = VirtualTrace(Internet(load_scenario("lying_quotes")), V6, tos=0xB8)
    virtual.run()
    assert [reply_at(virtual, ttl).quoted_tos for ttl in (1, 2, 3, 4)] == [0xB8, 0xB8, 0x20, 0xB8]
    assert [reply_at(virtual, ttl).quoted_ttl for ttl in (1, 2, 3, 4)] == [1, 1, 1, 3]


def test_a_late_reply_leaves_its_row_lost() -> None:
    virtual = VirtualTrace(Internet(load_scenario("slow_first_hop")), V4, timeout=0.05, protocol=Protocol.ICMP)
    trace = virtual.run()
    late = [probe for hop in trace.hops for probe in hop.probes if probe.late_rtt_ns is not None]
    assert all(probe.reply is None and (probe.late_rtt_ns or 0) > 0 for probe in late)
    assert len(late) == virtual.counters.late


def test_dont_fragment_and_flow_label_leave_as_asked() -> None:
    virtual = VirtualTrace(Internet(load_scenario("chain")), V4, dont_fragment=True)
    virtual.run()
    assert all(int.from_bytes(packet[6:8]) == 0x4000 for packet in virtual.sent)
    virtual = VirtualTrace(Internet(load_scenario("chain")), V6, flow_label=0xABCDE, tos=0x28)
    virtual.run()
    assert {packet[:4].hex() for packet in virtual.sent} == {"628abcde"}
