"""One probe to the first TTL, and only if nobody answers it some more: to learn whether a size gets through.

Routers answer a limited number of probes, so none is spent on what one has answered already. Later rows are asked as
well as the first one again: any answer from there says the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allhops.core.strategies.parallel import SPACING_S
from allhops.core.strategies.steps import Pause, Step, Wave

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.core.course import Course

PATIENCE = 0.25
"""Of the wait: when the others are asked."""


def question(course: Course) -> Iterator[Step]:
    """The first row's first slot; then its first spare one, and the rest."""
    plan = course.plan
    slots = [slot for slot in plan.course_slots(course.index) if not plan.is_spare(slot)]
    yield Wave(slots[:1])
    yield Pause(lambda: PATIENCE * course.tail_wait)
    yield Wave([slots[0] + plan.options.attempts, *slots[1:]], SPACING_S)
