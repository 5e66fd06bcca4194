from __future__ import annotations

import numpy as np
import pytest

from allhops.core.batch.strategies.distances import NO_BITS, UNKNOWN, Distances, keys_of
from allhops.core.batch.strategies.neighbours import LEAST_FIRST, Neighbours

STRIDES = (64, 16, 4, 2, 1)


def keys(*hosts: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return keys_of([bytes([10, host >> 8, host & 255, 1]) for host in hosts])


def ends(neighbours: Neighbours, courses: list[int], ttl: int) -> None:
    neighbours.last_ttl[courses] = ttl
    neighbours.end(np.array(courses))


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 100, 1_000, 9_999])
def test_everybody_is_released_once_those_before_it_have_ended(count: int) -> None:
    order = np.random.default_rng(count).permutation(count)
    neighbours = Neighbours(keys(*order.tolist()), Distances(), strides=STRIDES)
    under_way = np.flatnonzero(~neighbours.is_held)
    assert len(under_way) >= min(count, LEAST_FIRST)
    started = under_way.tolist()
    while len(under_way):
        assert (neighbours.expected_ttl[under_way[len(started) > len(under_way) :]] >= UNKNOWN).all()
        ends(neighbours, under_way.tolist(), 12)
        under_way = neighbours.release()
        assert (neighbours.expected_ttl[under_way] == 12).all()
        started += under_way.tolist()
    assert sorted(started) == list(range(count))
    assert neighbours.all_ended


def test_the_nearest_neighbour_tells() -> None:
    neighbours = Neighbours(keys(*range(64)), Distances(), strides=(4, 1))
    ends(neighbours, [0], 9)
    ends(neighbours, [4], 11)
    neighbours.let_go(np.array([2]))
    assert neighbours.expected_ttl[2] == 9  # 0 and 2 differ in the last bit but one, 4 before that
    ends(neighbours, [2], UNKNOWN)
    neighbours.let_go(np.array([3, 1]))
    assert neighbours.expected_ttl[[3, 1]].tolist() == [9, 9]  # both wait for 0 and 4, and 0 is the nearer one


def test_who_has_told_is_waited_for_no_longer() -> None:
    neighbours = Neighbours(keys(*range(64)), Distances(), strides=(4, 1))
    ends(neighbours, [0], 9)
    assert neighbours.release().tolist() == []
    neighbours.tell(np.array([4]), np.array([11], np.int16))
    assert neighbours.release().tolist() == [1, 2, 3]
    assert neighbours.expected_ttl[[1, 2, 3]].tolist() == [9, 9, 9]
    neighbours.tell(np.array([8]), np.array([12], np.int16))
    ends(neighbours, [4], 13)
    assert neighbours.release().tolist() == [5, 6, 7]
    assert neighbours.expected_ttl[[5, 6, 7]].tolist() == [13, 13, 13]
    assert not neighbours.all_ended


def test_the_last_ones_wait_until_enough_of_their_company_have_ended() -> None:
    neighbours = Neighbours(keys(*range(256)), Distances(), strides=(16, 4, 1), enough=4)
    ends(neighbours, [0, 16, 32], 9)
    assert neighbours.release().tolist() == [4, 8, 12, 20, 24, 28]
    ends(neighbours, [4, 8], 9)
    assert neighbours.release().tolist() == []  # 1 to 7 have both neighbours, but of 0, 4, 8 and 12 only three ended
    ends(neighbours, [12], 9)
    assert neighbours.release().tolist() == [course for course in range(1, 16) if course % 4]


def test_nobody_waits_for_a_neighbour_when_a_nearer_one_is_known() -> None:
    known = Distances()
    known.learn(keys(*range(0, 2_000, 2)), np.full(1_000, 13, np.int16))
    neighbours = Neighbours(keys(*range(1, 2_000, 2)), known, strides=STRIDES)
    assert not neighbours.is_held.any()
    assert set(neighbours.expected_ttl.tolist()) == {13}


def test_distances_know_the_nearest_of_what_they_were_told() -> None:
    known = Distances()
    assert [column.tolist() for column in known.nearest(keys(1, 2))] == [[UNKNOWN] * 2, [NO_BITS] * 2]
    known.learn(keys(40, 8), np.array([14, 12], np.int16))
    known.learn(keys(12), np.array([13], np.int16))
    ttl, bits = known.nearest(keys(9, 13, 0, 500))
    assert ttl.tolist() == [12, 13, 12, 14]
    assert bits.tolist() == [23, 23, 20, 15]


def test_distances_are_bounded() -> None:
    known = Distances(most=100)
    known.learn(keys(*range(150)), np.full(150, 10, np.int16))
    assert len(known) == 75
    assert known.nearest(keys(149))[0].tolist() == [10]


def test_who_is_kept_comes_back_when_its_company_has_ended() -> None:
    keys = np.arange(8, dtype=np.uint64)
    neighbours = Neighbours(keys, Distances(), strides=(4, 1), least_first=1)
    neighbours.keep(np.array([0, 4]))
    neighbours.end(np.array([1, 2]))
    assert neighbours.coming_back().tolist() == []
    neighbours.end(np.array([3]))
    assert neighbours.coming_back().tolist() == [0]
    assert neighbours.share_left == 3 / 8
    assert neighbours.take_back(np.array([0, 1])).tolist() == [True, False]
    assert neighbours.coming_back().tolist() == []
    neighbours.end(np.array([0, 5, 6, 7]))
    assert not neighbours.all_ended
    assert neighbours.coming_back().tolist() == [4]
    neighbours.end(neighbours.coming_back())
    assert neighbours.all_ended
