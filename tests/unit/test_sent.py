"""When courses began, and which of them could send nothing."""

from __future__ import annotations

import errno

import numpy as np

from allhops.core.batch.sent import NEVER, Sent
from allhops.core.ledger import IN_FLIGHT, LOCAL_ERROR, Ledger
from tests.harvests import make_plan

PLAN = make_plan(np.random.default_rng(1), 4, 4, max_ttl=3, attempts=1)
LEDGER_NS = 7


def columns(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(numbers, np.int64)


def test_the_first_of_several_probes_begins_a_course_and_the_last_was_the_latest() -> None:
    sent = Sent(PLAN, Ledger(PLAN.slots), LEDGER_NS)
    sent.note(columns(2, 0, 2), np.array([1.0, 2.0, 3.0]), columns(10, 20, 30))
    sent.note(columns(0, 3), np.array([4.0, 5.0]), columns(40, 50))
    assert sent.at.tolist() == [4.0, NEVER, 3.0, 5.0]
    assert sent.began_ns.tolist() == [20, LEDGER_NS, 10, 50]
    assert sent.began_at[[0, 2, 3]].tolist() == [2.0, 1.0, 5.0]
    assert np.isnan(sent.began_at[1])


def test_nothing_left_where_every_probe_failed() -> None:
    ledger = Ledger(PLAN.slots)
    sent = Sent(PLAN, ledger, LEDGER_NS)
    everybody = np.arange(PLAN.courses)
    assert not sent.nothing_left(everybody).any()
    for course, states in enumerate(((LOCAL_ERROR, LOCAL_ERROR), (LOCAL_ERROR, IN_FLIGHT), (IN_FLIGHT,), ())):
        start = course * PLAN.slots_per_course
        ledger.state[start : start + len(states)] = bytes(states)
    sent.note_failed(columns(0, 1, 0), np.array([errno.EPERM, errno.EPERM, errno.EACCES], np.uint16))
    assert sent.nothing_left(everybody).tolist() == [True, False, False, False]
    assert sent.nothing_left(columns(2, 0)).tolist() == [False, True]
    assert sent.last_error.tolist() == [errno.EACCES, errno.EPERM, 0, 0]
