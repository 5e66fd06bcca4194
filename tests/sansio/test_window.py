"""A window of destinations on the virtual clock: every hop right, every probe accounted for, nobody sees a burst."""

from __future__ import annotations

import errno
from collections import Counter, defaultdict
from ipaddress import ip_address
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from allhops.core.batch.strategies import Asked, batch_strategy
from allhops.core.batch.strategies.parallel import Parallel
from allhops.core.batch.waiting import NO_TURN, SPACING_S, Turn, Waiting
from allhops.core.lanes import Ring
from allhops.core.lanes.scalar import ScalarLane
from allhops.core.ledger import MAX_GUESSES
from allhops.model import ProbeState, Protocol, StopReason
from allhops.options import TraceOptions
from allhops.testing.generator import generate
from allhops.testing.internet import Internet
from allhops.testing.virtual_batch import VirtualBatch
from benchmarks.replies import changed, error_about

if TYPE_CHECKING:
    from allhops.core.batch.survey import Survey
    from allhops.core.lanes import Block
    from allhops.core.plan import Plan
    from allhops.model import Address, Trace
    from allhops.testing.scenario import Scenario

DESTINATIONS = 60


def world(version: int, seed: int = 5, **kinds: float) -> tuple[Scenario, list[Address]]:
    scenario = generate(seed=seed, destinations=DESTINATIONS, families=(4, 6), **kinds)  # type: ignore[arg-type]  # shares
    networks = [network for path in scenario.paths for network in path.destinations]
    return scenario, [network[0] for network in networks if network.version == version]


def play(
    scenario: Scenario,
    addresses: list[Address],
    *,
    strategy: str = "parallel",
    rate_pps: float = 5_000,
    **options: object,
) -> VirtualBatch:
    batch = VirtualBatch(
        Internet(scenario),
        addresses,
        batch_strategy(strategy),
        TraceOptions(**options),  # type: ignore[arg-type]  # any of its fields
        lane=ScalarLane,
        rate_pps=rate_pps,
    )
    batch.run()
    return batch


def traces_of(batch: VirtualBatch) -> list[Trace]:
    return [trace for harvest in batch.harvests for trace in harvest.traces()]


def destination_of(packet: bytes) -> Address:
    return ip_address(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40])


def ttl_of(packet: bytes) -> int:
    return packet[8] if packet[0] >> 4 == 4 else packet[7]


def judged(batch: VirtualBatch, protocol: Protocol) -> Counter[str]:
    """How many hops are right, wrong and missed."""
    flows = {destination_of(packet): packet for _, packet in batch.sent}
    found: Counter[str] = Counter()
    for trace in traces_of(batch):
        assert trace.address is not None
        truth = batch.internet.truth(trace.address, packet=flows[trace.address], protocol=protocol)
        rows = {hop.ttl: {probe.reply.address for probe in hop.probes if probe.reply} for hop in trace.hops}
        for hop in truth:
            heard = rows.pop(hop.ttl, set())
            right = heard == ({hop.address} if hop.address else set())
            found["right" if right else "missed" if not heard else "wrong"] += 1
        found["wrong"] += sum(bool(heard) for heard in rows.values())
    return found


@pytest.mark.parametrize("attempts", [1, 3])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", Protocol)
def test_every_hop_of_every_destination_is_right(protocol: Protocol, version: int, attempts: int) -> None:
    scenario, addresses = world(version, silent_hop_share=0.2, silent_destination_share=0.5, load_balanced_share=0.3)
    batch = play(scenario, addresses, protocol=protocol, attempts=attempts)
    assert Counter(trace.address for trace in traces_of(batch)) == Counter(addresses)
    assert judged(batch, protocol)["wrong"] == judged(batch, protocol)["missed"] == 0
    assert batch.counters.forged == batch.counters.foreign == 0


def test_a_few_liars_among_many_paths_cost_nobody_else_a_row() -> None:
    """Of thousands of paths some have a router that falsifies what it quotes, with nobody guessing anything."""
    scenario, addresses = world(4, silent_destination_share=1.0)
    batch = VirtualBatch(
        Internet(scenario), addresses, batch_strategy("parallel"), TraceOptions(attempts=1), lane=ScalarLane
    )
    batch.beat()
    honest, *probes = (packet for _, packet in batch.sent)
    ring = Ring(1 + 2 * len(probes))
    for lie in 2 * [error_about(changed(probe, 26, b"\x12\x34"), quote=28) for probe in probes]:
        ring.append(lie, 0)
    ring.append(error_about(honest, quote=28), 0)
    batch.window.replies_received(ScalarLane(batch.counters).unpack(ring))
    assert batch.counters.forged == ring.count - 1 > MAX_GUESSES
    assert batch.tally.answered == 1


def test_a_silent_destination_ends_by_the_gap_limit() -> None:
    scenario, addresses = world(4, silent_destination_share=1.0)
    traces = traces_of(play(scenario, addresses, attempts=1))
    assert {trace.stop_reason for trace in traces} == {StopReason.GAP_LIMIT}


def test_every_probe_is_accounted_for() -> None:
    scenario, addresses = world(4, loss=0.2, silent_destination_share=0.5)
    batch = play(scenario, addresses)
    tally = batch.tally
    assert tally.sent == len(batch.sent) == tally.answered + tally.timed_out + tally.local_error + tally.cancelled
    assert tally.timed_out
    shown = Counter(probe.state for trace in traces_of(batch) for hop in trace.hops for probe in hop.probes)
    assert set(shown) == {ProbeState.ANSWERED, ProbeState.TIMED_OUT}
    sent = sum(len(harvest.sent().slot) for harvest in batch.harvests)
    assert sent == tally.sent


def test_no_destination_and_no_router_sees_a_burst() -> None:
    scenario, addresses = world(4)
    batch = play(scenario, addresses, rate_pps=2_000)
    times = defaultdict(list)
    for at, packet in batch.sent:
        times[destination_of(packet)].append(at)
    closest = min(later - at for sent in times.values() for at, later in pairwise(sent))
    assert closest >= SPACING_S
    steady = [ttl_of(packet) for at, packet in batch.sent if 0.2 < at < 0.5]
    per_ttl = Counter(steady)
    assert max(per_ttl.values()) < 0.2 * len(steady)


def test_who_is_asked_on_at_once_sees_no_burst_either() -> None:
    """The next round of a strategy may come a moment after the last probe of the one before was answered."""
    scenario, addresses = world(4, min_rtt_ms=1, max_rtt_ms=2)
    batch = play(scenario, addresses, strategy="frugal")
    times = defaultdict(list)
    for at, packet in batch.sent:
        times[destination_of(packet)].append(at)
    assert min(later - at for sent in times.values() for at, later in pairwise(sent)) >= SPACING_S


def test_the_order_is_repeatable_by_its_seed() -> None:
    orders = []
    for seed in (1, 1, 2):
        waiting = Waiting(np.random.default_rng(seed))
        waiting.add(np.arange(1_000), np.arange(1_000) // 10, Turn(True, True, 0.0))
        order: list[int] = []
        for second in range(10):
            order += waiting.take(second, 1_000).tolist()
            waiting.left(second)
        orders.append(order)
        assert sorted(order) == list(range(1_000))
        assert waiting.slots == 0
    assert orders[0] == orders[1] != orders[2]


def courses_of_ten(count: int) -> Waiting:
    """So many courses with ten slots each, number after number."""
    waiting = Waiting(np.random.default_rng(1))
    waiting.add(np.arange(10 * count), np.arange(10 * count) // 10, Turn(True, True, 0.0))
    return waiting


def test_several_rounds_are_taken_at_once_where_the_rate_leaves_time_between_them() -> None:
    order = courses_of_ten(128).take(0.0, 1_280, rate_pps=1_000)
    assert sorted(order.tolist()) == list(range(1_280))
    for course in range(128):
        leaves_at = np.flatnonzero(order // 10 == course) / 1_000
        assert np.diff(leaves_at).min() >= SPACING_S


def test_what_is_taken_ends_where_nothing_is_due_in_time() -> None:
    assert len(courses_of_ten(10).take(0.0, 640, rate_pps=1_000)) == 10


def test_without_a_rate_no_course_is_taken_twice() -> None:
    assert len(courses_of_ten(64).take(0.0, 640)) == 64


@pytest.mark.parametrize("late_s", [0.0, 5.0])
def test_rounds_are_put_off_by_as_much_as_what_was_taken_left_late(late_s: float) -> None:
    waiting = courses_of_ten(10)
    waiting.take(0.0, 640, rate_pps=1_000)
    left_at = 0.01 + late_s
    waiting.left(left_at)
    assert waiting.turn(left_at + SPACING_S) == NO_TURN
    assert waiting.turn(left_at + 2 * SPACING_S) != NO_TURN


TURNS = (
    (0, Turn(True, True, 0.1)),
    (10, Turn(True, True, 0.0)),
    (20, Turn(False, True, 0.2)),
    (30, Turn(True, False, 0.2)),
)
"""First slot, and turn."""


def test_whom_others_wait_for_goes_first_then_what_is_begun_then_who_was_asked_first() -> None:
    waiting = Waiting(np.random.default_rng(1))
    for first_slot, turn in TURNS:
        waiting.add(np.arange(first_slot, first_slot + 10), np.zeros(10, np.int64), turn)
    order: list[int] = []
    for number in range(40):
        now = number * (SPACING_S + 0.001)
        assert waiting.turn(now) == [TURNS[2], TURNS[3], TURNS[1], TURNS[0]][number // 10][1]
        order += waiting.take(now, 1).tolist()
        waiting.left(now)
    assert [slot // 10 for slot in order] == [2] * 10 + [3] * 10 + [1] * 10 + [0] * 10
    assert waiting.turn(9.0) == NO_TURN


def test_stopping_waits_for_what_is_out_and_sends_nothing_more() -> None:
    scenario, addresses = world(4, silent_destination_share=0.5)
    batch = VirtualBatch(
        Internet(scenario), addresses, batch_strategy("parallel"), TraceOptions(), lane=ScalarLane, rate_pps=1_000
    )
    while len(batch.sent) < 500:
        batch.beat()
    batch.window.stop_sending(batch.now)
    sent = len(batch.sent)
    batch.run()
    assert len(batch.sent) == sent
    traces = traces_of(batch)
    assert len(traces) == DESTINATIONS
    assert StopReason.INTERRUPTED in {trace.stop_reason for trace in traces}
    tally = batch.tally
    assert tally.sent == tally.answered + tally.timed_out
    assert tally.cancelled == 0


class Keeping(Parallel):
    """Looks twice at everybody."""

    def proceed(self, plan: Plan, survey: Survey) -> Asked:
        asked = super().proceed(plan, survey)
        return Asked(asked.slots, np.zeros_like(asked.done), may_end=asked.done)


def test_whoever_is_kept_for_a_second_look_has_ended_when_there_is_none() -> None:
    scenario, addresses = world(4, silent_destination_share=1.0)
    batch = VirtualBatch(Internet(scenario), addresses, Keeping(), TraceOptions(), lane=ScalarLane, rate_pps=20_000)
    while not batch.sent or batch.window.waiting or batch.window.in_flight:
        batch.beat()
    assert batch.window.open_courses == DESTINATIONS
    batch.window.stop_sending(batch.now)
    batch.run()
    reasons = {trace.stop_reason for trace in traces_of(batch)}
    assert StopReason.INTERRUPTED not in reasons
    assert StopReason.GAP_LIMIT in reasons


def test_an_interrupt_cancels_what_is_out() -> None:
    scenario, addresses = world(4)
    batch = VirtualBatch(
        Internet(scenario), addresses, batch_strategy("parallel"), TraceOptions(), lane=ScalarLane, rate_pps=5_000
    )
    for _ in range(5):
        batch.beat()
    batch.window.interrupt(batch.now)
    harvest = batch.window.harvest()
    assert harvest is not None
    assert len(harvest) + sum(map(len, batch.harvests)) == DESTINATIONS
    assert batch.window.ended
    tally = batch.tally
    assert tally.sent == tally.answered + tally.cancelled
    assert tally.cancelled


def hand_over(block: Block, count: int, at_ns: int) -> None:
    block.marks += (block.handed, at_ns), (block.handed + count, at_ns + count)
    block.handed += count


def test_what_left_is_recorded_together_each_when_it_left() -> None:
    scenario, addresses = world(4)
    window = VirtualBatch(
        Internet(scenario), addresses, batch_strategy("parallel"), TraceOptions(), lane=ScalarLane
    ).window
    first = window.probes_to_send(1.0, 5)
    assert first is not None
    hand_over(first, 2, 1_000)
    window.probes_left(1.0)
    assert window.probes_to_send(1.1, 5) is first
    hand_over(first, 3, 2_000)
    window.probes_left(1.1)
    second = window.probes_to_send(1.2, 5)
    assert second is not None
    assert second is not first
    hand_over(second, 1, 3_000)
    second.errors[0] = errno.EPERM
    assert (window.tally.sent, window.in_flight) == (0, 0)
    window.probes_sent(1.2)
    slots = [*first.slots, second.slots[0]]
    assert [window.ledger.sent_ns[slot] for slot in slots] == [1_000, 1_001, 2_000, 2_001, 2_002, 3_000]
    assert (window.tally.sent, window.tally.local_error, window.in_flight) == (6, 1, 5)
    window.probes_sent(1.3)
    assert window.tally.sent == 6
    timeout = window.plan.options.timeout
    window.advance(1.05 + timeout)
    assert window.tally.timed_out == 2, "those that left first"
    window.advance(1.15 + timeout)
    assert window.tally.timed_out == 5


def test_what_left_and_was_not_recorded_is_waited_for() -> None:
    scenario, addresses = world(4)
    window = VirtualBatch(
        Internet(scenario), addresses, batch_strategy("parallel"), TraceOptions(), lane=ScalarLane
    ).window
    while (block := window.probes_to_send(1.0)) is not None:
        hand_over(block, len(block), 1_000)
        window.probes_left(1.0)
    assert (window.waiting, window.in_flight) == (0, 0)
    assert not window.advance(1.0)
    assert (window.open_courses, window.waiting) == (len(addresses), 0), "nobody is asked on, and nobody ends"
    window.probes_sent(1.0)
    assert window.in_flight == len(addresses)


def test_the_next_round_is_due_when_the_last_probe_of_a_block_has_left() -> None:
    scenario, addresses = world(4)
    batch = VirtualBatch(Internet(scenario), addresses[:3], batch_strategy("parallel"), TraceOptions(), lane=ScalarLane)
    window = batch.window
    batch.beat()  # the first probe of each
    while not window.waiting:
        batch.beat()
    now = batch.now + 1.0
    block = window.probes_to_send(now)
    assert block is not None
    block.handed = len(block) - 1
    window.probes_left(now)
    assert window.probes_to_send(now + 1.0) is block
    block.handed = len(block)
    window.probes_left(now + 2.0)
    assert window.probes_to_send(now + 2.0 + 0.9 * SPACING_S) is None
    assert window.probes_to_send(now + 2.0 + SPACING_S) is not None


def test_a_clock_that_was_set_is_set_right_for_what_was_sent() -> None:
    scenario, addresses = world(4)
    batch = VirtualBatch(
        Internet(scenario), addresses, batch_strategy("parallel"), TraceOptions(), lane=ScalarLane, rate_pps=5_000
    )
    block = batch.window.probes_to_send(0.0)
    assert block is not None
    block.sent_ns[0], block.handed = 1_000, 1
    batch.window.probes_sent(0.0, lambda stamp: stamp + 3_600)
    assert batch.window.ledger.sent_ns[block.slots[0]] == 4_600


def test_courses_may_be_moved_on_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, addresses = world(4)
    at_once, in_steps = (
        VirtualBatch(Internet(scenario), addresses, batch_strategy("parallel"), TraceOptions(), lane=ScalarLane)
        for _ in range(2)
    )
    advance, steps = in_steps.window.advance, []

    def step_by_step(now: float) -> None:
        steps.append(1)
        while advance(now, 3):
            steps[-1] += 1

    monkeypatch.setattr(in_steps.window, "advance", step_by_step)
    at_once.run()
    in_steps.run()
    assert max(steps) > 1
    assert paths_of(in_steps) == paths_of(at_once)


def paths_of(batch: VirtualBatch) -> dict[str, list[set[str]]]:
    return {
        trace.destination: [{str(probe.reply.address) for probe in hop.probes if probe.reply} for hop in trace.hops]
        for harvest in batch.harvests
        for trace in harvest.traces()
    }
