from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from allhops.core.mtu.sizes import COMMON_SIZES, SPREAD, common_sizes, spread_sizes


def test_common_sizes_descend_and_hold_what_everybody_has() -> None:
    assert sorted(COMMON_SIZES, reverse=True) == list(COMMON_SIZES)
    assert {1500, 1492, 1480, 1476, 1280, 576, 68} <= set(COMMON_SIZES)
    assert common_sizes(576, 1280) == (1006,)
    assert common_sizes(1280, 1300) == ()


@given(st.integers(28, 65_535), st.integers(0, 65_535))
def test_the_next_larger_size_is_always_among_those_asked(low: int, distance: int) -> None:
    sizes = spread_sizes(low, low + distance)
    assert len(sizes) <= SPREAD
    assert list(sizes) == sorted(set(sizes), reverse=True)
    assert all(low < size < low + distance for size in sizes)
    assert bool(sizes) == (distance > 1)
    assert not sizes or low + 1 in sizes


@given(st.integers(60, 65_535))
def test_any_mtu_is_found_in_few_rounds(mtu: int) -> None:
    low, high, rounds = 60, 65_536, 0
    sizes = common_sizes(low, high)
    while sizes:
        rounds += 1
        low = max([low, *(size for size in sizes if size <= mtu)])
        high = min([high, *(size for size in sizes if size > mtu)])
        sizes = spread_sizes(low, high)
    assert low == mtu
    assert rounds <= 7
