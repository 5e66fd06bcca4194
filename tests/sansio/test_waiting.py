"""How long a trace waits, and what for. Virtual seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from allhops.core.events import HopCertain
from allhops.model import ProbeState, StopReason
from allhops.testing.internet import Internet
from allhops.testing.scenario_file import load_scenario, parse_scenario
from allhops.testing.virtual import VirtualTrace

if TYPE_CHECKING:
    from typing import Unpack

    from allhops.options import TraceKeywords

DESTINATION = "203.0.113.9"


def play(scenario: str, **options: Unpack[TraceKeywords]) -> VirtualTrace:
    virtual = VirtualTrace(Internet(load_scenario(scenario)), DESTINATION, **options)
    virtual.run()
    return virtual


def line(rtts_ms: list[float | None], **router: object) -> Internet:
    """A path whose hops answer after these times; None is silent."""
    keys = [f"r{index}" for index in range(len(rtts_ms))]
    extra = "".join(f"{key} = {value}\n" for key, value in router.items())
    routers = "".join(
        f'[routers.{key}]\nipv4 = "10.0.0.{index + 1}"\nsilent = {"true" if rtt is None else "false"}\n{extra}'
        for index, (key, rtt) in enumerate(zip(keys, rtts_ms, strict=True))
    )
    hops = ", ".join(f'{{ router = "{key}", rtt_ms = {rtt or 1.0} }}' for key, rtt in zip(keys, rtts_ms, strict=True))
    text = (
        f'schema = "allhops.scenario/1"\n[vantage]\nipv4 = "192.0.2.1"\n{routers}'
        f'[[paths]]\ndestination = "{DESTINATION}"\nhops = [{hops}]\n'
    )
    return Internet(parse_scenario(text))


def seconds(rtts_ms: list[float | None], **options: Unpack[TraceKeywords]) -> float:
    virtual = VirtualTrace(line(rtts_ms), DESTINATION, **options)
    return virtual.run().duration_ns / 1e9


def test_a_healthy_path_takes_one_round_trip() -> None:
    assert seconds([1, 5, 9, 30]) == pytest.approx(0.030, abs=0.001)


def test_a_slow_hop_nearer_than_a_fast_destination_is_not_cut_off() -> None:
    trace = play("slow_first_hop").trace
    first = [probe.reply and probe.reply.rtt_ns for probe in trace.hops[0].probes]
    assert first == [300_000_000] * 3
    assert trace.duration_ns == pytest.approx(300e6, abs=1e6)


def test_a_silent_hop_before_an_answering_destination_costs_a_fifth_of_the_wait() -> None:
    assert seconds([1, None, 9, 30]) == pytest.approx(0.4, abs=0.01)
    assert seconds([1, None, 9, 30], timeout=1.0) == pytest.approx(0.2, abs=0.01)


def test_on_a_slow_path_silence_is_waited_for_longer() -> None:
    assert seconds([1, None, 100, 200]) == pytest.approx(0.6, abs=0.01)


def test_a_silent_destination_costs_two_fifths_of_the_wait() -> None:
    assert seconds([1, 5, 9, None]) == pytest.approx(0.8, abs=0.01)


def test_the_longest_wait_is_the_timeout() -> None:
    assert seconds([None, None, None]) == pytest.approx(2.0, abs=0.01)
    assert seconds([600, None, 700]) == pytest.approx(2.0, abs=0.01)
    assert seconds([None, None], timeout=0.3) == pytest.approx(0.3, abs=0.01)


def test_silent_hops_at_the_end_stop_at_the_gap_limit() -> None:
    virtual = VirtualTrace(line([1, 5, None]), DESTINATION, gap_limit=4)
    trace = virtual.run()
    assert trace.stop_reason is StopReason.GAP_LIMIT
    assert [hop.ttl for hop in trace.hops] == [1, 2, 3, 4, 5, 6]


def test_the_largest_ttl_ends_a_path_that_goes_on() -> None:
    virtual = VirtualTrace(line([1, 2, 3, 4, 5, 6]), DESTINATION, max_ttl=4)
    trace = virtual.run()
    assert trace.stop_reason is StopReason.MAX_TTL
    assert [hop.ttl for hop in trace.hops] == [1, 2, 3, 4]
    assert not trace.reached


def test_first_ttl_starts_the_path_later() -> None:
    virtual = VirtualTrace(line([1, 2, 3, 4]), DESTINATION, first_ttl=3)
    assert [hop.ttl for hop in virtual.run().hops] == [3, 4]


def test_rows_are_told_as_they_become_certain() -> None:
    virtual = play("chain")
    told = {event.hop.ttl: at for at, event in virtual.events if isinstance(event, HopCertain)}
    truth = virtual.internet.truth(DESTINATION)
    for expected in truth:
        assert told[expected.ttl] == pytest.approx(expected.rtt_ns / 1e9, abs=0.001)


def test_later_arrivals_are_samples_of_the_destination_not_rows() -> None:
    """One of the destination's own three was lost: a probe with a larger TTL, which it answered too, stands in."""
    last = play("lossy").trace.hops[-1]
    assert [probe.probe_ttl - last.ttl for probe in last.probes] == [0, 0, 1]
    assert {probe.state for probe in last.probes} == {ProbeState.ANSWERED}


def test_a_short_path_spares_the_probes_that_cannot_change_it() -> None:
    virtual = VirtualTrace(line([0.01]), DESTINATION)
    virtual.run()
    assert len(virtual.sent) <= 16


def test_interrupting_keeps_what_is_known() -> None:
    virtual = VirtualTrace(line([1, 2, 300]), DESTINATION)
    session = virtual.session
    virtual._send()
    while virtual._on_the_way[0][0] < 100e6:
        virtual._wait()
    session.interrupt(virtual.now)
    virtual._collect()
    trace = virtual.trace
    assert trace.stop_reason is StopReason.INTERRUPTED
    assert [hop.ttl for hop in trace.hops] == [1, 2]
    assert session.ended
    assert session.next_deadline() is None
