"""What the caller listed to what a batch is fed: addresses as they are, names through the resolver, many at once.

The list is read lazily and its order is not kept where names take their time: each destination carries its position,
and comes as soon as it is known, in a group of its own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from allhops.errors import ResolveError, UsageError
from allhops.model import StopReason
from allhops.net.batch.group import Group
from allhops.net.many import untraced
from allhops.net.read_ahead import following
from allhops.net.resolve import literal, resolve

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from allhops.model import Address, Trace
    from allhops.options import TraceOptions

    Lookup = Callable[[str, int | None], Awaitable[Address | None]]

LOOKUPS = 64
"""Names that are asked for at once."""


class Refused(NamedTuple):
    """One that cannot be traced, and what stands for its trace."""

    position: int
    """In the caller's list."""
    trace: Trace


async def feed(
    source: AsyncIterator[tuple[int, str | Address]],
    options: TraceOptions,
    lookup: Lookup | None = None,
) -> AsyncGenerator[Group | Refused, None]:
    """Each destination once it is known where it is, or why it is nowhere.

    `source` has them with their positions in the caller's list; `lookup` replaces the system's resolver.
    """
    asked: set[asyncio.Task[Group | Refused]] = set()
    coming: asyncio.Task[tuple[int, str | Address] | None] | None = None
    try:
        while True:
            if not asked and coming is None:
                item = await anext(source, None)
            else:  # whatever comes first: an answer, or the next of the list while there is room for its question
                if coming is None and len(asked) < LOOKUPS:
                    coming = asyncio.ensure_future(following(source))
                done, _ = await asyncio.wait(
                    {*asked, coming} if coming is not None else asked, return_when=asyncio.FIRST_COMPLETED
                )
                answered = {task for task in asked if task in done}
                asked -= answered
                for task in answered:
                    yield task.result()
                if coming is None or not coming.done():
                    continue
                item, coming = coming.result(), None
            if item is None:
                break
            known = _at_once(*item, options)
            if known is None:
                asked.add(asyncio.ensure_future(_ask(item[0], str(item[1]), options, lookup)))
            else:
                yield known
        for answer in asyncio.as_completed(asked):
            yield await answer
    finally:
        if coming is not None:
            coming.cancel()
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, *([coming] if coming is not None else []), return_exceptions=True)


def _at_once(position: int, destination: str | Address, options: TraceOptions) -> Group | Refused | None:
    """What needs no resolver; None for a name."""
    try:
        address = literal(destination, options.ip_version)
    except (UsageError, ResolveError) as error:
        return Refused(position, untraced(destination, options, str(error), StopReason.BAD_DESTINATION))
    return None if address is None else Group.of([address], [str(destination)], [position])


async def _ask(position: int, name: str, options: TraceOptions, lookup: Lookup | None) -> Group | Refused:
    try:
        return Group.of([await resolve(name, options.ip_version, lookup)], [name], [position])
    except (UsageError, ResolveError) as error:
        return Refused(position, untraced(name, options, str(error)))
