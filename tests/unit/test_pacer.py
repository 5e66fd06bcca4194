from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.core.pacer import BURST_S, CATCH_UP, Pacer


def test_without_a_rate_everything_is_granted() -> None:
    pacer = Pacer()
    assert pacer.grant(0.0, 1_000_000) == 1_000_000
    assert pacer.ready_at(0.0) == 0.0


def test_never_more_than_the_burst_at_once() -> None:
    pacer = Pacer(5_000)
    assert pacer.grant(0.0, 1_000) == 5_000 * BURST_S
    assert pacer.grant(0.0, 1_000) == 0
    assert pacer.grant(10.0, 1_000) == 5_000 * BURST_S


def test_slow_rates_still_send() -> None:
    pacer = Pacer(0.5)
    assert pacer.grant(0.0, 3) == 1
    assert pacer.ready_at(0.0) == pytest.approx(2.0)
    assert pacer.grant(1.9, 3) == 0
    assert pacer.grant(2.1, 3) == 1


def test_what_was_not_sent_can_be_given_back() -> None:
    pacer = Pacer(100)
    assert pacer.grant(0.0, 1) == 1
    pacer.give_back(1)
    assert pacer.grant(0.0, 1) == 1
    assert pacer.grant(0.0, 1) == 0


@given(
    rate=st.floats(10, 100_000),
    steps=st.lists(st.tuples(st.floats(0, 0.3), st.integers(1, 5_000)), min_size=1, max_size=200),
)
def test_no_second_sees_more_than_the_rate_and_a_burst(rate: float, steps: list[tuple[float, int]]) -> None:
    pacer, now, sent = Pacer(rate), 0.0, []
    for pause, wanted in steps:
        now += pause
        sent.append((now, pacer.grant(now, wanted)))
    assert all(earlier[0] <= later[0] for earlier, later in pairwise(sent))
    for start, _ in sent:
        within = sum(count for at, count in sent if start <= at < start + 1)
        assert within <= rate * (1 + CATCH_UP) + max(1.0, rate * BURST_S) + 1e-6


def test_what_a_busy_caller_missed_is_made_up_for_little_by_little() -> None:
    pacer, sent = Pacer(1_000), 0
    sent += pacer.grant(0.0, 1_000)
    sent += pacer.grant(0.1, 1_000)  # 100 ms in which nobody asked, and only 10 fit the bucket
    for tick in range(101, 12_000):
        sent += pacer.grant(tick / 1_000, 1_000)
    assert sent == pytest.approx(12_000, abs=20)


def test_what_nobody_wanted_is_not_owed() -> None:
    pacer = Pacer(1_000)
    assert pacer.grant(0.0, 5) == 5
    assert pacer.grant(5.0, 10) == 10
    assert sum(pacer.grant(5.0 + tick / 1_000, 100) for tick in range(1, 1_001)) <= 1_000


def test_drops_slow_it_down_and_time_lets_it_rise_again() -> None:
    pacer = Pacer(10_000)
    pacer.grant(0.0, 1)
    pacer.slow_down(8_000)
    assert pacer.rate_pps == pytest.approx(5_600)
    for tick in range(1, 4_000):
        pacer.grant(tick / 100, 1_000)
    assert pacer.rate_pps == 10_000


def test_without_a_rate_drops_give_it_one() -> None:
    pacer = Pacer()
    pacer.slow_down(100_000)
    assert pacer.rate_pps == pytest.approx(70_000)


def test_what_is_granted_later_is_owed_as_well() -> None:
    pacer = Pacer(1_000)
    assert pacer.grant(0.0, 1_000, 3) == 3
    sent = 3 + sum(pacer.grant(tick / 100, 1_000, 50) for tick in (10, *range(11, 1_200)))
    assert sent == pytest.approx(12_000, abs=130)
