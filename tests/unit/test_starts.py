from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from allhops.core.batch.strategies.distances import UNKNOWN
from allhops.core.batch.strategies.starts import Manner, Wait, blind_rows, first_rows, manner_of, start_ttl
from allhops.options import TraceOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPTIONS = TraceOptions(max_ttl=30, gap_limit=5)
PATIENT, HASTY = Manner((2, 1), 1, Wait.END), Manner((2, 1), 1, Wait.DISTANCE)


def rows(asked: tuple[NDArray[np.int64], NDArray[np.int16]]) -> dict[int, list[int]]:
    """TTLs by course."""
    by_course: dict[int, list[int]] = {}
    for place, ttl in zip(*(column.tolist() for column in asked), strict=True):
        by_course.setdefault(place, []).append(ttl)
    return by_course


@pytest.mark.parametrize(("destinations", "steps"), [(1, 2), (1_499, 2), (1_500, 3), (3_999, 3), (4_000, 5)])
def test_the_longer_a_list_the_more_steps_it_takes(destinations: int, steps: int) -> None:
    manner = manner_of(destinations)
    assert len(manner.strides) == steps
    assert manner.is_hasty == (destinations < 4_000)
    assert manner_of(1_000_000) == manner_of(4_000)


def test_who_has_time_asks_the_row_behind_its_neighbours_last_router() -> None:
    expected = np.array([9, UNKNOWN, 30], np.int16)
    assert start_ttl(expected, OPTIONS).tolist() == [10, 12, 30]
    assert rows(first_rows(expected, OPTIONS, PATIENT)) == {0: [10], 1: [12], 2: [30]}


def test_who_hurries_asks_that_routers_row_too_within_bounds() -> None:
    expected = np.array([9, UNKNOWN, 30, 1], np.int16)
    asked = rows(first_rows(expected, OPTIONS, HASTY))
    assert asked == {0: [9, 10], 1: [12], 2: [29, 30], 3: [1, 2]}
    asked = rows(first_rows(expected, replace(OPTIONS, first_ttl=10, max_ttl=11), HASTY))
    assert asked == {0: [10], 1: [11], 2: [10, 11], 3: [10]}


def test_who_starts_blind_asks_all_rows_below_or_those_that_are_not_shared() -> None:
    asked = rows(blind_rows(3, OPTIONS, PATIENT))
    assert asked == {0: [*range(1, 12)], 1: [*range(8, 12)], 2: [*range(8, 12)]}
    assert rows(blind_rows(1, OPTIONS, HASTY)) == {0: [*range(1, 12), *range(13, 18)]}


@pytest.mark.parametrize(("first_ttl", "max_ttl"), [(1, 9), (7, 7), (1, 14), (20, 40), (14, 15)])
@pytest.mark.parametrize("manner", [PATIENT, HASTY])
def test_blind_rows_are_none_twice_and_within_bounds(first_ttl: int, max_ttl: int, manner: Manner) -> None:
    options = replace(OPTIONS, first_ttl=first_ttl, max_ttl=max_ttl)
    start = int(start_ttl(np.array([UNKNOWN], np.int16), options)[0])
    asked = rows(blind_rows(1, options, manner)).get(0, [])
    assert start not in asked
    assert len(set(asked)) == len(asked)
    assert all(first_ttl <= ttl <= max_ttl for ttl in asked)
    assert not manner.is_hasty or set(range(start, min(start + 5, max_ttl) + 1)) <= {start, *asked}
