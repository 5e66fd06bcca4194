"""The batch: destinations in, harvests out, at one pace; in memory are windows of destinations, never the whole list.

    feed -> ways -> windows -> pacer -> wire ..... network ..... wire -> ring -> lane -> window -> harvest

One timer on the caller's loop drives it. A short beat hands probes to the wire, so that what leaves together is little
and the first router answers at once; a longer one reads replies, whose kernel stamps do not age, and moves the windows
on. This file knows no stopping rule and no packet.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from dataclasses import asdict, dataclass
from math import ceil, inf
from typing import TYPE_CHECKING, Self

import numpy as np

from allhops.core.batch.strategies import batch_strategy
from allhops.core.batch.window import Tally, Window
from allhops.core.harvest import Harvest
from allhops.core.lanes import Ring
from allhops.core.lanes.vector import VectorLane, VectorReplies
from allhops.core.ledger import Counters
from allhops.core.pacer import Pacer
from allhops.core.plan import Plan
from allhops.errors import NETWORK_IS_DOWN, CapacityError, UsageError
from allhops.net.batch.choose import open_wire
from allhops.net.batch.feed import Destination, Refused
from allhops.net.batch.intake import Intake
from allhops.net.batch.stats import Stats
from allhops.net.clock import AwakeClock, WallScale
from allhops.net.many import FRUGAL, PARALLEL, PARALLEL_BELOW
from allhops.net.tracing import size_of_probe
from allhops.wire.probes import COOKIE_SIZE, LAYOUTS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

    from allhops.net.batch.intake import Gathering
    from allhops.net.batch.wire import BatchLease, Way, Wire
    from allhops.options import TraceOptions

WINDOW_COURSES = 10_240
"""Destinations of one window at most."""
LEAST_WINDOW = 100
WINDOW_S = 1.0
"""Seconds of the rate that a window's first probes may take: its paths become complete together, some twenty times as
long after it was opened, and until then there is nothing to write that a crash would leave behind."""
LIVE_SLOTS = 1_200_000
"""Slots of all windows under way at most: some 66 bytes each (ledger.py)."""
MOST_WINDOWS = 16
"""Under way at once: each holds a source port and a place in the kernel's filter."""
SHORTEST_LOOK_S, LONGEST_LOOK_S = 0.01, 0.04
"""Between two looks at what has arrived; in between, as long as `LOOK_PROBES` take to be sent."""
LOOK_PROBES = 1_024
"""To read and enter replies costs a fixed price that so many share well (`python -m benchmarks lanes`)."""
WATCH_S = 0.5
"""Between two looks at what the kernel dropped: what a lower rate does shows only after a round trip."""
ADVANCE_S = 0.04
"""Between two questions to the strategy: the more courses it is asked about at once, the less each costs."""
SLICE_PROBES = 64
"""Handed over in one beat, if the rate allows: what leaves together queues behind itself at the first router."""
BURST_PROBES, BURST_S = 128, 0.004
"""The most that one beat hands over, whichever is more: after a pause what was missed is not sent in one go."""
SHORTEST_BEAT_S, LONGEST_BEAT_S = 0.001, 0.008
"""The longest is less than the pacer's burst, so that nothing of the rate is lost between two beats."""
UNPACED_PROBES = 512
"""Handed over in one beat when nothing limits the rate."""
RING_PACKETS = 4_096
"""The more are read at once, the less each costs (`python -m benchmarks lanes`)."""
MOST_RINGS = 16
"""Read in one go, so that a flood does not hold the loop up."""
FEED_CHUNK = 256
"""Destinations taken from the feed before the loop gets its turn."""
NOBODY = -1
PATIENCE_S = 0.02
"""How long destinations wait for others to fill their window while nothing else is left to send."""
UNDECIDED_S = 0.5
"""How long a slow feed may keep it open whether there are few destinations or many."""
APPETITE_S = 1.0
"""Seconds of the rate that must wait to be sent for no further window to be opened."""
APPETITE_PROBES = 65_536
"""The same when nothing limits the rate."""


@dataclass(slots=True)
class _Live:
    """A window under way, and the flow that it holds."""

    window: Window[VectorReplies]
    lease: BatchLease
    slots: int


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
        self._lane = VectorLane(self.counters)
        self._ring = Ring(RING_PACKETS)
        self._wall = WallScale()
        self._live: list[_Live] = []
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
        self._process_at = 0.0
        self._advance_at = 0.0
        self._full_queues = 0
        self._watched = (0.0, 0, 0)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._clock = AwakeClock(self._loop)
        if self._wire_given is None:
            self._wire = open_wire(self._backend, self.options, self.counters)
        else:
            self._wire = self._wire_given
            self._wire.open(self.counters)
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
            in_flight=sum(live.window.in_flight for live in self._live),
            kernel_drops_rx=self.counters.kernel_drops,
            kernel_drops_tx=self._full_queues,
            rate_now_pps=self._pacer.rate_pps,
            done=self._done,
        )

    async def run(self, feed: AsyncIterable[Destination | Refused]) -> AsyncGenerator[Harvest | Refused, None]:
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
        now = self._clock.now()
        for live in self._live:
            live.window.stop_sending(now)
        self._room.set()

    # The feed

    async def _take(self, feed: AsyncIterable[Destination | Refused]) -> None:
        taken = 0
        async for member in feed:
            if isinstance(member, Refused):
                self._refuse(member)
            else:
                self._intake.add(member)
            taken += 1
            if taken % FEED_CHUNK == 0:
                await asyncio.sleep(0)
            while self._is_full and not self._stopping:
                self._room.clear()
                await self._room.wait()
            if self._stopping:
                return

    @property
    def _is_full(self) -> bool:
        """Whether enough is gathered for now, or the caller does not keep up."""
        return len(self._intake) >= 2 * WINDOW_COURSES or self._unread > WINDOW_COURSES

    def _feed_ended(self, feeder: asyncio.Future[None]) -> None:
        self._fed = True
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
            sent = self._send(now)
            if now >= self._process_at or (sent and self._pacer.rate_pps == inf):
                self._process(now)
                self._process_at = now + min(max(LOOK_PROBES / self._pacer.rate_pps, SHORTEST_LOOK_S), LONGEST_LOOK_S)
        except Exception as failure:  # the loop would only log it, and the caller would wait forever
            self._fail(failure)
            return
        if self._is_over:
            self._news.set()
            return
        if sent and self._pacer.rate_pps == inf:
            self._timer = self._loop.call_soon(self._beat)
        else:
            spent = self._clock.now() - now  # part of the beat: what work takes must not lower the pace
            self._timer = self._loop.call_later(max(0.0, self._beat_s() - spent), self._beat)

    def _beat_s(self) -> float:
        if not any(live.window.waiting for live in self._live):
            return SHORTEST_LOOK_S
        return min(max(SLICE_PROBES / self._pacer.rate_pps, SHORTEST_BEAT_S), LONGEST_BEAT_S)

    def _send(self, now: float) -> int:
        """Hand probes to the wire, from the window whose turn it is; how many."""
        is_paced = self._pacer.rate_pps < inf
        most = max(BURST_PROBES, ceil(BURST_S * self._pacer.rate_pps)) if is_paced else UNPACED_PROBES
        sent = 0
        ready = list(self._live)
        while ready:
            live = min(ready, key=lambda live: live.window.turn(now))
            block = live.window.probes_to_send(now)
            if block is None:
                ready.remove(live)
                continue
            granted = self._pacer.grant(now, len(block) - block.handed, most - sent)
            if not granted:
                return sent
            before = block.handed
            live.lease.send(block, granted)
            handed = block.handed - before
            sent += handed
            through = block.handed == len(block)
            if handed < granted:
                self._pacer.give_back(granted - handed)
                if not handed or block.errors[block.handed - 1] not in NETWORK_IS_DOWN:
                    self._full_queues += 1
                    live.window.queue_was_full(now)
                ready.remove(live)
            if handed < granted or through:
                self._note_sent(live, now)
        return sent

    def _process(self, now: float) -> None:
        """Enter what was sent, then read what came, then move the windows on."""
        self._wall.look()
        for live in self._live:
            self._note_sent(live, now)
        self._receive()
        if now >= self._advance_at:
            self._advance_at = now + ADVANCE_S
            for live in self._live:
                live.window.advance(now)
                self._send(self._clock.now())  # to ask for all of them can take longer than the pacer's burst lasts
        self._watch_drops(now)
        self._collect(now)
        if not self._stopping:
            for refused in self._intake.route(self._wire, now):
                self._refuse(refused)
            if self._has_strategy(now):
                self._open_windows(now)
            elif not self._is_full:
                self._room.set()
        if self._output:
            self._news.set()

    def _note_sent(self, live: _Live, now: float) -> None:
        live.window.probes_sent(now, self._wall.place if self._wall.steps else None)

    def _receive(self) -> None:
        for _ in range(MOST_RINGS):
            self._wire.receive(self._ring)
            if not self._ring.count:
                return
            if self._wall.steps:
                for index in range(self._ring.count):
                    self._ring.stamps_ns[index] = self._wall.place(self._ring.stamps_ns[index])
            self._dispatch(self._lane.unpack(self._ring))
            if self._ring.count < self._ring.capacity:  # what has come since can wait for company
                return

    def _dispatch(self, replies: VectorReplies) -> None:
        """Give each reply to the window whose cookie or flow it shows; by cookie first: a NAT may change the port."""
        if not len(replies):
            return
        version, protocol = replies.version, replies.protocol
        owner = np.full(len(replies), NOBODY)
        for place, live in enumerate(self._live):
            layout = live.window.plan.layout
            own = (version == layout.family.version) & (protocol == layout.protocol)
            owner[own & (replies.flow == live.lease.source_port)] = place
        for place, live in enumerate(self._live):
            cookie = int.from_bytes(live.window.plan.cookie, "big")
            owner[replies.has_cookie & (replies.cookie == cookie)] = place
        for place, live in enumerate(self._live):
            own = owner == place
            if own.any():
                live.window.replies_received(replies if own.all() else replies.select(own))
        strange = owner == NOBODY
        if strange.any():
            self._lane.disown(replies.select(strange))

    def _watch_drops(self, now: float) -> None:
        """Replies that our own kernel dropped say that this machine cannot keep the pace up.

        A send queue that is full says nothing of the kind: what found no room is sent a moment later.
        """
        since, sent, dropped = self._watched
        if now - since < WATCH_S:
            return
        drops = self.counters.kernel_drops
        if drops > dropped and since:
            self._pacer.slow_down((self.tally.sent - sent) / (now - since))
        self._watched = now, self.tally.sent, drops

    def _collect(self, now: float) -> None:
        """Take the harvests; give back the flows of windows that have ended."""
        for live in tuple(self._live):
            harvest = live.window.harvest()
            if harvest is not None:
                self._done += len(harvest)
                if not (self._discards and self._stopping):
                    self._unread += len(harvest)
                    self._output.append(harvest)
            if live.window.ended:
                live.lease.close()
                self._live.remove(live)

    # The windows

    def _has_strategy(self, now: float) -> bool:
        """Choose one, if the caller left it open, when it is known how many destinations there are, or in a moment."""
        if self._strategy is None:
            few = len(self._intake) < PARALLEL_BELOW
            if few and not self._fed and all(now - gathering.since < UNDECIDED_S for gathering in self._intake):
                return False
            self._strategy = batch_strategy(PARALLEL if few else FRUGAL)
        return True

    def _open_windows(self, now: float) -> None:
        """Open windows while there is room for them and something to send is wanted."""
        for gathering in self._intake:
            while gathering.members and self._wants_window(gathering, now):
                members = gathering.take(self._window_courses())
                gathering.since = now
                if not self._open(gathering.way, members, now):
                    gathering.give_back(members)
                    break
        if not self._is_full:
            self._room.set()

    def _wants_window(self, gathering: Gathering, now: float) -> bool:
        waiting = sum(live.window.waiting for live in self._live)
        appetite = APPETITE_PROBES if self._pacer.rate_pps == inf else APPETITE_S * self._pacer.rate_pps
        is_full = len(gathering.members) >= self._window_courses()
        is_due = (self._fed and not self._intake.unrouted) or (not waiting and now - gathering.since >= PATIENCE_S)
        return (
            (is_full or is_due)
            and waiting <= appetite
            and self._unread <= WINDOW_COURSES
            and len(self._live) < MOST_WINDOWS
            and sum(live.slots for live in self._live) < LIVE_SLOTS
        )

    def _window_courses(self) -> int:
        rows = self.options.max_ttl - self.options.first_ttl + 1
        spare = 0 if self._strategy is None else self._strategy.spare_attempts
        slots = rows * (self.options.attempts + spare)
        timely = max(LEAST_WINDOW, self._pacer.rate_pps * WINDOW_S)
        return int(max(1, min(WINDOW_COURSES, LIVE_SLOTS // 4 // slots, timely)))

    def _open(self, way: Way, members: list[Destination], now: float) -> bool:
        """A window for these; False when there is no port for it before another one ends."""
        assert self._strategy is not None  # chosen before the first window
        layout = LAYOUTS[self.options.protocol, way.version]
        try:
            lease = self._wire.lease(way, self.options)
        except CapacityError:
            if not self._live:
                raise
            return False
        plan = Plan(
            layout=layout,
            options=self.options,
            destinations=tuple(member.address.packed for member in members),
            source=lease.source,
            source_ports=(lease.source_port,),
            key=int.from_bytes(os.urandom(2)),
            cookie=os.urandom(COOKIE_SIZE),
            size=size_of_probe(layout, self.options),
            spare_attempts=self._strategy.spare_attempts,
        )
        lease.expect(plan.cookie)
        window = Window(
            plan,
            self._lane,
            self._strategy,
            counters=self.counters,
            tally=self.tally,
            names=[member.name for member in members],
            positions=[member.position for member in members],
            now=now,
            random=self._random,
            backend=self._wire.backend,
        )
        self._live.append(_Live(window, lease, plan.slots))
        return True

    # The end

    @property
    def _is_over(self) -> bool:
        """Whether nothing is left to do, or to tell."""
        if self._live or self._output:
            return False
        return self._stopping or (self._fed and not len(self._intake))

    def _interrupt(self) -> None:
        """Whoever iterated has left."""
        now = self._clock.now()
        for live in self._live:
            live.window.interrupt(now)
            live.lease.close()
        self._live.clear()

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
