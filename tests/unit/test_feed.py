from __future__ import annotations

import asyncio
from contextlib import aclosing
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import pytest

from allhops.model import StopReason
from allhops.net.batch.feed import LOOKUPS, Refused
from allhops.net.batch.feed import feed as numbered_feed
from allhops.net.many import numbered
from allhops.options import TraceOptions
from tests.groups import Destination, each

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator

    from allhops.model import Address
    from allhops.net.batch.feed import Lookup
    from allhops.net.batch.group import Group


async def feed(
    destinations: Iterable[str | Address] | AsyncIterable[str | Address], options: TraceOptions, lookup: Lookup
) -> AsyncGenerator[Destination | Refused, None]:
    async with aclosing(numbered(destinations)) as source, aclosing(numbered_feed(source, options, lookup)) as fed:
        async for item in fed:
            yield item if isinstance(item, Refused) else _only(item)


def _only(group: Group) -> Destination:
    (destination,) = each(group)
    return destination


async def nobody(name: str, ip_version: int | None) -> Address | None:
    return None


async def test_addresses_come_in_order_and_need_no_resolver() -> None:
    fed = [one async for one in feed(["192.0.2.1", IPv6Address("2001:db8::1"), " "], TraceOptions(), nobody)]
    assert fed[:2] == [
        Destination(0, "192.0.2.1", IPv4Address("192.0.2.1")),
        Destination(1, "2001:db8::1", IPv6Address("2001:db8::1")),
    ]
    refused = fed[2]
    assert isinstance(refused, Refused)
    assert (refused.position, refused.trace.stop_reason) == (2, StopReason.BAD_DESTINATION)


async def test_a_slow_name_holds_nobody_up() -> None:
    answer = asyncio.Event()

    async def slow(name: str, ip_version: int | None) -> Address | None:
        await answer.wait()
        return IPv4Address("192.0.2.9")

    fed = feed(["slow.example", "192.0.2.1", "192.0.2.2"], TraceOptions(), slow)
    assert [(await anext(fed)).position for _ in range(2)] == [1, 2]
    answer.set()
    assert await anext(fed) == Destination(0, "slow.example", IPv4Address("192.0.2.9"))
    assert [one async for one in fed] == []


async def test_a_list_that_is_slower_than_its_names_is_read_on() -> None:
    """The last name is answered while the next line is still being waited for."""
    more = asyncio.Event()

    async def slowly() -> AsyncIterator[str]:
        yield "a.example"
        await more.wait()
        yield "192.0.2.1"

    async def known(name: str, ip_version: int | None) -> Address | None:
        return IPv4Address("192.0.2.9")

    fed = feed(slowly(), TraceOptions(), known)
    assert (await anext(fed)).position == 0
    rest = asyncio.ensure_future(anext(fed))
    await asyncio.sleep(0)
    more.set()
    assert (await rest).position == 1
    assert [one async for one in fed] == []


async def test_a_name_without_an_address_is_refused_with_a_reason() -> None:
    (refused,) = [one async for one in feed(["no.such.example"], TraceOptions(), nobody)]
    assert isinstance(refused, Refused)
    assert refused.trace.stop_reason is StopReason.LOCAL_ERROR
    assert "no such name" in str(refused.trace.error)


async def test_no_more_names_are_asked_for_at_once_than_the_limit() -> None:
    running = most = 0

    async def count(name: str, ip_version: int | None) -> Address | None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running -= 1
        return IPv4Address("192.0.2.9")

    names = [f"host{number}.example" for number in range(10 * LOOKUPS)]
    fed = [one async for one in feed(names, TraceOptions(), count)]
    assert sorted(one.position for one in fed) == list(range(len(names)))
    assert most <= LOOKUPS


async def test_the_list_is_read_lazily() -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "192.0.2.1"

    fed = feed(endless(), TraceOptions(), nobody)
    for _ in range(10):
        await anext(fed)
    assert read == 10
    await fed.aclose()


async def test_whoever_leaves_leaves_no_task_behind() -> None:
    async def never(name: str, ip_version: int | None) -> Address | None:
        await asyncio.Event().wait()
        raise AssertionError

    async def slowly() -> AsyncIterator[str]:
        yield "a.example"
        yield "192.0.2.1"
        await asyncio.Event().wait()

    fed = feed(slowly(), TraceOptions(), never)
    assert (await anext(fed)).position == 1
    await fed.aclose()
    for _ in range(3):  # the loop closes the list's own generator
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_the_list_raises_is_raised() -> None:
    def broken() -> Iterator[str]:
        yield "192.0.2.1"
        raise RuntimeError("the list broke")

    fed = feed(broken(), TraceOptions(), nobody)
    await anext(fed)
    with pytest.raises(RuntimeError, match="the list broke"):
        await anext(fed)
