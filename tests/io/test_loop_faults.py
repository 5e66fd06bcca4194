"""Faults of clocks, loops, threads and callers, on both event loops, over a simulated internet or the loopback."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
import threading
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from allhops.errors import CapacityError, PrivilegeError, SendError
from allhops.model import ProbeState, StopReason
from allhops.net import clock, source
from allhops.net.clock import MAX_LAG_S, AwakeClock, WallScale
from allhops.net.prober import RING_PACKETS, Prober
from allhops.options import TraceOptions
from allhops.testing.fakenet import FakeNet
from allhops.testing.internet import Internet
from allhops.testing.scenario_file import parse_scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from allhops.core.lanes import Block
    from allhops.model import Address, Trace
    from allhops.testing.fakenet import FakeLease

HOPS = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "203.0.113.9")
DESTINATION = HOPS[-1]
SCENARIO = """
schema = "allhops.scenario/1"
[vantage]
ipv4 = "192.0.2.1"
[routers.r1]
ipv4 = "10.0.0.1"
[routers.r2]
ipv4 = "10.0.0.2"
[routers.r3]
ipv4 = "10.0.0.3"
[routers.host]
ipv4 = "203.0.113.9"
[routers.far]
ipv4 = "198.18.0.1"
[[paths]]
destination = "203.0.113.9"
hops = [
  { router = "r1", rtt_ms = 1.0 }, { router = "r2", rtt_ms = 10.0 }, { router = "r3", rtt_ms = 20.0 },
  { router = "host", rtt_ms = 40.0 },
]
[[paths]]
destination = "198.18.0.1"
hops = [{ router = "r1", rtt_ms = 1.0 }, { router = "far", rtt_ms = 60000.0 }]
"""
NEVER = "198.18.0.1"
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def new_net() -> FakeNet:
    return FakeNet(Internet(parse_scenario(SCENARIO)))


def heard(trace: Trace) -> list[tuple[str | None, ...]]:
    return [tuple(str(probe.reply.address) if probe.reply else None for probe in hop.probes) for hop in trace.hops]


def all_of(attempts: int) -> list[tuple[str, ...]]:
    return [(hop,) * attempts for hop in HOPS]


# The wall clock


class Clocks:
    """Two clocks that a test sets."""

    def __init__(self) -> None:
        self.wall_ns = 1_700_000_000_000_000_000
        self.monotonic_ns = 5_000_000_000

    def pass_ns(self, ns: int) -> None:
        self.wall_ns += ns
        self.monotonic_ns += ns

    def scale(self) -> WallScale:
        return WallScale(lambda: self.wall_ns, lambda: self.monotonic_ns)


STEPS_NS = [3_600_000_000_000, -3_600_000_000_000, 40_000_000, -40_000_000]


@pytest.mark.parametrize("step_ns", STEPS_NS)
def test_an_rtt_does_not_feel_the_clock_being_set(step_ns: int) -> None:
    clocks = Clocks()
    scale = clocks.scale()
    sent = scale.place(clocks.wall_ns)
    clocks.pass_ns(10_000_000)
    clocks.wall_ns += step_ns
    clocks.pass_ns(20_000_000)
    stamp = clocks.wall_ns
    clocks.pass_ns(1_000_000)
    scale.look()
    assert scale.steps == 1
    assert scale.place(stamp) - sent == 30_000_000
    resent = scale.place(clocks.wall_ns)
    clocks.pass_ns(7_000_000)
    scale.look()
    assert scale.place(clocks.wall_ns) - resent == 7_000_000


@pytest.mark.parametrize("step_ns", STEPS_NS[:2])
def test_a_stamp_from_before_a_step_that_is_read_after_it(step_ns: int) -> None:
    clocks = Clocks()
    scale = clocks.scale()
    sent = clocks.wall_ns
    clocks.pass_ns(30_000_000)
    stamp = clocks.wall_ns
    clocks.pass_ns(1_000_000)
    clocks.wall_ns += step_ns
    scale.look()
    assert scale.place(stamp) - sent == 30_000_000


def test_a_stamp_that_cannot_be_is_the_time_at_which_it_was_read() -> None:
    clocks = Clocks()
    scale = clocks.scale()
    sent = clocks.wall_ns
    clocks.pass_ns(30_000_000)
    clocks.wall_ns += STEPS_NS[0]
    scale.look()
    assert scale.place(0) - sent == 30_000_000


def test_reading_two_clocks_slowly_is_no_step() -> None:
    """A thread that is interrupted between its readings learns nothing."""
    clocks = Clocks()
    scale = clocks.scale()
    readings = iter(range(100))

    def monotonic() -> int:
        return clocks.monotonic_ns + 50_000_000 * next(readings)

    scale._monotonic = monotonic
    scale.look()
    assert scale.steps == 0


class SteppingNet(FakeNet):
    """Stamps with the clock as it is when a packet arrives, as a kernel does; the clock is set at the first arrival."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step_ns: int) -> None:
        super().__init__(Internet(parse_scenario(SCENARIO)))
        self._step_ns = 0
        self._next_step_ns = step_ns
        read_clock = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: read_clock() + self._step_ns)

    def _deliver_after(self, delay: float, packet: bytes, stamp_ns: int) -> None:
        assert self._loop is not None
        before_ns = self._step_ns

        def deliver() -> None:
            self._on_the_way.discard(timer)
            self._arrived.append((packet, stamp_ns - before_ns + self._step_ns))
            assert self._on_readable is not None
            self._on_readable()
            self._step_ns = self._next_step_ns

        timer = self._loop.call_later(delay, deliver)
        self._on_the_way.add(timer)


@pytest.mark.parametrize("step_ns", STEPS_NS[:2])
async def test_a_clock_step_in_the_middle_of_a_trace(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step_ns: int
) -> None:
    async with Prober(transport=SteppingNet(monkeypatch, step_ns)) as prober:
        trace = await prober.trace(DESTINATION, max_ttl=6)
    assert heard(trace) == all_of(3)
    assert sum("clock" in record.message for record in caplog.records) == 1
    for hop, truth_ms in zip(trace.hops, (1, 10, 20, 40), strict=True):
        for probe in hop.probes:
            assert probe.reply is not None
            assert probe.reply.rtt_ns is not None
            assert abs(probe.reply.rtt_ns / 1e6 - truth_ms) <= 5 + truth_ms * 0.05


# A loop that is late


class StubLoop:
    """Time as a test wants it."""

    def __init__(self) -> None:
        self.at = 100.0
        self.timers: list[float] = []

    def time(self) -> float:
        return self.at

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        self.timers.append(when)


def test_time_in_which_nobody_listened_does_not_count() -> None:
    loop = StubLoop()
    awake = AwakeClock(loop)  # type: ignore[arg-type]  # it asks for the time, and no more
    assert awake.now() == 100.0
    loop.at += MAX_LAG_S
    assert awake.now() == 100.0 + MAX_LAG_S
    loop.at += 3_600.0
    assert awake.now() == 100.0 + MAX_LAG_S
    assert awake.stopped_s == 3_600.0
    awake.call_at(105.0, lambda: None)
    assert loop.timers == [3_705.0]


def test_waiting_is_not_being_stopped() -> None:
    assert clock.HEARTBEAT_S < MAX_LAG_S / 2


async def test_a_loop_that_was_stopped_gives_nothing_up_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour passes between two looks at the clock, while three quarters of the replies are on their way."""
    stopped = 0.0

    class Shifted:
        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self._loop = loop

        def time(self) -> float:
            return self._loop.time() + stopped

        def call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
            return self._loop.call_at(when - stopped, callback)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._loop, name)

    async with Prober(transport=new_net()) as prober:
        monkeypatch.setattr(prober.clock, "_loop", Shifted(prober.loop))

        def stop(address: Address) -> None:
            nonlocal stopped
            stopped = 3_600.0

        tracing = await prober.start(DESTINATION, TraceOptions(max_ttl=6), on_responder=stop)
        trace = await tracing.result()
        assert prober.clock.stopped_s >= 3_600.0
    assert heard(trace) == all_of(3)
    assert trace.duration_ns >= 3_600_000_000_000


class UnannouncedNet(FakeNet):
    """A socket that nobody was told of: the loop runs a timer before it looks at its descriptors."""

    def __init__(self) -> None:
        super().__init__(Internet(parse_scenario(SCENARIO)))

    def open(self, on_readable: Callable[[], None], counters: Any) -> None:
        super().open(lambda: None, counters)


async def test_sockets_are_read_before_a_probe_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Prober(transport=UnannouncedNet()) as prober:
        monkeypatch.setattr(prober, "look", lambda: None)
        trace = await prober.trace(DESTINATION, max_ttl=6, timeout=0.2)
    assert heard(trace) == all_of(3)
    assert prober.counters.late == 0


async def test_who_is_late_reads_everything_before_anything_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """More replies wait than one look takes, and the deadline of all their probes is over."""
    async with Prober(transport=UnannouncedNet()) as prober:
        tracing = await prober.start(DESTINATION, TraceOptions(max_ttl=6, attempts=10, timeout=0.2))
        monkeypatch.setattr(tracing, "_timer_came", lambda: None)
        tracing._set_timer()
        await asyncio.sleep(tracing._deadline - prober.now() + 0.01)
        assert tracing.is_overdue(prober.now())
        assert prober.counters.matched == 0
        prober._on_readable()
        assert prober.counters.matched > RING_PACKETS
        monkeypatch.undo()
        tracing.wake()
        trace = await tracing.result()
    assert heard(trace) == all_of(10)


# Replies before the send has returned


class InstantNet(FakeNet):
    """The loopback: the reply is in the socket before the send returns."""

    def lease(self, destination: Address, options: TraceOptions) -> FakeLease:
        lease = super().lease(destination, options)
        send = lease.send

        def send_and_hear(block: Block) -> None:
            send(block)
            for timer in sorted(self._on_the_way, key=lambda timer: timer.when()):
                timer.cancel()
            self._on_the_way.clear()

        lease.send = send_and_hear  # type: ignore[method-assign]  # of this one object, to look on
        return lease

    def _deliver_after(self, delay: float, packet: bytes, stamp_ns: int) -> None:
        self._arrived.append((packet, stamp_ns))
        assert self._loop is not None
        assert self._on_readable is not None
        self._loop.call_soon(self._on_readable)


async def test_replies_that_come_before_the_send_returns() -> None:
    async with Prober(transport=InstantNet(Internet(parse_scenario(SCENARIO)))) as prober:
        trace = await prober.trace(DESTINATION, max_ttl=6)
    assert heard(trace) == all_of(3)
    assert (prober.counters.forged, prober.counters.foreign) == (0, 0)


# Ports, descriptors, families


def test_every_source_port_in_use_is_a_capacity_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """28,232 ports are not tried one after the other either."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        monkeypatch.setattr(source, "_random_ports", lambda lowest: [port] * source.PORT_TRIES)
        with pytest.raises(CapacityError, match="no free source port"):
            source.hold_port(
                ip_address("127.0.0.1"), destination_port=9, source="127.0.0.1", source_port=None, interface=None
            )


def test_a_source_port_that_is_kept_for_root_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(PrivilegeError, match="source port 53 is kept for root"):
        source.hold_port(
            ip_address("127.0.0.1"), destination_port=9, source="127.0.0.1", source_port=53, interface=None
        )


@pytest.mark.parametrize("backend", ["raw", "errqueue"])
async def test_a_machine_without_ipv6_traces_ipv4(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    if backend == "raw" and os.geteuid() != 0:
        pytest.skip("raw sockets need root")
    open_socket = socket.socket

    class OnlyIPv4(socket.socket):
        def __init__(self, family: int = -1, kind: int = -1, proto: int = -1, fileno: int | None = None) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            open_socket.__init__(self, family, kind, proto, fileno)

    monkeypatch.setattr(socket, "socket", OnlyIPv4)
    async with Prober(backend=backend) as prober:
        assert (await prober.trace("127.0.0.1", attempts=1)).reached
        with pytest.raises(SendError, match="IP version"):
            await prober.trace("::1")
        traces = await prober.trace_many(["::1", "127.0.0.1"])
    assert [trace.stop_reason for trace in traces] == [StopReason.LOCAL_ERROR, StopReason.REACHED]
    assert "IP version" in (traces[0].error or "")


# Threads, loops, processes


def test_two_loops_in_two_threads_never_mix() -> None:
    """Each with a prober of its own, over the real loopback, at the same time."""
    results: dict[str, list[Trace]] = {}
    counters: dict[str, Any] = {}
    together = threading.Barrier(len(LOOPS))

    async def run(name: str) -> None:
        async with Prober(backend="errqueue") as prober:
            together.wait()
            results[name] = await prober.trace_many(["127.0.0.1", "::1"] * 20)
            counters[name] = prober.counters

    def thread(name: str) -> None:
        with asyncio.Runner(loop_factory=LOOPS[name]) as runner:
            runner.run(run(name))

    threads = [threading.Thread(target=thread, args=(name,)) for name in LOOPS]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    for name in LOOPS:
        assert [trace.stop_reason for trace in results[name]] == [StopReason.REACHED] * 40
        assert all(str(hop.probes[0].reply and hop.probes[0].reply.address) == trace.destination
                   for trace in results[name] for hop in trace.hops)  # fmt: skip
        assert (counters[name].forged, counters[name].foreign) == (0, 0)


FORK = """
import asyncio, os, subprocess, sys, allhops
async def main(backend):
    async with allhops.Prober(backend=backend) as prober:
        await prober.trace("127.0.0.1", attempts=1)
        tracing = await prober.start("127.0.0.1", allhops.TraceOptions())
        before = [name for name in os.listdir("/proc/self/fd")]
        child = os.fork()
        if child == 0:
            try:
                coroutine = prober.trace("127.0.0.1")
                coroutine.send(None)
            except RuntimeError as error:
                os.write(1, f"{error}\\n".encode())
            os._exit(0)
        os.waitpid(child, 0)
        listing = subprocess.run(
            [sys.executable, "-c", "import os; print(*(os.readlink(f'/proc/self/fd/{n}') for n in range(3, 64)"
             " if os.path.exists(f'/proc/self/fd/{n}') or os.path.islink(f'/proc/self/fd/{n}')))"],
            capture_output=True, text=True, close_fds=False, check=True).stdout
        print("sockets after exec:", listing.count("socket:"))
        print((await tracing.result()).stop_reason)
asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("backend", ["raw", "errqueue"])
def test_a_prober_is_not_for_the_child_of_a_fork(backend: str) -> None:
    """The child is told so, the parent goes on, and what is exec'ed has none of the sockets."""
    if backend == "raw" and os.geteuid() != 0:
        pytest.skip("raw sockets need root")
    ended = subprocess.run(
        [sys.executable, "-c", FORK, backend], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.stdout.splitlines() == [
        "this prober was opened before a fork: open one in each process",
        "sockets after exec: 0",
        "reached",
    ], ended.stderr


# What callers do


class CallbackError(Exception):
    """A caller's own."""


async def test_an_exception_in_a_callback_is_raised_to_the_caller() -> None:
    def fail(address: Address) -> None:
        raise CallbackError(str(address))

    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    async with Prober(transport=new_net()) as prober:
        other = asyncio.ensure_future(prober.trace(DESTINATION, attempts=1))
        tracing = await prober.start(NEVER, TraceOptions(), on_responder=fail)
        with pytest.raises(CallbackError, match=r"10\.0\.0\.1"):
            await tracing.result()
        with pytest.raises(CallbackError):
            [hop async for hop in tracing]
        assert heard(await other) == all_of(1)
        assert not prober._flows
    assert complaints == []


async def test_an_exception_in_a_callback_ends_an_iteration() -> None:
    def fail(address: Address) -> None:
        raise CallbackError

    async def iterate(prober: Prober) -> None:
        tracing = await prober.start(NEVER, TraceOptions(), on_responder=fail)
        async for _ in tracing:
            pass

    async with Prober(transport=new_net()) as prober:
        with pytest.raises(CallbackError):
            await iterate(prober)


async def test_an_exception_of_the_consumer_leaves_nothing_behind() -> None:
    async def consume(prober: Prober) -> None:
        async for _ in prober.trace_many([DESTINATION, NEVER] * 3, attempts=1):
            raise CallbackError

    async with Prober(transport=new_net()) as prober:
        with pytest.raises(CallbackError):
            await consume(prober)
        for _ in range(20):  # an abandoned generator is closed by the loop, when it finds the time
            await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_a_consumer_that_stands_still_stops_nothing_but_itself() -> None:
    """Rows of a trace that nobody reads are bounded by the trace, and traces by the window."""
    async with Prober(transport=new_net()) as prober:
        tracing = await prober.start(DESTINATION, TraceOptions())
        rows = aiter(tracing)
        await anext(rows)
        assert heard(await prober.trace(DESTINATION, attempts=1)) == all_of(1)
        trace = await tracing.result()
        assert len([hop async for hop in rows]) == len(trace.hops) - 1


async def _one(prober: Prober) -> None:
    await prober.trace(DESTINATION, attempts=1)


async def _rows(prober: Prober) -> None:
    tracing = await prober.start(DESTINATION, TraceOptions(attempts=1))
    try:
        async for _ in tracing:
            pass
    finally:
        tracing.interrupt()


async def _many(prober: Prober) -> None:
    await prober.trace_many([DESTINATION] * 5, attempts=1)


async def _stream(prober: Prober) -> None:
    stream = aiter(prober.trace_many([DESTINATION, NEVER, DESTINATION], attempts=1))
    try:
        await anext(stream)
    finally:
        await stream.aclose()


async def _own_prober(prober: Prober) -> None:
    async with Prober(transport=new_net()) as inner:
        await inner.trace(DESTINATION, attempts=1)


WORK = {work.__name__: work for work in (_one, _rows, _many, _stream, _own_prober)}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("loop", LOOPS)
@settings(max_examples=int(os.environ.get("ALLHOPS_CANCELS", "100")), deadline=None)
@given(work=st.sampled_from(sorted(WORK)), turns=st.integers(0, 400), real=st.booleans())
def test_cancelling_anywhere_leaves_nothing_behind(loop: str, work: str, turns: int, real: bool) -> None:
    """At the await that it has reached after so many turns of the loop: over the simulation, and the real loopback."""

    async def scenario() -> None:
        before = descriptors()
        net = None if real else new_net()
        async with Prober(backend="errqueue" if real else "auto", transport=net) as prober:
            destination = "127.0.0.1" if real else DESTINATION
            task = asyncio.ensure_future(_one_of(prober) if real else WORK[work](prober))
            other = asyncio.ensure_future(prober.trace(destination, attempts=1))
            for _ in range(turns):
                await asyncio.sleep(0)
                if task.done():
                    break
            was_done = task.done()
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError) or was_done, outcome
            assert (await other).reached
            assert not prober._flows
        assert len(asyncio.all_tasks()) == 1
        assert descriptors() == before

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(scenario())


async def _one_of(prober: Prober) -> None:
    await prober.trace("127.0.0.1", attempts=3)


async def test_cancelling_while_the_resolver_is_asked() -> None:
    asked = asyncio.Event()

    async def lookup(name: str, ip_version: int | None) -> Address | None:
        asked.set()
        await asyncio.get_running_loop().create_future()
        return None

    async with Prober(transport=new_net()) as prober:
        task = asyncio.ensure_future(prober.start("never.example", TraceOptions(), lookup=lookup))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not prober._flows


async def test_a_timed_out_probe_is_no_local_error() -> None:
    async with Prober(transport=new_net()) as prober:
        trace = await prober.trace(NEVER, attempts=1, timeout=0.1, max_ttl=3)
    assert {probe.state for hop in trace.hops[1:] for probe in hop.probes} == {ProbeState.TIMED_OUT}


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() <= before + 2  # hypothesis may open its database, pytest its log
