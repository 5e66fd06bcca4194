from __future__ import annotations

import numpy as np

from allhops.core.batch.strategies.links import OFTEN, SURE, SURE_SILENT, Links
from allhops.core.batch.strategies.stop_set import NOBODY

ROUTER, BEFORE, OTHER = 5, 3, 4


def met(links: Links, before: int, times: int, rows: int = 1) -> None:
    links.learn(np.full(times, ROUTER, np.int32), rows, np.full(times, before, np.int32))


def told(links: Links, rows: int = 1) -> tuple[int, bool, bool]:
    before, is_known, is_sure = links.before(np.array([ROUTER], np.int32), rows)
    return int(before[0]), bool(is_known[0]), bool(is_sure[0])


def test_nothing_is_known_of_nobody_and_of_whom_nobody_met() -> None:
    links = Links(10)
    assert told(links) == (NOBODY, False, False)
    met(links, BEFORE, SURE)
    assert [bool(column[0]) for column in links.before(np.array([NOBODY], np.int32), 1)[1:]] == [False, False]


def test_a_link_is_sure_once_enough_flows_agree() -> None:
    links = Links(10)
    met(links, BEFORE, SURE - 1)
    assert told(links) == (BEFORE, True, False)
    met(links, BEFORE, 1)
    assert told(links) == (BEFORE, True, True)
    assert told(links, rows=2) == (NOBODY, False, False)


def test_two_branches_are_never_sure_but_what_lies_before_both_is() -> None:
    links = Links(10)
    met(links, BEFORE, 50)
    met(links, OTHER, 1)
    met(links, BEFORE, 200)
    assert told(links) == (BEFORE, True, False)
    met(links, OTHER, SURE, rows=2)
    assert told(links, rows=2) == (OTHER, True, True)


def test_branches_met_at_once_are_no_agreement() -> None:
    links = Links(10)
    links.learn(np.full(40, ROUTER, np.int32), 1, np.where(np.arange(40) % 2, BEFORE, OTHER).astype(np.int32))
    assert not told(links)[2]


def test_silence_may_be_sure_too() -> None:
    links = Links(10)
    met(links, NOBODY, SURE_SILENT)
    assert told(links) == (NOBODY, True, True)
    met(links, BEFORE, 1)
    assert told(links) == (BEFORE, True, False)


def test_a_few_lost_probes_are_no_doubt_and_a_silent_branch_is() -> None:
    links = Links(10)
    met(links, NOBODY, 1)
    met(links, BEFORE, OFTEN + SURE - 1)
    assert not told(links)[2]
    met(links, BEFORE, 1)
    assert told(links) == (BEFORE, True, True)
    for _ in range(100):  # one branch of four does not answer
        met(links, BEFORE, 3)
        met(links, NOBODY, 1)
    assert not told(links)[2]


def test_what_is_cleared_is_forgotten() -> None:
    links = Links(10)
    met(links, BEFORE, SURE)
    links.clear()
    assert told(links)[1:] == (False, False)
