"""Durations as text, many at once: what one at a time gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.output.records import milliseconds
from allhops.output.rounding import CERTAIN_NS, milliseconds_texts

HALVES = range(500, 2_000_000_000, 211_000)
"""Just between two microseconds, where the float decides."""


def one_by_one(durations_ns: list[int]) -> list[str]:
    return [repr(milliseconds(duration_ns)) for duration_ns in durations_ns]


@pytest.mark.parametrize(
    "durations_ns",
    [
        [*range(2_002)],
        [*HALVES],
        [half + near for half in HALVES for near in (-1, 1)],
        [*range(0, 2_000_000_000, 200_003)],
        [10**power + near for power in range(19) for near in (-501, -500, -499, -1, 0, 1, 499, 500) if 10**power > 500],
        [CERTAIN_NS + near for near in range(-1_000, 1_000)],
    ],
    ids=["first", "halves", "beside halves", "two seconds", "powers of ten", "where floats grow coarse"],
)
def test_texts_are_those_of_single_durations(durations_ns: list[int]) -> None:
    assert milliseconds_texts(np.array(durations_ns)) == one_by_one(durations_ns)


@given(st.lists(st.integers(0, 2**62)))
def test_any_duration(durations_ns: list[int]) -> None:
    assert milliseconds_texts(np.array(durations_ns, np.int64)) == one_by_one(durations_ns)


def test_durations_below_zero_are_what_the_record_says() -> None:
    durations = [-1, -499, -500, -501, -999, -1_000, -1_500, -500_000, -(10**12)]
    assert milliseconds_texts(np.array(durations)) == one_by_one(durations)
