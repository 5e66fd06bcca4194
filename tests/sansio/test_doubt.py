"""Rows that look wrong after the burst: asked again, alone and spaced, while there is time."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from allhops.core.events import HopCertain
from allhops.core.strategies.parallel import REFILLS_S, SPACING_S
from allhops.model import ProbeState, Protocol, StopReason, Verdict
from allhops.testing.internet import Internet
from allhops.testing.scenario_file import load_scenario
from allhops.testing.virtual import VirtualTrace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allhops.model import Hop, Trace
    from allhops.testing.internet import Arrival

DESTINATION = "203.0.113.9"


class LossyInternet(Internet):
    """Loses the answers to the first so many probes of some TTLs."""

    def __init__(self, scenario: str, losses: Mapping[int, int]) -> None:
        super().__init__(load_scenario(scenario))
        self._losses = losses
        self._seen: Counter[int] = Counter()

    def packet_sent(self, packet: bytes, now_ns: int) -> list[Arrival]:
        arrivals = super().packet_sent(packet, now_ns)
        ttl = packet[8]
        self._seen[ttl] += 1
        return [] if self._seen[ttl] <= self._losses.get(ttl, 0) else arrivals


def play(internet: Internet, *, start_s: float = 0.0, protocol: Protocol = Protocol.UDP) -> tuple[Trace, VirtualTrace]:
    virtual = VirtualTrace(internet, DESTINATION, start_s=start_s, protocol=protocol)
    return virtual.run(), virtual


def responders(hop: Hop) -> set[str]:
    return {str(probe.reply.address) for probe in hop.probes if probe.reply is not None}


def test_a_silent_row_is_asked_once_more_and_costs_no_time() -> None:
    trace, virtual = play(Internet(load_scenario("silent_hops")))
    assert trace.duration_ns == pytest.approx(0.4e9, rel=0.05)
    assert Counter(packet[8] for packet in virtual.sent)[2] == 4
    assert [hop.ttl for hop in trace.hops if hop.verdict is Verdict.SILENT] == [2, 5, 6, 7]


def test_a_row_is_not_told_to_be_silent_before_it_was_asked_again() -> None:
    """However slow the pace: that of a prober is shared by all its traces."""
    virtual = VirtualTrace(LossyInternet("chain", {2: 3}), DESTINATION, rate_pps=10)
    trace = virtual.run()
    told = [event.hop for _, event in virtual.events if isinstance(event, HopCertain)]
    assert [responders(hop) for hop in told] == [responders(hop) for hop in trace.hops]
    assert responders(told[1])


def test_probes_that_ask_again_leave_alone() -> None:
    sent_at: list[float] = []

    class Clocked(Internet):
        def packet_sent(self, packet: bytes, now_ns: int) -> list[Arrival]:
            sent_at.append(now_ns / 1e9)
            return super().packet_sent(packet, now_ns)

    play(Clocked(load_scenario("silent_hops")))
    again = sorted(sent_at)[90:]
    assert len(again) == 4
    assert min(later - earlier for earlier, later in pairwise(again)) >= SPACING_S * 0.99


def test_a_row_that_was_lost_is_found_when_asked_again() -> None:
    trace, _ = play(LossyInternet("chain", {3: 3}))
    hop = trace.hops[2]
    assert responders(hop) == {"10.0.0.3"}
    assert hop.verdict is Verdict.RATE_LIMITED
    assert [(probe.attempt, probe.state) for probe in hop.probes] == [
        (1, ProbeState.TIMED_OUT),
        (2, ProbeState.TIMED_OUT),
        (4, ProbeState.ANSWERED),
    ]


def test_a_destination_whose_own_probes_were_lost_keeps_its_ttl() -> None:
    """Asked again it answers for itself; if that is lost too, the quoted TTL still says how far away it is."""
    truth = Internet(load_scenario("chain")).truth(DESTINATION)
    for losses in (3, 99):
        trace, _ = play(LossyInternet("chain", {len(truth): losses}))
        assert trace.stop_reason is StopReason.REACHED
        assert [hop.ttl for hop in trace.hops] == [hop.ttl for hop in truth]
        assert responders(trace.hops[-1]) == {DESTINATION}
        assert trace.hops[-1].verdict is None


@pytest.mark.parametrize("protocol", [Protocol.ICMP, Protocol.TCP])
def test_a_destination_that_quotes_nothing_keeps_its_ttl_while_one_of_nine_is_answered(protocol: Protocol) -> None:
    """Where a path loses packets, the silent row below the destination may be its own: all that can be asked is."""
    last = len(Internet(load_scenario("chain")).truth(DESTINATION))
    trace, virtual = play(LossyInternet("chain", {2: 1, last: 8}), protocol=protocol)
    assert Counter(packet[8] for packet in virtual.sent)[last] == 9
    assert [hop.ttl for hop in trace.hops] == list(range(1, last + 1))


def test_a_quoted_ttl_that_a_router_contradicts_is_not_believed() -> None:
    trace, virtual = play(Internet(load_scenario("lying_quotes")))
    assert trace.hops[-1].ttl == len(virtual.internet.possible(DESTINATION))


def test_a_destination_that_is_out_of_answers_gets_the_time_for_one_more() -> None:
    """A trace right after another one: the host has used up its six, the routers three of theirs."""
    internet = Internet(load_scenario("rate_limited"))
    play(internet)
    trace, _ = play(internet, start_s=0.7)
    assert trace.stop_reason is StopReason.REACHED
    assert [hop.ttl for hop in trace.hops] == list(range(1, len(internet.truth(DESTINATION)) + 1))


def test_every_router_is_named_however_often_one_asks() -> None:
    """One answer a second, no burst: what the first traces leave of it is waited for."""
    internet = Internet(load_scenario("one_per_second"))
    truth = internet.truth(DESTINATION)
    for start_s in (0.0, 2.0, 4.5):
        trace, _ = play(internet, start_s=start_s)
        assert [responders(hop) for hop in trace.hops] == [{str(hop.address)} for hop in truth]
        limited = [hop.verdict for hop in trace.hops[:-1]]
        assert limited[-1] is Verdict.RATE_LIMITED


def test_limits_hold_the_trace_until_one_more_answer_is_let_through() -> None:
    """The second of two traces half a second apart finds some rows silent, others answering once."""
    internet = Internet(load_scenario("rate_limited"))
    play(internet)
    play(internet, start_s=0.1)
    trace, _ = play(internet, start_s=0.7)
    truth = internet.truth(DESTINATION)
    named = [responders(hop) for hop in trace.hops]
    assert named == [{str(hop.address)} for hop in truth]
    assert trace.duration_ns / 1e9 < REFILLS_S[-1] + 0.5


def test_two_responders_are_load_balanced_and_never_collapsed() -> None:
    trace, virtual = play(Internet(load_scenario("diamond_packet")))
    several = [hop for hop in trace.hops if len(responders(hop)) > 1]
    assert several
    assert {hop.verdict for hop in several} == {Verdict.LOAD_BALANCED}
    for hop in trace.hops:
        assert responders(hop) <= {str(address) for address in virtual.internet.possible(DESTINATION)[hop.ttl - 1]}


def test_the_rows_of_a_loop_are_marked() -> None:
    trace, _ = play(Internet(load_scenario("loop")))
    assert [hop.ttl for hop in trace.hops if hop.verdict is Verdict.LOOP] == [4, 5, 6, 7, 8]
    assert trace.stop_reason is StopReason.LOOP


@pytest.mark.parametrize("scenario", ["chain", "diamond_flow", "rate_limited", "duplicates", "reordering", "mpls"])
def test_nothing_is_wrong_with_a_healthy_path(scenario: str) -> None:
    trace, virtual = play(Internet(load_scenario(scenario)))
    assert {hop.verdict for hop in trace.hops} == {None}
    assert len(virtual.sent) == 90
