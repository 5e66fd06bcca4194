"""Every TTL at once: the whole path about one round trip later.

The wave ascends by TTL, all attempts of one TTL together. Routers and hosts with Linux's default limits answer one peer
six times at once and then once a second (net.ipv4.icmp_ratelimit): in this order the destination spends its six on
the lowest TTLs that reach it, which are the ones that count, and a router that rejects what it should
pass on has answered for its own TTL before it answers for those beyond.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from allhops.core.plan import Plan


def parallel(plan: Plan, course: int) -> Iterator[Sequence[int]]:
    """One wave: all slots of the course."""
    yield plan.course_slots(course)
