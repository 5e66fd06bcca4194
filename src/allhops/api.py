"""The two calls that most programs need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from allhops.core.batch.strategies import BATCH_STRATEGIES
from allhops.core.plan import check_size
from allhops.errors import UsageError
from allhops.net.many import TraceMany
from allhops.net.prober import Prober
from allhops.net.source import check_source
from allhops.options import BATCH_RATE_PPS, TraceOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable

    from allhops.model import Address, Trace
    from allhops.net.batch.engine import Batch
    from allhops.options import TraceKeywords


async def trace(destination: str | Address, **options: Unpack[TraceKeywords]) -> Trace:
    """Trace the path to one destination, every TTL at once.

        trace = await allhops.trace("example.org", max_ttl=32, attempts=3, timeout=2.0)

    `destination` is a name or an address; the keywords are the fields of `TraceOptions`.

    Raises:
        UsageError: an option or a destination that cannot be.
        ResolveError: a name without an address of the asked family.
        PrivilegeError: the kernel refuses the sockets.
        CapacityError: out of ports or file descriptors.
        SendError: no route there.
    """
    async with Prober() as prober:
        return await prober.trace(destination, **options)


def trace_many(
    destinations: Iterable[str | Address] | AsyncIterable[str | Address],
    *,
    rate_pps: float | None = BATCH_RATE_PPS,
    strategy: str | None = None,
    seed: int | None = None,
    **options: Unpack[TraceKeywords],
) -> TraceMany:
    """Trace many destinations with one set of sockets and one pacer.

        traces = await allhops.trace_many(destinations)          # a list, in input order
        async for trace in allhops.trace_many(destinations):     # as they finish

    Destinations are taken lazily, and a slow consumer slows the probing down: memory holds windows of them, never the
    whole list. Nothing waits for a slow source: what it has given is traced, and yielded, before it gives more.
    `rate_pps` is the rate of all probes together, None for as fast as this machine can without loss of its own. A
    destination that cannot be traced yields a `Trace` with stop reason `local_error` or `bad_destination` and stops no
    other.

    `strategy` is "parallel", which asks every TTL (what fewer than 100 destinations get when nothing is said), or
    "frugal", which asks only what other paths have not shown yet (what more get): hops that it owes to another trace
    have no probes and say so in `Hop.inherited`, and the far end of a path to a silent destination is left out where
    experience says that it would show nobody new. "whole" shows every hop as "parallel" does, and asks only what other
    paths leave in doubt: a hop is inherited where many flows came by the same router and none by another.
    `seed` makes the order of the probes of a batch repeatable.

    Raises:
        UsageError: an option that cannot be, or a single destination in the place of many.
        PrivilegeError: the kernel refuses the sockets.
    """
    asked = TraceOptions(**options)
    if strategy is not None and strategy not in BATCH_STRATEGIES:
        raise UsageError(f"strategy must be one of {', '.join(BATCH_STRATEGIES)}, not {strategy!r}")
    if seed is not None and not (isinstance(seed, int) and seed >= 0):
        raise UsageError(f"seed must be a whole number from 0 on, not {seed!r}")

    def open_prober() -> Prober:
        check_size(asked)
        check_source(asked)  # as a batch does: what no destination can have is no matter of each of them
        return Prober(rate_pps=rate_pps)

    def open_batch(name: str) -> Batch:
        from allhops.net.batch.engine import Batch  # numpy: 90 ms that few destinations need not pay

        return Batch(asked, strategy=name, rate_pps=rate_pps, seed=seed)

    return TraceMany(open_prober, destinations, asked, open_batch=open_batch, strategy=strategy)
