"""Five hundred generated internets by every protocol over both families: no wrong address, no wrong TTL."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from allhops.model import Protocol, StopReason
from allhops.testing.internet import Internet
from allhops.testing.scenario import Rewrite
from allhops.testing.virtual import VirtualTrace
from benchmarks.topologies import faults, topology, truth_of

if TYPE_CHECKING:
    from allhops.testing.internet import Arrival
    from allhops.testing.scenario import Scenario

TOPOLOGIES = 500
EACH = 20
"""Topologies in one test."""
FIRST_SEEDS = range(0, TOPOLOGIES, EACH)
ATTEMPTS = 3


class Watched(Internet):
    """Knows what it was asked and what it answered."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.asked: Counter[int] = Counter()
        self.answered: Counter[int] = Counter()

    def packet_sent(self, packet: bytes, now_ns: int) -> list[Arrival]:
        arrivals = super().packet_sent(packet, now_ns)
        ttl = packet[8] if packet[0] >> 4 == 4 else packet[7]
        self.asked[ttl] += 1
        self.answered[ttl] += len(arrivals)
        return arrivals

    def is_silent(self, ttl: int) -> bool:
        """Whether a TTL was asked as often as it should be, and not one answer left for the vantage point."""
        return self.asked[ttl] >= ATTEMPTS and not self.answered[ttl]


def play(scenario: Scenario, version: int, protocol: Protocol) -> tuple[VirtualTrace, list[str]]:
    """A trace of the scenario's first destination, and what is wrong with it."""
    internet = Watched(scenario)
    (address,) = (network[0] for network in scenario.paths[0].destinations if network.version == version)
    virtual = VirtualTrace(internet, address, protocol=protocol)
    trace = virtual.run()
    found = faults(trace, truth_of(internet, virtual.session.plan, flow_constant=True), internet.is_silent)
    if virtual.counters.forged or virtual.counters.foreign:
        found.append(f"replies of an honest internet were not believed: {virtual.counters}")
    return virtual, found


@pytest.mark.parametrize("first", FIRST_SEEDS)
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", Protocol)
def test_no_address_and_no_ttl_is_wrong(protocol: Protocol, version: int, first: int) -> None:
    wrong = {seed: play(topology(seed), version, protocol)[1] for seed in range(first, first + EACH)}
    assert {seed: found for seed, found in wrong.items() if found} == {}


@pytest.mark.parametrize("first", range(0, 100, EACH))
@pytest.mark.parametrize("version", [4, 6])
def test_nor_where_no_quote_says_how_far_away_the_destination_is(version: int, first: int) -> None:
    """What the error queue hears: no TTL in any quote."""
    for seed in range(first, first + EACH):
        scenario = topology(seed)
        mute = {key: replace(router, rewrite=Rewrite(ttl=0)) for key, router in scenario.routers.items()}
        assert play(replace(scenario, routers=mute), version, Protocol.UDP)[1] == [], seed


def test_the_judge_is_strict() -> None:
    """A path that is one TTL too long, or too short, or leads through somebody else, is found out."""
    virtual, found = play(topology(1), 4, Protocol.UDP)
    assert found == []
    trace = virtual.trace
    assert trace.stop_reason is StopReason.REACHED
    truth = truth_of(virtual.internet, virtual.session.plan, flow_constant=True)
    stranger = frozenset({truth[-1], *truth[0]})
    for other in (truth[1:], (truth[0], *truth), (*truth[:2], frozenset(truth[3]), *truth[3:])):
        assert faults(trace, other, lambda ttl: True), stranger
