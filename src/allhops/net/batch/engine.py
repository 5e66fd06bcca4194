"""The batch: destinations in, harvests out, at one pace; in memory are windows of destinations, never the whole list.

    feed -> ways -> windows -> pacer -> wire ..... network ..... wire -> ring -> lane -> window -> harvest

One timer on the caller's loop drives it. A short beat hands probes to the wire, so that what leaves together is little
and the first router answers at once; a longer one reads replies, whose kernel stamps do not age, and moves the windows
on. This file knows no stopping rule and no packet.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import asdict
from math import inf
from typing import TYPE_CHECKING, Self

import numpy as np

from allhops.core.batch.strategies import batch_strategy
from allhops.core.batch.window import Tally
from allhops.core.harvest import Harvest
from allhops.core.ledger import Counters
from allhops.core.pacer import Pacer
from allhops.core.plan import check_size
from allhops.errors import UsageError
from allhops.net.batch.choose import open_wire
from allhops.net.batch.drop_watch import DropWatch
from allhops.net.batch.feed import Refused
from allhops.net.batch.intake import Intake
from allhops.net.batch.rhythm import LOOK_PROBES, appetite_probes, beat_s, look_s, window_courses
from allhops.net.batch.stats import Stats
from allhops.net.batch.windows import MOST_COURSES, Windows
from allhops.net.clock import AwakeClock
from allhops.net.many import FRUGAL, PARALLEL, PARALLEL_BELOW, UNDECIDED_S

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable

    from allhops.core.batch.strategies import Strategy
    from allhops.net.batch.group import Group
    from allhops.net.batch.intake import Gathering
    from allhops.net.batch.wire import Wire
    from allhops.options import TraceOptions

FEED_CHUNK = 256
"""Destinations taken from the feed before the loop gets its turn."""
PATIENCE_S = 0.02
"""How long destinations wait for others to fill their window while nothing else is left to send."""


class Batch:
    """Paths to many destinations; an async context manager.

        async with Batch(options, rate_pps=5_000) as batch:
            async for ended in batch.run(feed): ...

    `strategy` is a name in `BATCH_STRATEGIES`; None is "parallel" for fewer than `PARALLEL_BELOW` destinations and
    "frugal" for more. `rate_pps` None is as fast as this machine can without loss of its own.
    `seed` makes the order of the probes repeatable. `wire` is a way to the network in the place of `backend`'s: "ring",
    "raw", "errqueue" or "auto", the best that is allowed.

    Raises: UsageError.
    """

    def __init__(
        self,
        options: TraceOptions,
        *,
        strategy: str | None = None,
        rate_pps: float | None = None,
        seed: int | None = None,
        wire: Wire | None = None,
        backend: str = "auto",
    ) -> None:
        _check(options, rate_pps)
        self.options = options
        self.counters = Counters()
        self.tally = Tally()
        self._strategy = None if strategy is None else batch_strategy(strategy)
        self._pacer = Pacer(rate_pps)
        self._random = np.random.default_rng(seed)
        self._wire_given = wire
        self._backend = backend
        self._intake = Intake(options)
        self._fed = False
        self._stopping = False
        self._discards = False
        self._output: deque[Harvest | Refused] = deque()
        self._unread = 0
        self._done = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._timer: asyncio.Handle | None = None
        self._failure: BaseException | None = None
        self._look_at = 0.0
        self._unlooked = 0
        self._chores: deque[Callable[[float], None]] = deque()
        self._drop_watch = DropWatch(self.counters, self.tally, self._pacer)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._clock = AwakeClock(self._loop)
        if self._wire_given is None:
            self._wire = open_wire(self._backend, self.options, self.counters, self._pacer.rate_pps)
        else:
            self._wire = self._wire_given
            self._wire.open(self.counters)
        self._windows = Windows(self._wire, self.options, counters=self.counters, tally=self.tally, random=self._random)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._cancel_timer()
        self._clock.stop()
        self._wire.close()

    @property
    def backend(self) -> str:
        """How the probes reach the wire."""
        return self._wire.backend

    @property
    def stats(self) -> Stats:
        """Where it stands."""
        return Stats(
            **asdict(self.tally),
            in_flight=self._windows.in_flight,
            kernel_drops=self.counters.kernel_drops,
            full_queues=self._windows.full_queues,
            rate_now_pps=self._pacer.rate_pps,
            done=self._done,
        )

    async def run(self, feed: AsyncIterable[Group | Refused]) -> AsyncGenerator[Harvest | Refused, None]:
        """What has ended, as it ends; once. The feed is read as windows become free and as this is iterated.

        Raises: what the feed raises, UsageError for a source address or interface that there is not, CapacityError.
        """
        feeder = asyncio.ensure_future(self._take(feed))
        feeder.add_done_callback(self._feed_ended)
        self._clock.start()
        self._beat()
        try:
            while True:
                while self._output:
                    item = self._output.popleft()
                    self._unread -= len(item) if isinstance(item, Harvest) else 1
                    yield item
                if self._failure is not None:
                    raise self._failure
                if self._is_over:
                    return
                self._news.clear()
                await self._news.wait()
        finally:
            self._cancel_timer()
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)
            self._interrupt()

    def stop(self, *, discard: bool = False) -> None:
        """Send nothing more, wait for what is out, then end; `discard` keeps what is not complete to itself."""
        self._stopping, self._discards = True, discard
        self._intake.clear()
        self._windows.stop_sending(self._clock.now())
        self._room.set()

    # The feed

    async def _take(self, feed: AsyncIterable[Group | Refused]) -> None:
        taken = 0
        async for item in feed:
            if isinstance(item, Refused):
                self._refuse(item)
            else:
                self._intake.add(item)
            taken += 1 if isinstance(item, Refused) else len(item)
            if taken >= FEED_CHUNK:
                taken = 0
                await asyncio.sleep(0)
            while self._is_full and not self._stopping:
                self._room.clear()
                await self._room.wait()
            if self._stopping:
                return

    @property
    def _is_full(self) -> bool:
        """Whether enough is gathered for now, or the caller does not keep up."""
        return len(self._intake) >= 2 * MOST_COURSES or self._unread > MOST_COURSES

    def _feed_ended(self, feeder: asyncio.Future[None]) -> None:
        self._fed = True
        self._news.set()
        if not feeder.cancelled() and feeder.exception() is not None:
            self._fail(feeder.exception())

    def _refuse(self, refused: Refused) -> None:
        self._done += 1
        self._unread += 1
        self._output.append(refused)
        self._news.set()

    # The beats

    def _beat(self) -> None:
        """Hand over what may leave; at longer intervals also read what has arrived."""
        try:
            now = self._clock.now()
            sent = self._windows.send(now, self._pacer)
            self._unlooked += sent
            if self._chores or now >= self._look_at or self._unlooked >= LOOK_PROBES:
                self._do_chores(now)
        except Exception as failure:  # the loop would only log it, and the caller would wait forever
            self._fail(failure)
            return
        if sent and self._pacer.rate_pps == inf:
            self._timer = self._loop.call_soon(self._beat)
        elif sent or not self._is_over:
            is_sending = sent or self._windows.waiting
            # Counted from when this one began: what work takes must not lower the pace.
            at = now + beat_s(self._pacer.rate_pps) if is_sending else self._look_at
            self._timer = self._clock.call_at(at, self._beat)
        else:
            self._news.set()

    def _do_chores(self, now: float) -> None:
        """What a look is made of, a part in each beat while probes wait to be sent: none of them takes long."""
        if not self._chores:
            self._chores.extend((self._read, self._advance, self._refill))
            self._look_at = now + look_s(self._pacer.rate_pps, self._windows.waiting)
            self._unlooked = 0
        while self._chores:
            self._chores.popleft()(now)
            if self._windows.waiting:
                return

    def _read(self, now: float) -> None:
        """Enter what was sent and what came."""
        self._windows.receive(now)
        self._drop_watch.look(now)

    def _advance(self, now: float) -> None:
        """Move the windows on, and take what has ended."""
        for harvest in self._windows.advance(self._clock.now):
            if harvest is not None:
                self._done += len(harvest)
                if not (self._discards and self._stopping):
                    self._unread += len(harvest)
                    self._output.append(harvest)
            # All of them together can take longer than the pacer's burst lasts.
            self._unlooked += self._windows.send(self._clock.now(), self._pacer)
        if self._output:
            self._news.set()

    def _refill(self, now: float) -> None:
        """Find the ways of some destinations, and open windows for those that have theirs."""
        if self._stopping:
            return
        for refused in self._intake.route(self._wire, now):
            self._refuse(refused)
        strategy = self._chosen_strategy(now)
        if strategy is not None:
            self._open_windows(strategy, now)
        elif not self._is_full:
            self._room.set()

    # The windows

    def _chosen_strategy(self, now: float) -> Strategy | None:
        """Choose, if the caller left it open, once it is known how many destinations there are, or after a moment."""
        if self._strategy is None:
            few = len(self._intake) < PARALLEL_BELOW
            if few and not self._fed and all(now - gathering.since < UNDECIDED_S for gathering in self._intake):
                return None
            self._strategy = batch_strategy(PARALLEL if few else FRUGAL)
        return self._strategy

    def _open_windows(self, strategy: Strategy, now: float) -> None:
        """Open windows while there is room for them and something to send is wanted."""
        most = int(min(window_courses(self._pacer.rate_pps), self._windows.most_courses(strategy)))
        for gathering in self._intake:
            while gathering.members and self._wants_window(gathering, most, now):
                members = gathering.take(most)
                gathering.since = now
                if not self._windows.open(gathering.way, members, strategy, now):
                    gathering.give_back(members)
                    break
        if not self._is_full:
            self._room.set()

    def _wants_window(self, gathering: Gathering, courses: int, now: float) -> bool:
        waiting = self._windows.waiting
        appetite = appetite_probes(self._pacer.rate_pps)
        is_full = len(gathering.members) >= courses
        is_due = (self._fed and not self._intake.unrouted) or (not waiting and now - gathering.since >= PATIENCE_S)
        return (is_full or is_due) and waiting <= appetite and self._unread <= MOST_COURSES and self._windows.has_room

    # The end

    @property
    def _is_over(self) -> bool:
        """Whether nothing is left to do, or to tell."""
        if len(self._windows) or self._output:
            return False
        return self._stopping or (self._fed and not len(self._intake))

    def _interrupt(self) -> None:
        """Whoever iterated has left."""
        self._windows.interrupt(self._clock.now())

    def _fail(self, failure: BaseException | None) -> None:
        self._failure = self._failure or failure
        self._news.set()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _check(options: TraceOptions, rate_pps: float | None) -> None:
    """Refuse what a batch cannot do."""
    if rate_pps is not None and not 0 < rate_pps < inf:
        raise UsageError(f"rate_pps must be more than 0, or None for no limit, not {rate_pps!r}")
    if options.discover_mtu:
        raise UsageError("discover_mtu is for single traces: drop it, or trace fewer destinations")
    if options.source_port is not None:
        raise UsageError("source_port is for single traces: a batch holds a port for each of its windows")
    check_size(options)
