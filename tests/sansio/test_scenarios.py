"""Every bundled scenario, on a virtual clock: each row is the truth, each probe is accounted for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from allhops.core.ledger import IN_FLIGHT, STATES, UNSENT
from allhops.model import Hop, Probe, ReplyKind, StopReason, Trace
from allhops.testing.internet import Internet
from allhops.testing.scenario_file import bundled_scenarios, load_scenario
from allhops.testing.virtual import VirtualTrace


def destinations(scenario: str) -> list[tuple[str, str]]:
    """(scenario, one address) of every path."""
    paths = load_scenario(scenario).paths
    return [(scenario, str(network[0])) for path in paths for network in path.destinations]


EVERY_PATH = [pair for name in sorted(bundled_scenarios()) for pair in destinations(name)]


@pytest.fixture(params=EVERY_PATH, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def played(request: pytest.FixtureRequest) -> VirtualTrace:
    scenario, destination = request.param
    virtual = VirtualTrace(Internet(load_scenario(scenario)), destination)
    virtual.run()
    return virtual


def test_no_row_names_a_router_that_is_not_there(played: VirtualTrace) -> None:
    trace = played.trace
    possible = played.internet.possible(str(trace.address))
    for hop in trace.hops:
        heard = {probe.reply.address for probe in hop.probes if probe.reply is not None}
        assert heard <= possible[min(hop.ttl, len(possible)) - 1], hop


def test_every_probe_ends_in_exactly_one_state(played: VirtualTrace) -> None:
    states = played.session.ledger.state
    assert played.counters.sent == len(played.sent) == sum(state != UNSENT for state in states)
    assert IN_FLIGHT not in states
    assert all(STATES[state] is not None for state in states if state != UNSENT)


def test_no_builder_error_reaches_the_wire(played: VirtualTrace) -> None:
    wrong = ("malformed", "bad_ip_checksum", "bad_transport_checksum", "ttl_zero", "fragment")
    assert not [name for name in wrong if played.internet.counters[name]]


def test_rows_are_told_in_order_and_as_the_trace_has_them(played: VirtualTrace) -> None:
    hops = [event.hop for _, event in played.events if hasattr(event, "hop")]
    assert [first_replies(hop) for hop in hops] == [first_replies(hop) for hop in played.trace.hops]
    first = [hop.ttl for hop in hops]
    assert first == list(range(1, len(first) + 1))


def first_replies(hop: Hop) -> Hop:
    """A row without what may be added to it after it was told: further replies to the same probes, a verdict."""

    def first(probe: Probe) -> Probe:
        reply = probe.reply and replace(probe.reply, duplicates=0, flags=())
        return replace(probe, reply=reply, late_rtt_ns=None)

    return replace(hop, probes=tuple(map(first, hop.probes)), verdict=None)


def trace(scenario: str, destination: str = "203.0.113.9") -> Trace:
    return VirtualTrace(Internet(load_scenario(scenario)), destination).run()


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("chain", StopReason.REACHED),
        ("silent_hops", StopReason.REACHED),
        ("alias_destination", StopReason.REACHED),
        ("transit_from_destination_address", StopReason.REACHED),
        ("silent_destination", StopReason.GAP_LIMIT),
        ("admin_prohibited", StopReason.UNREACHABLE),
        ("no_route", StopReason.UNREACHABLE),
        ("unreachable_host", StopReason.UNREACHABLE),
        ("loop", StopReason.LOOP),
    ],
)
@pytest.mark.parametrize("destination", ["203.0.113.9", "2001:db8:9::9"])
def test_every_trace_says_why_it_ended(scenario: str, reason: StopReason, destination: str) -> None:
    assert trace(scenario, destination).stop_reason is reason


@pytest.mark.parametrize("destination", ["203.0.113.9", "2001:db8:9::9"])
def test_default_limits_do_not_make_routers_look_silent(destination: str) -> None:
    """Linux's defaults: six answers at once to one peer, then one a second. Nothing but our own burst uses them up."""
    for hop in trace("rate_limited", destination).hops:
        assert all(probe.reply is not None for probe in hop.probes), hop


def test_a_time_exceeded_from_the_destinations_own_address_is_transit() -> None:
    hops = trace("transit_from_destination_address").hops
    kinds = [[probe.reply and probe.reply.kind for probe in hop.probes] for hop in hops]
    assert kinds[-1] == [ReplyKind.DESTINATION] * 3
    assert kinds[-2] == [ReplyKind.TIME_EXCEEDED] * 3
    assert {str(probe.reply.address) for hop in hops[-2:] for probe in hop.probes if probe.reply} == {"203.0.113.9"}


def test_rtts_are_the_truth_to_the_microsecond() -> None:
    virtual = VirtualTrace(Internet(load_scenario("chain")), "203.0.113.9")
    truth = virtual.internet.truth("203.0.113.9")
    for hop, expected in zip(virtual.run().hops, truth, strict=True):
        assert {probe.reply.rtt_ns for probe in hop.probes if probe.reply} == {expected.rtt_ns}
