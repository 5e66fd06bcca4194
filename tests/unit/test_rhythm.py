"""What follows from the rate: bounds that must hold at any rate."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.core.batch.waiting import Turn
from allhops.core.pacer import BURST_S
from allhops.net.batch import rhythm

RATES = st.floats(0.01, 10_000_000) | st.just(inf)
URGENT = Turn(others_first=False, is_new=False, since=0.0)
PATIENT = Turn(others_first=True, is_new=False, since=0.0)


@given(RATES)
def test_a_beat_is_shorter_than_the_burst_of_the_pacer(rate_pps: float) -> None:
    """Else the bucket would be full before it is asked, and the rate not be held."""
    assert 0 < rhythm.beat_s(rate_pps) < BURST_S


@given(RATES)
def test_a_beat_may_hand_over_what_the_pace_wants_of_it(rate_pps: float) -> None:
    if rate_pps <= 60_000:  # beyond it beats follow one another without a pause
        assert rhythm.beat_probes(rate_pps) >= rate_pps * rhythm.beat_s(rate_pps)
    assert rhythm.beat_probes(rate_pps) <= max(1_024, 0.004 * rate_pps + 1)


@given(RATES, st.integers(0, 1_000_000))
def test_looks_are_frequent_enough_for_people_and_rare_enough_for_arrays(rate_pps: float, waiting: int) -> None:
    assert 0.01 <= rhythm.look_s(rate_pps, waiting) <= 0.4


def test_nobody_is_kept_waiting_for_a_look_when_little_is_left_to_send() -> None:
    assert rhythm.look_s(5_000, 0) == rhythm.URGENT_LOOK_S
    assert rhythm.look_s(5_000, 5_000) == rhythm.LONGEST_LOOK_S


@pytest.mark.parametrize(
    ("rate_pps", "turn", "probes"),
    [
        (10.0, PATIENT, 64),
        (5_000.0, PATIENT, 500),
        (5_000.0, URGENT, 100),
        (10_000.0, PATIENT, 1_000),
        (50_000.0, URGENT, 1_000),
        (inf, URGENT, 1_024),
    ],
)
def test_blocks_are_short_for_those_that_others_wait_for(rate_pps: float, turn: Turn, probes: int) -> None:
    assert rhythm.block_probes(rate_pps, turn) == probes


def test_windows_hold_a_second_of_the_rate() -> None:
    assert rhythm.window_courses(10) == 100
    assert rhythm.window_courses(5_000) == 5_000
    assert rhythm.window_courses(inf) == inf
    assert rhythm.appetite_probes(5_000) == 5_000
    assert rhythm.appetite_probes(inf) == 65_536
