"""What has left of each course: since when, when last, and what could not be sent. This file reads no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from allhops.core.ledger import UNSENT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.core.ledger import Ledger
    from allhops.core.plan import Plan

NEVER = -np.inf


class Sent:
    """Columns, one entry a course.

    `at`: when the last probe left, seconds, `NEVER` for none; `began_at`: when the first one did, not a number for
    none; `began_ns` the same by the wall clock, and `now_ns` for none; `last_error`: errno of the last probe that could
    not be sent, 0 for none.
    """

    def __init__(self, plan: Plan, ledger: Ledger, now_ns: int) -> None:
        self._state = np.frombuffer(ledger.state, np.uint8).reshape(plan.courses, -1)
        self.at = np.full(plan.courses, NEVER)
        self.began_at = np.full(plan.courses, np.nan)
        self.began_ns = np.full(plan.courses, now_ns, np.int64)
        self.last_error = np.zeros(plan.courses, np.uint16)
        self._failed = np.zeros(plan.courses, np.int64)
        self._any_failed = False

    def note(self, courses: NDArray[np.int64], at: NDArray[np.float64], sent_ns: NDArray[np.int64]) -> None:
        """A probe of each of these left; a course may be there several times, in the order of leaving."""
        fresh = np.flatnonzero(self.at[courses] == NEVER)[::-1]  # the first of two probes is written last
        if len(fresh):
            self.began_at[courses[fresh]] = at[fresh]
            self.began_ns[courses[fresh]] = sent_ns[fresh]
        self.at[courses] = at

    def note_failed(self, courses: NDArray[np.int64], errors: NDArray[np.uint16]) -> None:
        """Of those that are noted as well, these failed."""
        self._any_failed = True
        np.add.at(self._failed, courses, 1)
        self.last_error[courses] = errors

    def nothing_left(self, courses: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,): whether probes of these were to leave and not one of them did."""
        if not self._any_failed:
            return np.zeros(len(courses), np.bool_)
        failed = self._failed[courses]
        tried = (self._state[courses] != UNSENT).sum(axis=1)
        nothing: NDArray[np.bool_] = (failed == tried) & (failed > 0)
        return nothing
