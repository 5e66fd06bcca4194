"""Courses that have ended: why, and how far what they show goes, by the rules of course.py, as array operations.

This file knows no packet and no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from allhops.core.batch.survey import NONE
from allhops.core.harvest import STOP_REASONS, Harvest, joined
from allhops.model import StopReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from allhops.core.batch.sent import Sent
    from allhops.core.batch.strategies import Strategy
    from allhops.core.batch.survey import Survey

CODE_OF = {reason: np.uint8(code) for code, reason in enumerate(STOP_REASONS)}
"""Stop reason to column value."""


class Ends:
    """What of one window waits to be harvested; for the arguments see `Window`."""

    def __init__(
        self, strategy: Strategy, sent: Sent, names: Sequence[str], positions: NDArray[np.int64], backend: str
    ) -> None:
        self._strategy = strategy
        self._sent = sent
        self._names = names
        self._positions = positions
        self._backend = backend
        self._harvests: list[Harvest] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._harvests

    def add(self, known: Survey, now: float, *, interrupted: bool = False) -> None:
        """These courses have ended."""
        courses, sent = known.courses, self._sent
        stop, last_ttl = stop_reasons(known, interrupted=interrupted), last_ttls(known)
        unsendable = sent.nothing_left(courses)
        stop[unsendable], last_ttl[unsendable] = CODE_OF[StopReason.LOCAL_ERROR], known.plan.options.first_ttl - 1
        began_at = sent.began_at[courses]
        self._harvests.append(
            Harvest(
                plan=known.plan,
                ledger=known.ledger,
                names=self._names,
                positions=self._positions,
                courses=courses,
                stop=stop,
                end_ttl=known.end_ttl,
                last_ttl=last_ttl,
                started_ns=sent.began_ns[courses],
                duration_ns=np.rint((now - np.where(np.isnan(began_at), now, began_at)) * 1e9).astype(np.int64),
                errors=sent.last_error[courses],
                inherited=self._strategy.inherited(known.plan, known),
                backend=self._backend,
            )
        )

    def take(self) -> Harvest | None:
        """All of them, once; None for none."""
        if not self._harvests:
            return None
        harvests, self._harvests = self._harvests, []
        return joined(harvests)


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
