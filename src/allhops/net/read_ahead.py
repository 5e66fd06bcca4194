"""The first of an async iterator, as many as there are before long, and then the rest of it: none is lost or kept back.

Whoever feeds a batch may wait for its results before there is more to feed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Item = TypeVar("Item")


async def following(source: AsyncIterator[Item]) -> Item | None:
    """The next one; None for the end."""
    return await anext(source, None)


class ReadAhead(Generic[Item]):
    """Iterate it for all of `source`, once. `look` first tells what there is; `aclose` when done."""

    def __init__(self, source: AsyncIterator[Item]) -> None:
        self._source = source
        self._following: asyncio.Task[Item | None] | None = None
        self.items: list[Item] = []
        """The first of them."""
        self.is_all = False
        """Whether there are no others."""

    async def look(self, most: int, patience_s: float) -> None:
        """Have up to `most` items, or what there is after so many seconds. Raises: what the source raises."""
        until = asyncio.get_running_loop().time() + patience_s
        while len(self.items) < most:
            self._following = self._following or asyncio.ensure_future(following(self._source))
            patience_s = max(0.0, until - asyncio.get_running_loop().time())
            done, _ = await asyncio.wait({self._following}, timeout=patience_s)
            if not done:
                return
            item, self._following = self._following.result(), None
            if item is None:
                self.is_all = True
                return
            self.items.append(item)

    async def __aiter__(self) -> AsyncIterator[Item]:
        for item in self.items:
            yield item
        self.items = []
        if self._following is not None:
            late, self._following = await self._following, None
            if late is None:
                return
            yield late
        if not self.is_all:
            async for item in self._source:
                yield item

    async def aclose(self) -> None:
        """Ask for no further item."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            self._following = None
