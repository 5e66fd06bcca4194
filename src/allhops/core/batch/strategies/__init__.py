"""Which rows of which courses to ask next: one class per file, and the table of them.

A strategy is shared by all windows of a batch, so that it may remember what it has learned. It is asked about courses
none of whose probes is in flight or waits to be sent, in arrays, so it never sees a packet or a clock.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from numpy import bool_, int64, uint8
    from numpy.typing import NDArray

    from allhops.core.batch.survey import Survey
    from allhops.core.plan import Plan


class Asked(NamedTuple):
    """What to send now, and for whom nothing is left to ask."""

    slots: NDArray[int64]
    """(m,): each unsent so far; in any order, the window spreads them. Of the courses that the strategy was asked
    about, and of some that it has held back until now."""
    done: NDArray[bool_]
    """(n,), one for each course that the strategy was asked about: it ends. Those that are not done and have no slots
    are held back."""
    may_end: NDArray[bool_] | None = None
    """(n,): which of them could end as they are, should nothing more be sent; None: those that are done."""
    again: NDArray[int64] | None = None
    """(k,): courses held back that it wants to be asked about once more; None for none."""


class Inheritance(NamedTuple):
    """Hops that were not asked because another course had met the same responder at the same TTL; k of them."""

    course: NDArray[int64]
    """(k,): course of the plan."""
    ttl: NDArray[uint8]
    """(k,)"""
    responder: NDArray[uint8]
    """(k, 16): packed address, left-aligned as in the ledger."""
    donor: NDArray[uint8]
    """(k, 16): destination of the course that measured it."""


class Strategy(Protocol):
    """See the module."""

    spare_attempts: int
    """Slots that it needs in each row besides those that the caller asked for."""
    at_once: int
    """Courses moved on in one go: what takes some 5 ms, for the pace has no more than 10 ms to wait."""

    def begin(self, plan: Plan) -> NDArray[int64]:
        """First slots of a new window. Courses without any are held back: `proceed` asks for them when others end.

        So while one course is held back another one must be under way.
        """
        ...

    def proceed(self, plan: Plan, survey: Survey) -> Asked:
        """Go on with the courses of a survey, in its order: those that are settled, or all that are held back."""
        ...

    def awaited(self, plan: Plan) -> NDArray[bool_]:
        """(courses,): whose end others wait for. Their probes are sent first."""
        ...

    def inherited(self, plan: Plan, survey: Survey) -> Inheritance | None:
        """Hops of courses that end now which they owe to others; None for none.

        Called once for each course, right after the `proceed` that ended it, or when the window ends it itself.
        """
        ...


BATCH_STRATEGIES = {
    "parallel": "allhops.core.batch.strategies.parallel:Parallel",
    "frugal": "allhops.core.batch.strategies.frugal:Frugal",
    "whole": "allhops.core.batch.strategies.whole:Whole",
}
"""Name to class. ADD AN ALGORITHM HERE."""


def batch_strategy(name: str) -> Strategy:
    """A new strategy of `BATCH_STRATEGIES`, which has learned nothing yet."""
    module, _, class_name = BATCH_STRATEGIES[name].partition(":")
    made: Strategy = getattr(import_module(module), class_name)()
    return made
