"""The first of an async iterator, and the rest: each item once, in order, whenever it comes."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from allhops.net.read_ahead import ReadAhead

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FOREVER_S = 60.0


async def at_once(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


class Fed:
    """Gives what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[int | None] = asyncio.Queue()
        self.was_closed = False

    async def __aiter__(self) -> AsyncIterator[int]:
        try:
            while (number := await self.queue.get()) is not None:
                yield number
        finally:
            self.was_closed = True


@pytest.mark.parametrize(("count", "most"), [(0, 3), (2, 3), (3, 3), (7, 3)])
async def test_all_come_in_order(count: int, most: int) -> None:
    async with aclosing(ReadAhead(at_once(count))) as ahead:
        await ahead.look(most, FOREVER_S)
        assert ahead.items == list(range(min(count, most)))
        assert ahead.is_all == (count < most)
        assert [item async for item in ahead] == list(range(count))


async def test_without_a_look_it_is_the_iterator() -> None:
    async with aclosing(ReadAhead(at_once(3))) as ahead:
        assert [item async for item in ahead] == [0, 1, 2]


async def test_patience_ends_and_what_was_asked_for_is_not_lost() -> None:
    fed = Fed()
    fed.queue.put_nowait(1)
    async with aclosing(ReadAhead(aiter(fed))) as ahead:
        await ahead.look(10, 0.01)
        assert (ahead.items, ahead.is_all) == ([1], False)
        for number in (2, 3, None):
            fed.queue.put_nowait(number)
        assert [item async for item in ahead] == [1, 2, 3]


async def test_a_source_that_ends_after_patience_did() -> None:
    fed = Fed()
    async with aclosing(ReadAhead(aiter(fed))) as ahead:
        await ahead.look(10, 0.01)
        fed.queue.put_nowait(None)
        assert [item async for item in ahead] == []


async def test_what_the_source_raises_is_raised() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise RuntimeError("the list broke")

    async with aclosing(ReadAhead(broken())) as ahead:
        with pytest.raises(RuntimeError, match="the list broke"):
            await ahead.look(10, FOREVER_S)


async def test_closing_ends_a_source_that_is_being_waited_for() -> None:
    fed = Fed()
    async with aclosing(ReadAhead(aiter(fed))) as ahead:
        await ahead.look(10, 0.01)
    assert fed.was_closed
