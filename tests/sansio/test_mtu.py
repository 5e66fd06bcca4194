"""Path MTU discovery against the simulated internet, on a virtual clock: every row has the MTU that it has."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from allhops.core.events import HopCertain, ResponderHeard
from allhops.model import Protocol, ReplyKind, StopReason, Verdict
from allhops.testing.internet import Internet
from allhops.testing.scenario import Limit
from allhops.testing.scenario_file import bundled_scenarios, load_scenario
from allhops.testing.virtual import VirtualTrace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allhops.model import Hop, Trace
    from allhops.testing.internet import Arrival
    from allhops.testing.scenario import Router, Scenario

DESTINATION = "203.0.113.9"
DESTINATIONS = (DESTINATION, "2001:db8:9::9")
PROTOCOLS = (Protocol.UDP, Protocol.ICMP)
ROUND_TRIP_S = 0.03
"""Of the destination in these scenarios."""
SEARCH_S = 0.5
"""What silence costs in a search: a quarter of the timeout."""
TAIL_S = 1.0
"""What silence at the end of a path costs."""


def play(scenario: str | Scenario, destination: str = DESTINATION, protocol: Protocol = Protocol.UDP) -> VirtualTrace:
    loaded = load_scenario(scenario) if isinstance(scenario, str) else scenario
    virtual = VirtualTrace(Internet(loaded), destination, protocol=protocol, discover_mtu=True)
    virtual.run()
    return virtual


def changed(scenario: str, **routers: Mapping[str, Any]) -> Scenario:
    """A bundled scenario with some fields of some routers changed."""
    loaded = load_scenario(scenario)

    def change(key: str, router: Router) -> Router:
        return replace(router, **routers.get(key, {}))

    return replace(loaded, routers={key: change(key, router) for key, router in loaded.routers.items()})


def sizes(trace: Trace) -> list[int | None]:
    return [hop.mtu for hop in trace.hops]


def answers(hop: Hop) -> set[str]:
    return {str(probe.reply.address) for probe in hop.probes if probe.reply is not None}


def asked(virtual: VirtualTrace) -> list[int]:
    """The sizes that were sent, in the order of their first packets."""
    return list(dict.fromkeys(map(len, virtual.sent)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("destination", DESTINATIONS)
@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        ("chain", [1500] * 6),
        ("small_mtu", [1500] * 3 + [1280] * 3),
        ("two_bottlenecks", [9000] * 2 + [1500] * 2 + [1400] * 2),
        ("black_hole", [1500] * 3 + [1438] * 3),
        ("mtu_zero", [1500] * 2 + [1300] * 4),
        ("tunnel", [1500] * 2 + [1476] + [1444] * 3),
        ("mtu_lies", [1500] * 2 + [1420] * 2 + [1380] * 2),
    ],
)
def test_every_row_has_its_mtu(scenario: str, expected: list[int], destination: str, protocol: Protocol) -> None:
    virtual = play(scenario, destination, protocol)
    trace = virtual.trace
    assert trace.stop_reason is StopReason.REACHED
    assert sizes(trace) == expected
    assert trace.path_mtu == expected[-1]
    truth = virtual.internet.truth(destination, protocol=protocol)
    assert [answers(hop) for hop in trace.hops] == [{str(hop.address)} - {"None"} for hop in truth]
    assert virtual.counters.forged == virtual.counters.foreign == virtual.counters.malformed == 0


@pytest.mark.parametrize("scenario", ["chain", "small_mtu", "two_bottlenecks"])
def test_a_change_of_size_costs_one_round_trip(scenario: str) -> None:
    virtual = play(scenario)
    assert len(asked(virtual)) == len({*sizes(virtual.trace)})
    assert virtual.trace.duration_ns / 1e9 < len(asked(virtual)) * (ROUND_TRIP_S + 0.001)


def test_sizes_that_nobody_names_are_searched_at_the_speed_of_answers() -> None:
    """The router says "too big" to each that is; nothing is waited for but for the next one's turn."""
    assert play("mtu_zero").trace.duration_ns / 1e9 < SEARCH_S + 4 * ROUND_TRIP_S


def test_a_black_hole_costs_its_silence_and_a_second_of_search() -> None:
    """Silence is waited for twice: for what is larger than the best common size, and than the best of all."""
    assert play("black_hole").trace.duration_ns / 1e9 < TAIL_S + 2.5 * SEARCH_S + 10 * ROUND_TRIP_S


def test_larger_sizes_leave_before_smaller_ones_and_none_that_need_not() -> None:
    """So that a router that limits its answers has some left for the sizes that count."""
    sizes_asked = asked(play("black_hole"))
    assert sizes_asked[:2] == [1500, 60]
    common = sizes_asked[2 : sizes_asked.index(1420) + 1]
    assert common == [1492, 1480, 1476, 1472, 1462, 1460, 1450, 1440, 1420]
    assert min(sizes_asked[2:]) > 1350  # at most what is under way within a round trip


def test_what_is_silent_whatever_the_size_is_no_black_hole() -> None:
    virtual = play("silent_destination")
    trace = virtual.trace
    assert trace.stop_reason is StopReason.GAP_LIMIT
    assert trace.path_mtu is None
    assert sizes(trace) == [1500] * 6 + [None] * 5
    assert asked(virtual) == [1500, 60]


@pytest.mark.parametrize("destination", DESTINATIONS)
def test_a_path_that_ends_in_a_refusal_is_not_asked_for_less(destination: str) -> None:
    virtual = play("admin_prohibited", destination)
    assert virtual.trace.stop_reason is StopReason.UNREACHABLE
    assert virtual.trace.path_mtu is None
    assert asked(virtual) == [1500]


def test_who_says_too_big_to_everything_ends_the_path() -> None:
    """A firewall that abuses the message, and names no size."""
    scenario = changed("chain", r3={"mtu": 30, "mtu_told": 0})
    trace = play(scenario).trace
    assert trace.stop_reason is StopReason.UNREACHABLE
    assert sizes(trace)[:3] == [1500] * 3
    assert trace.path_mtu is None
    reply = trace.hops[3].probes[0].reply
    assert reply is not None
    assert reply.kind is ReplyKind.UNREACHABLE


def test_who_names_ever_smaller_sizes_is_not_followed_for_ever() -> None:
    """Each answer names two bytes less than the probe had."""

    class Miser(Internet):
        def packet_sent(self, packet: bytes, now_ns: int) -> list[Arrival]:
            responder = self._responders.get(("r2", 4))
            if responder is not None:
                responder.mtu = max(61, len(packet) - 2)
            return super().packet_sent(packet, now_ns)

    scenario = changed("chain", r2={"mtu": 1498})
    virtual = VirtualTrace(Miser(scenario), DESTINATION, discover_mtu=True)
    trace = virtual.run()
    assert trace.stop_reason is StopReason.UNREACHABLE
    assert len(asked(virtual)) == 16
    assert sizes(trace)[:2] == [1500] * 2


def test_two_black_holes() -> None:
    scenario = changed("chain", r2={"mtu": 1420, "black_hole": True}, r4={"mtu": 1281, "black_hole": True})
    trace = play(scenario).trace
    assert sizes(trace) == [1500] * 2 + [1420] * 2 + [1281] * 2
    assert trace.path_mtu == 1281


def test_a_black_hole_right_at_the_first_router() -> None:
    trace = play(changed("chain", r1={"mtu": 1492, "black_hole": True})).trace
    assert sizes(trace) == [1500] + [1492] * 5


def test_a_black_hole_in_front_of_the_destination() -> None:
    trace = play(changed("chain", r5={"mtu": 577, "black_hole": True})).trace
    assert sizes(trace) == [1500] * 5 + [577]


@pytest.mark.parametrize("destination", DESTINATIONS)
def test_a_black_hole_among_routers_with_the_default_limits(destination: str) -> None:
    """Six answers, then one a second: enough for the small size, the search and the rest of the path."""
    linux = {"limit": Limit(burst=6, per_second=1.0)}
    keys = ("r1", "r2", "r3", "r4", "r5", "destination")
    limits: dict[str, dict[str, object]] = {key: dict(linux) for key in keys}
    limits["r3"] |= {"mtu": 1438, "black_hole": True}
    trace = play(changed("chain", **limits), destination).trace
    assert trace.stop_reason is StopReason.REACHED
    assert sizes(trace) == [1500] * 3 + [1438] * 3
    assert [len(answers(hop)) for hop in trace.hops] == [1] * 6


def test_a_host_that_was_silent_by_chance_makes_no_black_hole() -> None:
    """It answers nothing to the first probes, everything later: the full size turns out to fit."""

    class Sleepy(Internet):
        def packet_sent(self, packet: bytes, now_ns: int) -> list[Arrival]:
            arrivals = super().packet_sent(packet, now_ns)
            self.seen_first = getattr(self, "seen_first", now_ns)
            asleep = now_ns - self.seen_first < TAIL_S * 0.9e9
            return [] if packet[8] > 5 and asleep else arrivals

    virtual = VirtualTrace(Sleepy(load_scenario("chain")), DESTINATION, discover_mtu=True)
    trace = virtual.run()
    assert trace.stop_reason is StopReason.REACHED
    assert sizes(trace) == [1500] * 6
    assert trace.path_mtu == 1500


def test_a_host_that_answers_small_probes_only_once_is_shown_with_what_is_proven() -> None:
    """It answers three probes in all: those of the small size."""
    few = {"limit": Limit(burst=3, per_second=0.001)}
    trace = play(changed("chain", r5={"mtu": 1400, "black_hole": True}, destination=few)).trace
    assert trace.stop_reason is StopReason.REACHED
    assert sizes(trace) == [1500] * 5 + [60]
    assert trace.path_mtu == 60


def test_large_echo_replies_are_read_although_they_do_not_fit_their_row() -> None:
    scenario = load_scenario("chain")
    scenario = replace(scenario, vantage=replace(scenario.vantage, mtu=9000))
    for destination in DESTINATIONS:
        assert play(scenario, destination, Protocol.ICMP).trace.path_mtu == 9000


def test_short_quotes_are_told_apart_by_what_they_show() -> None:
    """28 bytes over IPv4: IP ID and checksum; late answers of the round before are no forgeries."""
    keys = ("r1", "r2", "r3", "r4", "r5", "destination")
    quotes: dict[str, dict[str, object]] = {key: {"quote": 28} for key in keys}
    quotes["r3"] |= {"mtu": 1300}
    virtual = play(changed("chain", **quotes))
    assert sizes(virtual.trace) == [1500] * 3 + [1300] * 3
    assert virtual.counters.late > 0
    assert virtual.counters.forged == 0


def test_late_answers_of_a_round_change_nothing_in_the_next() -> None:
    """A router that takes longer than the whole discovery beyond it: its answer counts, for its own row."""
    virtual = play(changed("small_mtu", r2={"jitter_ns": 300_000_000}))
    assert sizes(virtual.trace) == [1500] * 3 + [1280] * 3
    assert [len(answers(hop)) for hop in virtual.trace.hops] == [1] * 6


def test_silent_rows_have_the_mtu_of_what_passed_them() -> None:
    trace = play("silent_hops").trace
    assert {hop.verdict for hop in trace.hops if not answers(hop)} == {Verdict.SILENT}
    assert sizes(trace) == [1500] * 10


def test_one_with_a_first_ttl_beyond_the_bottleneck() -> None:
    virtual = VirtualTrace(
        Internet(load_scenario("small_mtu")), DESTINATION, discover_mtu=True, first_ttl=5, max_ttl=9, attempts=1
    )
    trace = virtual.run()
    assert [hop.ttl for hop in trace.hops] == [5, 6]
    assert sizes(trace) == [1280] * 2


def test_a_largest_ttl_in_front_of_the_destination() -> None:
    virtual = VirtualTrace(Internet(load_scenario("small_mtu")), DESTINATION, discover_mtu=True, max_ttl=4)
    trace = virtual.run()
    assert trace.stop_reason is StopReason.MAX_TTL
    assert sizes(trace) == [1500] * 3 + [1280]
    assert trace.path_mtu is None


@pytest.mark.parametrize("destination", DESTINATIONS)
@pytest.mark.parametrize("scenario", sorted({*bundled_scenarios()} - {"prefix", "unequal_paths"}))
def test_rows_are_told_once_in_order_and_as_the_trace_has_them(scenario: str, destination: str) -> None:
    internet = Internet(load_scenario(scenario))
    virtual = VirtualTrace(internet, destination, discover_mtu=True)
    trace = virtual.run()
    told = [event.hop for _, event in virtual.events if isinstance(event, HopCertain)]
    assert [hop.ttl for hop in told] == [hop.ttl for hop in trace.hops] == list(range(1, len(told) + 1))
    assert [answers(hop) for hop in told] == [answers(hop) for hop in trace.hops]
    assert [hop.mtu for hop in told] == sizes(trace)
    known = [mtu for mtu in sizes(trace) if mtu is not None]
    assert known == sorted(known, reverse=True)
    heard = [event.address for _, event in virtual.events if isinstance(event, ResponderHeard)]
    assert len(heard) == len(set(heard))
    assert set().union(*map(answers, trace.hops)) <= set(map(str, heard))


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.04, 0.5, 1.01, 1.04, 1.2, 1.35, 1.42])
def test_interrupted_at_any_time_it_tells_what_is_known(after_s: float) -> None:
    virtual = VirtualTrace(Internet(load_scenario("black_hole")), DESTINATION, discover_mtu=True)
    virtual._send()
    while virtual.now < after_s:
        virtual._send()
        virtual._collect()
        virtual._wait()
    virtual.measurement.interrupt(virtual.now)
    virtual.measurement.interrupt(virtual.now)
    virtual._collect()
    trace = virtual.trace
    assert virtual.measurement.ended
    assert virtual.measurement.next_deadline() is None
    assert virtual.measurement.probes_to_send(virtual.now) is None
    assert trace.stop_reason is (StopReason.REACHED if trace.reached else StopReason.INTERRUPTED)
    truth = virtual.internet.truth(DESTINATION)
    for hop in trace.hops:
        assert answers(hop) <= {str(truth[hop.ttl - 1].address)}
        assert hop.mtu is None or hop.mtu <= ([1500] * 3 + [1438] * 3)[hop.ttl - 1]


def test_a_trace_that_is_not_asked_for_it_has_no_mtu() -> None:
    trace = VirtualTrace(Internet(load_scenario("chain")), DESTINATION).run()
    assert {*sizes(trace), trace.path_mtu} == {None}
