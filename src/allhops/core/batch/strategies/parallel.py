"""Every TTL of every destination: how far it is first, then all rows up to there.

One probe with the largest TTL reaches the destination however far it is, and what it quotes says how far exactly. Where
nothing says so, the rows are asked in steps: until the destination is found or, if it is silent, until as many rows as
the gap limit are silent in a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from allhops.core.batch.strategies import Asked
from allhops.core.batch.survey import NONE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.core.batch.strategies import Inheritance
    from allhops.core.batch.survey import Survey
    from allhops.core.plan import Plan

FIRST_STEP = 16
"""Rows asked first of a destination that did not say how far it is: most paths are no longer."""


class Parallel:
    """See the module; it remembers nothing."""

    spare_attempts = 0
    at_once = 1_024

    def begin(self, plan: Plan) -> NDArray[np.int64]:
        """The largest TTL of each."""
        courses = np.arange(plan.courses, dtype=np.int64)
        return courses * plan.slots_per_course + (plan.ttls - 1) * plan.slots_per_row

    def proceed(self, plan: Plan, survey: Survey) -> Asked:
        """All that is unasked up to where the path may end; done when that is nothing."""
        ttls = np.arange(plan.options.first_ttl, plan.options.max_ttl + 1, dtype=np.int16)
        is_left = survey.tries < plan.options.attempts
        limits = _limits(plan, survey)
        rows = is_left & (ttls <= limits[:, None])
        done: NDArray[np.bool_] = np.logical_not(rows.any(axis=1))
        # A destination that answers is somewhere: no gap before it ends the search.
        idle = np.flatnonzero(done & (limits < survey.end_ttl))
        if len(idle):
            rows[idle] = is_left[idle] & (ttls <= survey.end_ttl[idle, None])
            done[idle] = ~rows[idle].any(axis=1)
        chosen = np.flatnonzero(rows)  # several times as fast as nonzero of two axes
        place = chosen // plan.ttls
        first = ((survey.courses[place] - place) * plan.ttls + chosen) * plan.slots_per_row
        if plan.options.attempts == 1:
            return Asked(first, done)
        tries = survey.tries.ravel()[chosen, None]
        index, attempt = np.divmod(np.flatnonzero(np.arange(plan.options.attempts) >= tries), plan.options.attempts)
        return Asked(first[index] + attempt, done)

    def awaited(self, plan: Plan) -> NDArray[np.bool_]:
        """Nobody."""
        return np.zeros(plan.courses, np.bool_)

    def inherited(self, plan: Plan, survey: Survey) -> Inheritance | None:
        """Nothing: every row was asked."""
        return None


def _limits(plan: Plan, survey: Survey) -> NDArray[np.int16]:
    """(n,): up to which TTL to ask by what is known."""
    options = plan.options
    first_step = options.first_ttl - 1 + FIRST_STEP
    beyond = np.maximum(first_step, survey.highest_transit + options.gap_limit)
    told = (survey.distance != NONE) & (survey.reached_ttl == survey.distance)
    limits = np.where(told, survey.end_ttl, np.minimum(beyond, options.max_ttl))
    return np.where(survey.end_ttl > 0, np.minimum(limits, survey.end_ttl), limits).astype(np.int16)
