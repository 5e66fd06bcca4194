"""The two calls that most programs need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from allhops.net.many import TraceMany
from allhops.net.prober import Prober
from allhops.options import TraceOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable

    from allhops.model import Address, Trace
    from allhops.options import TraceKeywords

BATCH_RATE_PPS = 5_000.0
"""Probes a second of a batch unless the caller says otherwise: polite to the first routers, which see all of it."""


async def trace(destination: str | Address, **options: Unpack[TraceKeywords]) -> Trace:
    """Trace the path to one destination, every TTL at once.

        trace = await allhops.trace("example.org", max_ttl=32, attempts=3, timeout=2.0)

    `destination` is a name or an address; the keywords are the fields of `TraceOptions`.

    Raises:
        UsageError: an option or a destination that cannot be.
        ResolveError: a name without an address of the asked family.
        PrivilegeError: the kernel refuses the sockets.
        SendError: no route there.
    """
    async with Prober() as prober:
        return await prober.trace(destination, **options)


def trace_many(
    destinations: Iterable[str | Address] | AsyncIterable[str | Address],
    *,
    rate_pps: float | None = BATCH_RATE_PPS,
    **options: Unpack[TraceKeywords],
) -> TraceMany:
    """Trace many destinations with one set of sockets and one pacer.

        traces = await allhops.trace_many(destinations)          # a list, in input order
        async for trace in allhops.trace_many(destinations):     # as they finish

    `rate_pps` is the rate of all probes together, None for as fast as the machine can. A destination that cannot
    be traced yields a `Trace` with stop reason `local_error` and stops no other.

    Raises:
        UsageError: an option that cannot be.
        PrivilegeError: the kernel refuses the sockets.
    """
    return TraceMany(lambda: Prober(rate_pps=rate_pps), destinations, TraceOptions(**options))
