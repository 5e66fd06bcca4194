"""Every TTL at once: the whole path about one round trip later; then rows in doubt again, alone.

The first wave ascends by TTL, all attempts of one TTL together. Routers and hosts with Linux's default limits answer
one peer six times at once and then once a second (net.ipv4.icmp_ratelimit): in this order the destination spends its
six on the lowest TTLs that reach it, which are the ones that count, and a router that rejects what it should pass on
has answered for its own TTL before it answers for those beyond.

Rows in doubt are asked again when half of their wait is over, and wait for the other half: asking again costs no time,
unless the pace is so slow that the wave takes longer than they are waited for. Beyond that the trace is held only when
a row shows that its router limits its answers, until such a limit has let one more answer through.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from allhops.core.doubt import doubtful_rows, doubtful_tail, is_overlooked, limited_rows
from allhops.core.strategies.alone import alone
from allhops.core.strategies.steps import Pause, Step, Wave

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.core.course import Course

REFILLS_S = (1.1, 2.2)
"""Since the first wave: Linux's routers have one more answer a second after their last. The second is for rows that
only the first brought to light."""
SPACING_S = 0.005
"""Between two probes that ask again: alone means that no router sees two of them together."""


def parallel(course: Course) -> Iterator[Step]:
    """One wave of everything, then what is in doubt."""

    def is_limited() -> bool:
        return bool(limited_rows(course))

    plan = course.plan
    yield Wave([slot for slot in plan.course_slots(course.index) if not plan.is_spare(slot)])
    yield Pause(lambda: course.near_wait / 2, lambda: course.has_nameless_replies or is_overlooked(course))
    if course.has_nameless_replies:
        yield from alone(course)
    yield Wave(doubtful_rows(course), SPACING_S, partial(is_overlooked, course))
    if course.end_ttl is None:
        yield Pause(lambda: course.tail_wait / 2)
    if course.end_ttl is None:
        yield Wave([*doubtful_rows(course), *doubtful_tail(course)], SPACING_S, is_limited)
    for refill_s in REFILLS_S:
        yield Pause(partial(float, refill_s), is_limited)
        yield Wave(limited_rows(course), SPACING_S, is_limited)
