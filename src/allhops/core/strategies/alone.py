"""One row at a time: for replies that name none of their probes.

Without raw sockets the kernel keeps the quoted IP header to itself, and a router that quotes nothing but ports, which a
constant flow has in common, has said nothing of which probe it means. Asked alone, a row's replies can mean no other:
the transport, which knows what is out, then names them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allhops.core.doubt import silent_ttls, spare_slots
from allhops.core.strategies.steps import Pause, Settle, Step, Wave

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.core.course import Course

QUIET_S = 0.2
"""Shortest time after which a probe of the first wave counts as silent."""
QUIET_FACTOR = 3
"""Times the slowest RTT, for the same."""


def alone(course: Course) -> Iterator[Step]:
    """Silent rows again, nearest first, each with all the attempts it has left, until the path's end is found."""

    def always() -> bool:
        return True

    yield Pause(lambda: max(QUIET_S, QUIET_FACTOR * course.slowest_ns / 1e9), always)
    last = min(course.highest_heard + course.plan.options.gap_limit, course.plan.options.max_ttl)
    for ttl in silent_ttls(course, last):
        if course.end_ttl is not None and ttl >= course.end_ttl:
            return
        slots = spare_slots(course, ttl)
        yield Wave(slots, holds=always)
        yield Settle(slots, always)
