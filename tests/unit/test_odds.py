from __future__ import annotations

import numpy as np

from allhops.core.batch.strategies.odds import (
    BRANCH,
    INNER_ROUTER,
    KINDS,
    NEW_ROUTER,
    SHARED,
    Odds,
    beyond_case,
)


def case(
    standing: int, silent: int, offset: int = 1, count: int = 1
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], ...]:
    return beyond_case(
        np.full(count, standing),
        np.zeros(count, np.int16),
        np.full(count, silent, np.int16),
        np.full(count, offset, np.int16),
    )


def none(count: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.zeros(count, np.bool_)


def test_what_was_never_tried_is_tried() -> None:
    odds = Odds()
    assert all(odds.is_worth_asking(case(NEW_ROUTER, silent), 5).all() for silent in range(1, 6))
    assert odds.are_worth_a_look(np.arange(KINDS), np.ones(KINDS, np.int64)).all()


def test_what_never_pays_is_given_up_and_what_pays_is_not() -> None:
    odds = Odds()
    for silent in range(1, 6):
        odds.learn_beyond(case(NEW_ROUTER, silent, offset=silent, count=2_000), none(2_000))
        odds.learn_beyond(case(INNER_ROUTER, silent, offset=silent, count=2_000), np.arange(2_000) % 20 == 0)
    assert not odds.is_worth_asking(case(NEW_ROUTER, 2, offset=2), 5).any()
    assert odds.is_worth_asking(case(INNER_ROUTER, 2, offset=2), 5).all()


def test_a_silent_row_is_asked_for_the_sake_of_the_one_behind_it_within_the_gap_limit() -> None:
    odds = Odds()
    for silent in (1, 2, 4, 5, 6):
        odds.learn_beyond(case(INNER_ROUTER, silent, offset=silent, count=5_000), none(5_000))
    odds.learn_beyond(case(INNER_ROUTER, 3, offset=3, count=5_000), np.arange(5_000) % 2 == 0)
    assert odds.is_worth_asking(case(INNER_ROUTER, 2, offset=2), 3).all()
    assert not odds.is_worth_asking(case(INNER_ROUTER, 2, offset=2), 2).any()
    assert not odds.is_worth_asking(case(INNER_ROUTER, 4, offset=4), 6).any()


def test_branches_are_looked_for_while_they_are_found() -> None:
    odds = Odds()
    flows = np.repeat(np.array([1, 5, 200]), 1_000)
    odds.learn_looks(np.full(3_000, SHARED), flows, (flows == 1) & (np.arange(3_000) % 10 == 0))
    worth = odds.are_worth_a_look(np.full(3, SHARED), np.array([1, 5, 255]))
    assert worth.tolist() == [True, False, False]
    odds.learn_looks(np.full(1_000, BRANCH), np.full(1_000, 5), np.arange(1_000) % 10 == 0)
    assert odds.are_worth_a_look(np.array([BRANCH]), np.array([5])).all()


def test_flows_that_met_the_same_make_another_one_unlikely() -> None:
    """Nothing is known of any case yet."""
    worth = Odds().are_worth_a_look(np.full(15, SHARED), np.arange(1, 16)).tolist()
    assert worth == sorted(worth, reverse=True)
    assert not worth[-1]


def test_old_experience_fades() -> None:
    odds = Odds()
    odds.learn_beyond(case(NEW_ROUTER, 2, count=200_000), none(200_000))
    assert not odds.is_worth_asking(case(NEW_ROUTER, 2), 2).any()
    for _ in range(4):
        odds.learn_beyond(case(NEW_ROUTER, 2, count=5_000), ~none(5_000))
    assert odds.is_worth_asking(case(NEW_ROUTER, 2), 2).all()
