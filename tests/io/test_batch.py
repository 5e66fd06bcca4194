"""The batch on a real loop, its wire in memory: everything fed is accounted for, and nothing is read ahead of need."""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from contextlib import aclosing
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import allhops
from allhops.core.batch.strategies import BATCH_STRATEGIES
from allhops.core.harvest import STOP_REASONS, Harvest
from allhops.errors import SendError, UsageError
from allhops.model import ReplyKind, StopReason
from allhops.net import many
from allhops.net.batch import engine, windows
from allhops.net.batch import feed as feeding
from allhops.net.batch.engine import Batch
from allhops.net.batch.feed import Refused
from allhops.net.batch.group import Group
from allhops.net.batch.wire import Ways
from allhops.net.many import PARALLEL_BELOW, TraceMany, untraced
from allhops.net.prober import Prober
from allhops.options import TraceOptions
from allhops.testing import FakeWire, SyntheticInternet
from allhops.testing.fakewire import FakeWireLease

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator

    from allhops.core.lanes import Block
    from allhops.model import Trace
    from allhops.net.batch.wire import Way
    from allhops.options import TraceKeywords

OPTIONS = TraceOptions(attempts=1, timeout=0.4)


async def fed(addresses: list[int], taken: list[int] | None = None) -> AsyncIterator[Group]:
    for position, number in enumerate(addresses):
        if taken is not None:
            taken.append(position)
        yield Group.of([IPv4Address(number)], positions=[position])


async def all_of(batch: Batch, feed: AsyncIterator[Group]) -> tuple[list[Trace], list[Refused]]:
    traces: list[Trace] = []
    refused: list[Refused] = []
    async for item in batch.run(feed):
        if isinstance(item, Harvest):
            traces += item.traces()
        else:
            refused.append(item)
    return traces, refused


@pytest.mark.parametrize("strategy", ["parallel", "frugal", "whole"])
async def test_every_destination_has_its_path(strategy: str) -> None:
    net = SyntheticInternet(3, destinations=100)
    addresses = net.destinations().tolist()
    async with Batch(OPTIONS, strategy=strategy, wire=FakeWire(net), seed=1) as batch:
        traces, refused = await all_of(batch, fed(addresses))
        stats = batch.stats
    assert refused == []
    assert Counter(int(trace.address or 0) for trace in traces) == Counter(addresses)
    assert stats.sent == stats.answered + stats.timed_out
    assert stats.done == 100
    wrong = 0
    for trace in traces:
        assert trace.flow is not None
        assert trace.address is not None
        truth = net.path(str(trace.address), trace.flow.source_port)
        for hop in trace.hops:
            heard = {probe.reply.address for probe in hop.probes if probe.reply is not None}
            expected = truth[hop.ttl - 1] if hop.ttl <= len(truth) else None
            wrong += bool(heard) and heard != {expected}
    assert wrong == 0


async def test_a_parallel_batch_misses_no_hop() -> None:
    net = SyntheticInternet(3, destinations=200)
    async with Batch(OPTIONS, strategy="parallel", wire=FakeWire(net), seed=1) as batch:
        traces, _ = await all_of(batch, fed(net.destinations().tolist()))
    for trace in traces:
        assert trace.flow is not None
        assert trace.address is not None
        truth = net.path(str(trace.address), trace.flow.source_port)
        told = [hop.probes[0].reply.address if hop.probes[0].reply else None for hop in trace.hops]
        ends_there = trace.stop_reason is StopReason.REACHED
        known = told if ends_there else told[: len(told) - OPTIONS.gap_limit]
        assert known == truth[: len(known)]
        if ends_there:
            assert len(told) == len(truth)
            last = trace.hops[-1].probes[0].reply
            assert last is not None
            assert last.kind is ReplyKind.DESTINATION


async def test_a_whole_batch_shows_every_hop_measured_or_inherited() -> None:
    net = SyntheticInternet(3, destinations=1_000)
    async with Batch(OPTIONS, strategy="whole", wire=FakeWire(net), seed=1) as batch:
        traces, _ = await all_of(batch, fed(net.destinations().tolist()))
    inherited = 0
    for trace in traces:
        assert trace.flow is not None
        truth = net.path(str(trace.address), trace.flow.source_port)
        told = []
        for hop in trace.hops:
            inherited += hop.inherited is not None
            replies = [probe.reply.address for probe in hop.probes if probe.reply is not None]
            told.append(hop.inherited.address if hop.inherited is not None else replies[0] if replies else None)
        told += [None] * (len(truth) - len(told))
        assert told[: len(truth)] == truth
    assert inherited > 2_000


async def test_one_address_twice_is_traced_twice() -> None:
    net = SyntheticInternet(3, destinations=10)
    address = net.destinations().tolist()[0]
    async with Batch(OPTIONS, strategy="parallel", wire=FakeWire(net)) as batch:
        traces, _ = await all_of(batch, fed([address, address]))
    assert [trace.address for trace in traces] == 2 * [IPv4Address(address)]


async def test_what_has_no_way_is_refused_and_the_rest_goes_on() -> None:
    net = SyntheticInternet(3, destinations=10)
    addresses = net.destinations().tolist()

    class Wire(FakeWire):
        def ways(self, destinations: Group, options: TraceOptions) -> Ways:
            ways = super().ways(destinations, options)
            return Ways([*ways.kinds, SendError("no route")], np.where(destinations.keys == addresses[3], 1, ways.of))

    async with Batch(OPTIONS, strategy="parallel", wire=Wire(net)) as batch:
        traces, refused = await all_of(batch, fed(addresses))
    assert [one.position for one in refused] == [3]
    assert refused[0].trace.stop_reason is StopReason.LOCAL_ERROR
    assert len(traces) == 9


async def test_a_slow_consumer_slows_the_feed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MOST_COURSES", 20)
    monkeypatch.setattr(windows, "MOST_COURSES", 20)
    net = SyntheticInternet(3, destinations=1_000, silent_routers=0.0, live_hosts=1.0)
    taken: list[int] = []
    feed = fed(net.destinations().tolist(), taken)
    async with (
        Batch(OPTIONS, strategy="parallel", wire=FakeWire(net)) as batch,
        aclosing(batch.run(feed)) as ended,
    ):
        await anext(ended)
        while batch.stats.in_flight:  # noqa: ASYNC110  # nobody reads on, so nobody is told either
            await asyncio.sleep(0.01)
        assert len(taken) < len(net.destinations())
        async for _ in ended:
            pass
    assert len(taken) == batch.stats.done == len(net.destinations())


async def test_whoever_leaves_leaves_nothing_behind() -> None:
    net = SyntheticInternet(3, destinations=2_000)
    async with (
        Batch(OPTIONS, strategy="parallel", wire=FakeWire(net), rate_pps=20_000) as batch,
        aclosing(batch.run(fed(net.destinations().tolist()))) as ended,
    ):
        await anext(ended)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    stats = batch.stats
    assert stats.in_flight == 0


@pytest.mark.parametrize("discard", [True, False])
async def test_stopping_gathers_what_is_out(discard: bool) -> None:
    net = SyntheticInternet(3, destinations=3_000)
    stops: Counter[StopReason] = Counter()
    sent = 0
    async with Batch(OPTIONS, strategy="parallel", wire=FakeWire(net), rate_pps=20_000) as batch:
        async for item in batch.run(fed(net.destinations().tolist())):
            assert isinstance(item, Harvest)
            stops.update(STOP_REASONS[stop] for stop in item.stop.tolist())
            if not sent:
                batch.stop(discard=discard)
                sent = batch.stats.sent
        stats = batch.stats
    assert stats.sent == sent == stats.answered + stats.timed_out
    assert (StopReason.INTERRUPTED in stops) is not discard


async def test_drops_of_our_own_lower_the_rate() -> None:
    net = SyntheticInternet(3, destinations=500)
    wire = FakeWire(net, most_received_pps=2_000)
    async with Batch(OPTIONS, strategy="parallel", wire=wire, rate_pps=50_000) as batch:
        slowest = 50_000.0
        async for _ in batch.run(fed(net.destinations().tolist())):
            slowest = min(slowest, batch.stats.rate_now_pps)
        assert batch.stats.kernel_drops > 0
    assert slowest < 40_000


async def test_what_the_feed_raises_is_raised() -> None:
    async def broken() -> AsyncIterator[Group]:
        yield Group.of([IPv4Address("16.0.0.1")])
        raise RuntimeError("the list broke")

    async with Batch(OPTIONS, strategy="parallel", wire=FakeWire(SyntheticInternet(3))) as batch:
        with pytest.raises(RuntimeError, match="the list broke"):
            await all_of(batch, broken())


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="rate_pps"):
        Batch(OPTIONS, rate_pps=rate)


@pytest.mark.parametrize("options", [TraceOptions(discover_mtu=True), TraceOptions(source_port=40_000)])
def test_what_is_for_single_traces_is_refused(options: TraceOptions) -> None:
    with pytest.raises(UsageError, match="single traces"):
        Batch(options)


@pytest.mark.parametrize("size", [1, 35])
@pytest.mark.parametrize("ip_version", [None, 4, 6])
def test_a_size_that_no_probe_can_have_is_refused(size: int, ip_version: int | None) -> None:
    with pytest.raises(UsageError, match="size must be at least"):
        Batch(TraceOptions(size=size, ip_version=ip_version))
    Batch(TraceOptions(size=36))  # IPv4 destinations can have it


@pytest.mark.parametrize("destinations", [1, PARALLEL_BELOW])
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 20}, "size must be at least 36 for udp over IPv4"),
        ({"source": "here"}, "source must be an IP address of this machine"),
        ({"source": "192.0.2.1"}, r"192\.0\.2\.1 is not an address of this machine"),
        ({"interface": "nowhere0"}, "no interface is named 'nowhere0'"),
    ],
)
async def test_what_no_destination_can_have_is_refused_of_few_and_of_many(
    options: TraceKeywords, sentence: str, destinations: int
) -> None:
    with pytest.raises(UsageError, match=sentence):
        await allhops.trace_many(["127.0.0.1"] * destinations, **options)


async def test_many_traces_come_in_the_order_of_the_list() -> None:
    net = SyntheticInternet(3, destinations=PARALLEL_BELOW + 20)
    names = [str(IPv4Address(number)) for number in net.destinations().tolist()]
    opened: list[str] = []

    def open_batch(strategy: str) -> Batch:
        opened.append(strategy)
        return Batch(OPTIONS, strategy=strategy, wire=FakeWire(net))

    traces = await TraceMany(Prober, names, OPTIONS, open_batch=open_batch)
    assert [trace.destination for trace in traces] == names
    assert opened == ["frugal"]


@pytest.mark.parametrize("strategy", [None, "frugal", "whole"])
async def test_what_a_slow_source_has_given_is_traced_before_it_gives_more(strategy: str | None) -> None:
    """Its next destination may depend on what the last one has shown."""
    net = SyntheticInternet(3, destinations=3)
    names = [str(IPv4Address(number)) for number in net.destinations().tolist()]
    seen: asyncio.Queue[str] = asyncio.Queue()
    opened: list[str] = []

    async def destinations() -> AsyncIterator[str]:
        for name in names:
            yield name
            assert await seen.get() == name

    def open_batch(strategy: str) -> Batch:
        opened.append(strategy)
        return Batch(OPTIONS, strategy=strategy, wire=FakeWire(net))

    async for trace in TraceMany(Prober, destinations(), OPTIONS, open_batch=open_batch, strategy=strategy):
        seen.put_nowait(trace.destination)
    assert seen.empty()
    assert opened == [strategy or "parallel"]


async def test_a_batch_that_ends_while_its_list_is_waited_for_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, is_waited_for = asyncio.Event(), asyncio.Event()

    async def resolve(*arguments: object) -> IPv4Address:
        asked.set()
        await is_waited_for.wait()
        return IPv4Address("192.0.2.2")

    async def destinations() -> AsyncIterator[str]:
        yield "host.example"
        await asked.wait()
        yield "192.0.2.1"
        is_waited_for.set()
        await asyncio.get_running_loop().create_future()

    class TakesTwo(Batch):
        async def run(self, feed: AsyncIterable[Group | Refused]) -> AsyncGenerator[Harvest | Refused, None]:
            source = aiter(feed)
            yield Refused(0, untraced(str(len([await anext(source) for _ in range(2)])), OPTIONS))

    monkeypatch.setattr(many, "UNDECIDED_S", 0.0)
    monkeypatch.setattr(feeding, "resolve", resolve)
    wire = FakeWire(SyntheticInternet(3))
    traces = TraceMany(
        Prober, destinations(), OPTIONS, open_batch=lambda name: TakesTwo(OPTIONS, wire=wire), strategy="whole"
    )
    assert [trace.destination async for trace in traces] == ["2"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("strategy", BATCH_STRATEGIES)
def test_trace_many_knows_every_strategy(strategy: str) -> None:
    assert allhops.trace_many([], strategy=strategy)


def test_trace_many_refuses_other_strategies() -> None:
    with pytest.raises(UsageError, match=r"parallel, frugal, whole, not 'clever'"):
        allhops.trace_many([], strategy="clever")


@pytest.mark.parametrize("text", ["192.0.2.1", b"192.0.2.1"])
def test_trace_many_refuses_one_destination_in_the_place_of_many(text: Any) -> None:
    """Its letters would be destinations."""
    with pytest.raises(UsageError, match=r"\['192.0.2.1'\]|\[b'192.0.2.1'\]"):
        allhops.trace_many(text)


@pytest.mark.parametrize("seed", [-1, 1.5, "x"])
def test_trace_many_refuses_what_is_no_seed(seed: Any) -> None:
    with pytest.raises(UsageError, match="seed must be a whole number"):
        allhops.trace_many([], seed=seed)


async def test_nothing_ends_before_it_began() -> None:
    """What leaves between two windows' turns may fail at once, and its course end with the next turn."""
    net = SyntheticInternet(3, destinations=8_000)

    class RefusingLease(FakeWireLease):
        def send(self, block: Block, most: int) -> None:
            first = block.handed
            super().send(block, most)
            np.frombuffer(block.errors, np.uint16)[first : block.handed] = errno.EPERM

    class Wire(FakeWire):
        def lease(self, way: Way, options: TraceOptions) -> FakeWireLease:
            lease = super().lease(way, options)
            return RefusingLease(self, lease.source, lease.source_port)

    durations, begun = [], []
    async with Batch(OPTIONS, strategy="frugal", rate_pps=20_000, seed=1, wire=Wire(net)) as batch:
        async for item in batch.run(fed(net.destinations().tolist())):
            assert isinstance(item, Harvest)
            durations += item.duration_ns.tolist()
            begun += item.started_ns.tolist()
    assert len(durations) == 8_000
    assert min(durations) >= 0
    assert min(begun) > 0
