"""Many traces in one call: awaitable for a list in input order, async-iterable as they finish.

Destinations are taken from their iterable lazily, as places become free, so that a slow consumer slows the
probing down and memory holds a window of them, never the whole list.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from allhops.errors import CapacityError, ResolveError, SendError, UsageError
from allhops.model import StopReason, Trace
from allhops.net.read_ahead import ReadAhead, following
from allhops.net.resolve import literal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable
    from contextlib import AbstractAsyncContextManager

    from allhops.model import Address
    from allhops.net.batch.engine import Batch
    from allhops.net.prober import Prober
    from allhops.options import TraceOptions

    Member = tuple[int, str | Address]
    """Position in the caller's list, and what stands there."""

WINDOW = 100
"""Destinations under way at once."""
PARALLEL_BELOW = 100
"""Destinations from which on what one path shows saves probes on the next."""
UNDECIDED_S = 0.5
"""How long a slow source may keep it open whether there are few destinations or many."""
PARALLEL, FRUGAL = "parallel", "frugal"
"""Strategies; the second is that of batches whose caller does not say."""
TURN = 32
"""Traces made out of columns before the loop gets its turn."""


class TraceMany:
    """Await it for a list in input order, or iterate it for traces as they finish; once.

    `open_batch` makes the batch for a strategy's name where there are `PARALLEL_BELOW` destinations or more, or where
    `strategy` asks for what only a batch can do; None leaves all to the prober.

    Raises: UsageError for a single destination.
    """

    def __init__(
        self,
        open_prober: Callable[[], AbstractAsyncContextManager[Prober]],
        destinations: Iterable[str | Address] | AsyncIterable[str | Address],
        options: TraceOptions,
        *,
        open_batch: Callable[[str], Batch] | None = None,
        strategy: str | None = None,
    ) -> None:
        if isinstance(destinations, str | bytes):  # iterable, but nobody means its letters
            raise UsageError(f"many destinations are asked for: write [{destinations!r}]")
        self._open_prober = open_prober
        self._open_batch = open_batch
        self._destinations = destinations
        self._options = options
        self._strategy = strategy

    def __await__(self) -> Generator[object, None, list[Trace]]:
        return self._in_order().__await__()

    async def __aiter__(self) -> AsyncGenerator[Trace, None]:
        async with aclosing(self._numbered()) as numbered:  # so that whoever stops early stops all of it
            async for _, trace in numbered:
                yield trace

    async def _in_order(self) -> list[Trace]:
        async with aclosing(self._numbered()) as numbered:
            pairs = [pair async for pair in numbered]
        return [trace for _, trace in sorted(pairs, key=lambda pair: pair[0])]

    async def _numbered(self) -> AsyncGenerator[tuple[int, Trace], None]:
        """(position in the input, trace) as they finish; every task has ended when this has."""
        async with aclosing(numbered(self._destinations)) as source, aclosing(ReadAhead(source)) as members:
            if self._open_batch is not None:
                await members.look(PARALLEL_BELOW, UNDECIDED_S)
            strategy = self._strategy_for(members)
            if self._open_batch is None or strategy is None:
                traces = self._by_prober(aiter(members))
            else:
                traces = self._by_batch(self._open_batch(strategy), aiter(members))
            async with aclosing(traces):
                async for pair in traces:
                    yield pair

    def _strategy_for(self, members: ReadAhead[Member]) -> str | None:
        """The batch's; None where the prober does as well, or where only it can do what is asked for."""
        if len(members.items) == PARALLEL_BELOW:
            return self._strategy or FRUGAL
        if self._strategy not in (None, PARALLEL):
            return self._strategy
        return None if members.is_all or self._options.is_for_one_trace else PARALLEL

    async def _by_batch(
        self, open_batch: Batch, source: AsyncIterator[Member]
    ) -> AsyncGenerator[tuple[int, Trace], None]:
        from allhops.net.batch.feed import Refused, feed  # numpy, below: 90 ms that few destinations need not pay

        async with open_batch as batch, aclosing(feed(source, self._options)) as fed, aclosing(batch.run(fed)) as ended:
            async for item in ended:
                if isinstance(item, Refused):
                    yield item
                    continue
                positions = item.positions[item.courses].tolist()
                for number, pair in enumerate(zip(positions, item.traces(), strict=True)):
                    yield pair
                    if number % TURN == TURN - 1:
                        await asyncio.sleep(0)

    async def _by_prober(self, source: AsyncIterator[Member]) -> AsyncGenerator[tuple[int, Trace], None]:
        tasks: set[asyncio.Task[tuple[int, Trace]]] = set()
        done: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
        coming: asyncio.Task[Member | None] | None = None
        is_exhausted = False
        async with self._open_prober() as prober:
            try:
                while True:
                    if coming is None and not is_exhausted and len(tasks) < WINDOW:
                        coming = asyncio.ensure_future(following(source))
                        coming.add_done_callback(done.put_nowait)
                    if coming is None and not tasks:
                        return
                    task = await done.get()
                    if task is not coming:
                        tasks.remove(task)
                        yield task.result()
                        continue
                    coming, member = None, task.result()
                    if member is None:
                        is_exhausted = True
                    else:
                        tracing = asyncio.ensure_future(self._trace(prober, *member))
                        tracing.add_done_callback(done.put_nowait)
                        tasks.add(tracing)
            finally:
                left = [*tasks, *([coming] if coming is not None else [])]
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)

    async def _trace(self, prober: Prober, position: int, destination: str | Address) -> tuple[int, Trace]:
        try:
            literal(destination, self._options.ip_version)
        except (UsageError, ResolveError) as error:
            return position, untraced(destination, self._options, str(error), StopReason.BAD_DESTINATION)
        try:
            return position, await prober.trace_with(destination, self._options)
        except (UsageError, ResolveError, SendError, CapacityError) as error:
            return position, untraced(destination, self._options, str(error))


async def numbered(
    destinations: Iterable[str | Address] | AsyncIterable[str | Address],
) -> AsyncGenerator[Member, None]:
    """Read lazily."""
    position = 0
    if hasattr(destinations, "__aiter__"):
        async for destination in destinations:
            yield position, destination
            position += 1
    else:
        for destination in destinations:
            yield position, destination
            position += 1


def untraced(
    destination: str | Address,
    options: TraceOptions,
    error: str | None = None,
    reason: StopReason = StopReason.LOCAL_ERROR,
) -> Trace:
    """What stands for a trace that could not be started."""
    return Trace(
        destination=str(destination),
        address=None,
        source=None,
        protocol=options.protocol,
        flow=None,
        started_at_ns=time.time_ns(),
        duration_ns=0,
        stop_reason=reason,
        hops=(),
        error=error,
    )
