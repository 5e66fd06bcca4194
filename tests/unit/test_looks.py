from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from allhops.core.batch.strategies.footing import Footing, Steps
from allhops.core.batch.strategies.looks import Looks, ranks
from allhops.core.batch.strategies.odds import SHARED, SILENT, Odds
from allhops.core.batch.strategies.stop_set import NOBODY, Met, StopSet, words_of
from allhops.core.batch.survey import NONE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ROWS = 8
COURSES = np.arange(6)


def words(numbers: Sequence[int]) -> NDArray[np.uint32]:
    packed = np.zeros((len(numbers), 16), np.uint8)
    packed[:, 3] = numbers
    found: NDArray[np.uint32] = words_of(packed, 4).astype(np.uint32)
    return found


@pytest.fixture
def stops() -> StopSet:
    """Of one course, which met 13 at TTL 3, silence, 15 and 16."""
    stops = StopSet(4)
    met = Met(words([13, 15, 16]), np.array([3, 5, 6], np.uint8))
    entries = stops.enter(met, stops.find(met), np.zeros(3, np.int64), words([100] * 3))
    stops.count(entries, np.array([3, 1, 0]), np.array([0, 1, 0]))
    return stops


def ground(asked: Sequence[tuple[int, int]] = ()) -> Footing:
    """Of courses that all stand at TTL 6; `asked` are (course, TTL) more."""
    rows = np.zeros((len(COURSES), ROWS), np.bool_)
    rows[:, 5] = True
    for course, ttl in asked:
        rows[course, ttl - 1] = True
    nobody = np.full(rows.shape, NOBODY, np.int32)
    ttls, nothing = np.full(len(COURSES), 6, np.int16), np.empty(0, np.int64)
    met = Met(words([]), nothing.astype(np.uint8))
    none = nothing.astype(np.int32)
    return Footing(1, rows, rows, nobody, nobody, ttls + 1, ttls - 1, ttls, nothing, nothing, met, none)


def at(stops: StopSet, ttl: int) -> int:
    """The entry at this TTL."""
    return int(np.flatnonzero(stops.ttl[: len(stops)] == ttl)[0])


def steps(stops: StopSet, places: Sequence[int], *, ttl: int, above: int, asked: bool = False) -> Steps:
    """From the entry at the TTL `above` to the one at `ttl`."""
    count, entry = len(places), at(stops, ttl)
    return Steps(
        np.array(places),
        np.full(count, ttl - 1),
        np.full(count, entry, np.int32),
        np.full(count, asked),
        np.full(count, at(stops, above), np.int32),
    )


def test_of_many_that_come_by_at_once_some_look(stops: StopSet) -> None:
    looks = Looks(len(COURSES), stops, Odds())
    beside = steps(stops, COURSES.tolist(), ttl=5, above=6)
    first = looks.wanted(ground(), COURSES, beside)
    wanted = int((first == 5).sum())
    assert 0 < wanted < len(COURSES)
    assert set(first.tolist()) == {5, NONE}
    assert stops.looks[at(stops, 5)] == wanted
    assert (looks.wanted(ground(), COURSES[wanted:], beside.part(wanted <= COURSES)) == NONE).all()
    looks.end(COURSES)
    assert not stops.looks[:3].any()
    assert (looks.wanted(ground(), COURSES, beside) == 5).sum() == wanted


def test_where_others_met_silence_another_one_asks_once(stops: StopSet) -> None:
    looks = Looks(len(COURSES), stops, Odds())
    asked = ground(asked=[(1, 4)])
    assert looks.wanted(asked, COURSES, steps(stops, [0, 1], ttl=3, above=5)).tolist() == [4, 3]


def test_what_has_never_been_found_is_looked_for_no_longer(stops: StopSet) -> None:
    odds = Odds()
    flows = np.tile(np.arange(1, 6), 400)
    for kind in (SHARED, SILENT):
        odds.learn_looks(np.full(2_000, kind), flows, np.zeros(2_000, np.bool_))
    looks = Looks(len(COURSES), stops, odds)
    assert looks.wanted(ground(), COURSES, steps(stops, [0], ttl=3, above=5)).tolist() == [NONE]


def test_no_look_where_the_course_has_asked_itself(stops: StopSet) -> None:
    looks = Looks(len(COURSES), stops, Odds())
    assert looks.wanted(ground(), COURSES, steps(stops, [0], ttl=5, above=6, asked=True)).tolist() == [NONE]


def test_looks_that_were_forgotten_with_the_stop_set_end_all_the_same(stops: StopSet) -> None:
    looks = Looks(len(COURSES), stops, Odds())
    looks.wanted(ground(), COURSES, steps(stops, COURSES.tolist(), ttl=5, above=6))
    stops.looks[:3] = 0
    looks.end(COURSES)
    assert not stops.looks[:3].any()


def test_what_was_made_says_of_each_how_many_had_come_by(stops: StopSet) -> None:
    looks = Looks(len(COURSES), stops, Odds())
    way = steps(stops, [0, 1], ttl=3, above=5, asked=True)
    # Both have met 15 too, where the stop set's course had met silence right before it, and one has asked that row.
    met = steps(stops, [0, 1], ttl=5, above=5, asked=True)
    made = looks.made(ground(asked=[(0, 3), (0, 4), (1, 3)]), way, met)
    beside = made.kind == SHARED
    assert made.flows[beside].tolist() == [1, 2]
    assert made.entry[beside].tolist() == [at(stops, 3)] * 2
    assert [made.place[~beside].tolist(), made.row[~beside].tolist()] == [[0], [3]]
    assert [made.kind[~beside].tolist(), made.flows[~beside].tolist()] == [[SILENT], [1]]


def test_ranks_count_those_before() -> None:
    assert ranks(np.array([], np.int32)).tolist() == []
    assert ranks(np.array([5, 5, 1, 5, 1], np.int32)).tolist() == [0, 1, 0, 2, 1]
