"""Which slots to launch and in what order: one generator per file, and the table of them.

A strategy yields waves of slots for one course, and pauses; the session sends a wave in its order, leaves out what can
no longer change the result, and asks for the next step when a wave is sent or a pause is over. Between two steps the
strategy may look at the course, never at a packet or a clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allhops.core.strategies.parallel import parallel
from allhops.core.strategies.question import question

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from allhops.core.course import Course
    from allhops.core.strategies.steps import Step

STRATEGIES: dict[str, Callable[[Course], Iterator[Step]]] = {
    "parallel": parallel,
    "question": question,
}
"""By name. ADD AN ALGORITHM HERE."""
