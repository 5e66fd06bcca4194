"""Which slots to launch and in what order: one generator of waves per file, and the table of them.

A strategy yields waves of slots for one course; the session sends a wave in its order, leaves out
what can no longer change the result, and asks for the next wave when one is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allhops.core.strategies.parallel import parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from allhops.core.plan import Plan

STRATEGIES: dict[str, Callable[[Plan, int], Iterator[Sequence[int]]]] = {
    "parallel": parallel,
}
"""By name: (plan, course) -> waves. ADD AN ALGORITHM HERE."""
