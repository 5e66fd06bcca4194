"""The prober over a simulated internet, on both event loops."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import nullcontext
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from allhops.errors import CapacityError, ResolveError, UsageError
from allhops.model import StopReason
from allhops.net.many import WINDOW, TraceMany, untraced
from allhops.net.prober import Prober
from allhops.options import TraceOptions
from allhops.testing.fakenet import FakeLease, FakeNet
from allhops.testing.internet import Internet
from allhops.testing.scenario_file import parse_scenario

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from allhops.model import Address, Trace

QUICK = """
schema = "allhops.scenario/1"
[vantage]
ipv4 = "192.0.2.1"
[routers.near]
ipv4 = "10.0.0.1"
[routers.far]
ipv4 = "10.0.0.2"
[routers.host]
ipv4 = "198.18.0.1"
[[paths]]
destination = "198.18.0.0/16"
hops = [{ router = "near", rtt_ms = 0.3 }, { router = "far", rtt_ms = 0.6 }, { router = "host", rtt_ms = 1.0 }]
[[paths]]
destination = "203.0.113.9"
hops = [{ router = "near", rtt_ms = 0.3 }, { router = "host", rtt_ms = 60000.0 }]
"""
SLOW = "203.0.113.9"


class CountingNet(FakeNet):
    """Knows how many leases are out."""

    def __init__(self) -> None:
        super().__init__(Internet(parse_scenario(QUICK)))
        self.leases_out = 0
        self.most_out = 0
        self.closed = False

    def lease(self, destination: Address, options: TraceOptions) -> FakeLease:
        lease = super().lease(destination, options)
        self.leases_out += 1
        self.most_out = max(self.most_out, self.leases_out)
        give_back = lease.close

        def close() -> None:
            self.leases_out -= 1
            give_back()

        lease.close = close  # type: ignore[method-assign]  # of this one object, to look on
        return lease

    def close(self) -> None:
        super().close()
        self.closed = True


@pytest.fixture
def net() -> Iterator[CountingNet]:
    net = CountingNet()
    yield net
    assert net.leases_out == 0


def responders(trace: Trace) -> list[str]:
    return [str(probe.reply.address) for hop in trace.hops for probe in hop.probes[:1] if probe.reply]


async def test_a_trace(net: CountingNet) -> None:
    async with Prober(transport=net) as prober:
        trace = await prober.trace("198.18.0.9")
    assert trace.reached
    assert trace.stop_reason is StopReason.REACHED
    assert responders(trace) == ["10.0.0.1", "10.0.0.2", "198.18.0.9"]
    assert trace.source == IPv4Address("192.0.2.1")
    assert trace.flow is not None
    assert trace.flow.destination_port == 33_434
    assert prober.counters.sent == net.internet.counters["received"]


async def test_hops_arrive_in_order_and_responders_at_once(net: CountingNet) -> None:
    heard: list[Address] = []
    async with Prober(transport=net) as prober:
        tracing = await prober.start("198.18.0.9", TraceOptions(), on_responder=heard.append)
        hops = [hop async for hop in tracing]
        trace = await tracing.result()
    assert tuple(hops) == trace.hops
    assert sorted(map(str, heard)) == ["10.0.0.1", "10.0.0.2", "198.18.0.9"]
    assert "198.18.0.9" in repr(tracing)


async def test_many_traces_share_one_prober_and_none_crosses_over(net: CountingNet) -> None:
    async with Prober(transport=net) as prober:
        traces = await asyncio.gather(*(prober.trace("198.18.0.9") for _ in range(20)))
    assert {tuple(responders(trace)) for trace in traces} == {("10.0.0.1", "10.0.0.2", "198.18.0.9")}
    assert len({trace.flow for trace in traces}) == 20


def test_a_simulated_port_is_leased_once_at_a_time(net: CountingNet, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([7, 7, 8, 7])
    monkeypatch.setattr("secrets.randbelow", lambda most: next(drawn))
    first, second = [net.lease(IPv4Address("198.18.0.1"), TraceOptions()) for _ in range(2)]
    assert (first.source_port, second.source_port) == (32_768 + 7, 32_768 + 8)
    first.close()
    third = net.lease(IPv4Address("198.18.0.1"), TraceOptions())
    assert third.source_port == 32_768 + 7
    second.close()
    third.close()


async def test_trace_many_is_a_list_in_input_order(net: CountingNet) -> None:
    destinations = [f"198.18.0.{index}" for index in range(1, 6)]
    async with Prober(transport=net) as prober:
        traces = await prober.trace_many(destinations)
    assert [trace.destination for trace in traces] == destinations


async def test_trace_many_streams_as_they_finish(net: CountingNet) -> None:
    async def destinations() -> AsyncIterator[str]:
        yield SLOW
        for index in range(3):
            yield f"198.18.0.{index + 1}"

    async with Prober(transport=net) as prober:
        finished = [trace.destination async for trace in prober.trace_many(destinations(), timeout=0.5)]
    assert sorted(finished[:3]) == ["198.18.0.1", "198.18.0.2", "198.18.0.3"]
    assert finished[3] == SLOW


async def test_what_a_slow_source_has_given_is_traced_before_it_gives_more(net: CountingNet) -> None:
    """Its next destination may depend on what the last one has shown."""
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def destinations() -> AsyncIterator[str]:
        for index in range(3):
            yield f"198.18.0.{index + 1}"
            assert await seen.get() == f"198.18.0.{index + 1}"

    async with Prober(transport=net) as prober:
        async for trace in prober.trace_many(destinations()):
            seen.put_nowait(trace.destination)
    assert seen.empty()


async def test_what_a_source_raises_is_raised_and_closes_everything(net: CountingNet) -> None:
    async def broken() -> AsyncIterator[str]:
        yield SLOW
        raise RuntimeError("the list broke")

    async with Prober(transport=net) as prober:
        with pytest.raises(RuntimeError, match="the list broke"):
            await prober.trace_many(broken())
        assert net.leases_out == 0


async def test_one_bad_destination_stops_no_other(net: CountingNet) -> None:
    async with Prober(transport=net) as prober:
        traces = await prober.trace_many(["198.18.0.1", "0.0.0.0", "256.1.1.1", "198.18.0.2"])
    assert [trace.stop_reason for trace in traces] == [
        StopReason.REACHED,
        StopReason.LOCAL_ERROR,
        StopReason.LOCAL_ERROR,
        StopReason.REACHED,
    ]
    assert all(trace.error and trace.destination in trace.error for trace in traces[1:3])


async def test_a_consumer_that_stops_closes_everything(net: CountingNet) -> None:
    async with Prober(transport=net) as prober:
        stream = aiter(prober.trace_many(f"198.18.1.{index}" for index in range(200)))
        await anext(stream)
        await stream.aclose()
        assert net.leases_out == 0


async def test_memory_holds_a_window_of_destinations(net: CountingNet) -> None:
    taken = 0

    def destinations() -> Iterator[str]:
        nonlocal taken
        for index in range(3 * WINDOW):
            taken += 1
            yield f"198.18.{index // 250}.{index % 250 + 1}"

    async with Prober(transport=net) as prober:
        async for _ in prober.trace_many(destinations(), attempts=1, max_ttl=4):
            assert taken - net.leases_out <= 3 * WINDOW
            assert net.leases_out <= WINDOW


async def test_a_window_of_destinations_is_under_way_at_once() -> None:
    under_way = most = 0
    is_full = asyncio.Event()

    class Busy(Prober):
        async def trace_with(self, destination: str | Address, options: TraceOptions) -> Trace:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            if under_way == WINDOW:
                is_full.set()
            await is_full.wait()
            under_way -= 1
            return untraced(destination, options)

    destinations = [f"198.18.0.{index}" for index in range(2 * WINDOW)]
    traces = await TraceMany(lambda: nullcontext(Busy()), destinations, TraceOptions())
    assert [trace.destination for trace in traces] == destinations
    assert most == WINDOW


@pytest.mark.parametrize("turns", range(12))
async def test_cancelling_at_any_await_closes_everything(net: CountingNet, turns: int) -> None:
    async with Prober(transport=net) as prober:
        task = asyncio.create_task(prober.trace(SLOW))
        other = asyncio.create_task(prober.trace("198.18.0.1"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await other).reached
        assert net.leases_out == 0


async def test_a_deadline_around_a_stream_keeps_what_came_before(net: CountingNet) -> None:
    finished = []

    async def consume(prober: Prober) -> None:
        async with asyncio.timeout(0.1):
            async for trace in prober.trace_many(["198.18.0.1", SLOW]):
                finished.append(trace.destination)  # noqa: PERF401 - the point is what is left after the deadline

    async with Prober(transport=net) as prober:
        with pytest.raises(TimeoutError):
            await consume(prober)
    assert finished == ["198.18.0.1"]
    assert len(asyncio.all_tasks()) == 1


async def test_interrupting_ends_a_trace_with_what_is_known(net: CountingNet) -> None:
    async with Prober(transport=net) as prober:
        tracing = await prober.start(SLOW, TraceOptions())
        await anext(aiter(tracing))
        tracing.interrupt()
        trace = await tracing.result()
    assert trace.stop_reason is StopReason.INTERRUPTED
    assert responders(trace) == ["10.0.0.1"]


async def test_two_traces_from_one_port_of_two_addresses_end_each_by_itself(net: CountingNet) -> None:
    """A lease owns its port at one address; the simulated vantage point gives one out twice for that."""
    prober = Prober(transport=net)
    async with prober, asyncio.timeout(5):
        options = TraceOptions(source_port=40_000)
        first, second = [await prober.start(SLOW, options) for _ in range(2)]
        second.interrupt()
        assert (await second.result()).stop_reason is StopReason.INTERRUPTED
        assert prober.clock._heart is not None
        await prober.aclose()
        assert (await first.result()).stop_reason is StopReason.INTERRUPTED


async def test_closing_a_prober_ends_its_traces(net: CountingNet) -> None:
    prober = Prober(transport=net)
    async with prober:
        tracing = await prober.start(SLOW, TraceOptions())
    assert (await tracing.result()).stop_reason is StopReason.INTERRUPTED
    assert net.closed


async def test_the_rate_is_kept_by_all_traces_together(net: CountingNet) -> None:
    loop = asyncio.get_running_loop()
    async with Prober(transport=net, rate_pps=1_000) as prober:
        started = loop.time()
        await asyncio.gather(*(prober.trace(f"198.18.0.{index}", attempts=1, max_ttl=5) for index in range(1, 11)))
        elapsed = loop.time() - started
    assert prober.counters.sent <= 1_000 * elapsed + 10 + 1


async def test_a_trace_that_cannot_begin_gives_its_port_back(net: CountingNet, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise CapacityError("no room for a filter")

    monkeypatch.setattr(FakeLease, "expect", refuse)
    async with Prober(transport=net) as prober:
        with pytest.raises(CapacityError):
            await prober.trace("198.18.0.1")
        assert net.leases_out == 0


async def test_bad_destinations_raise_before_anything_is_sent(net: CountingNet) -> None:
    async def lookup(name: str, ip_version: int | None) -> Address | None:
        return None

    async with Prober(transport=net) as prober:
        with pytest.raises(UsageError):
            await prober.trace("0.0.0.0")
        with pytest.raises(UsageError, match="max_ttl"):
            await prober.trace("198.18.0.1", max_ttl=300)
        with pytest.raises(UsageError, match="size"):
            await prober.trace("198.18.0.1", size=20)
        with pytest.raises(ResolveError, match="no such name"):
            await prober.start("nowhere.example", TraceOptions(), lookup=lookup)
    assert net.internet.counters["received"] == 0


async def test_a_prober_belongs_to_its_loop_and_its_process(net: CountingNet, monkeypatch: pytest.MonkeyPatch) -> None:
    prober = Prober(transport=net)
    with pytest.raises(RuntimeError, match="not open"):
        await prober.trace("198.18.0.1")
    async with prober:
        errors: list[BaseException] = []

        def elsewhere() -> None:
            try:
                asyncio.run(prober.trace("198.18.0.1"))
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert "another event loop" in str(errors[0])
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with pytest.raises(RuntimeError, match="fork"):
            await prober.trace("198.18.0.1")


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_impossible_rates(rate: float) -> None:
    with pytest.raises(UsageError, match="rate_pps"):
        Prober(rate_pps=rate)
