"""Why courses end, and how far what they show goes: the rules of course.py, as array operations.

This file knows no packet and no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from allhops.core.batch.survey import NONE
from allhops.core.harvest import STOP_REASONS
from allhops.model import StopReason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.core.batch.survey import Survey

CODE_OF = {reason: np.uint8(code) for code, reason in enumerate(STOP_REASONS)}
"""Stop reason to column value."""


def stop_reasons(known: Survey, *, interrupted: bool) -> NDArray[np.uint8]:
    """(n,): as `Course.stop_reason` has it, for courses of which a probe has left."""
    if interrupted:
        return np.full(len(known.courses), CODE_OF[StopReason.INTERRUPTED])
    options = known.plan.options
    is_gap = options.max_ttl - known.highest_heard >= options.gap_limit
    reasons = np.where(is_gap, CODE_OF[StopReason.GAP_LIMIT], CODE_OF[StopReason.MAX_TTL])
    for found, reason in (
        (known.loop_ttl, StopReason.LOOP),
        (known.unreachable_ttl, StopReason.UNREACHABLE),
        (known.reached_ttl, StopReason.REACHED),
    ):
        reasons[found != NONE] = CODE_OF[reason]
    return reasons


def last_ttls(known: Survey) -> NDArray[np.int16]:
    """(n,): of the last hop to show: past the last answer only what was asked, and no more than the gap limit."""
    options, last = known.plan.options, known.end_ttl.copy()
    endless = np.flatnonzero(last == NONE)
    if len(endless):
        ttls = np.arange(options.first_ttl, options.max_ttl + 1, dtype=np.int16)[:, None]
        asked = (known.tries.T[:, endless] > 0) & (ttls <= known.highest_heard[endless] + options.gap_limit)
        last[endless] = np.where(asked, ttls, np.int16(options.first_ttl - 1)).max(axis=0)
    return last
