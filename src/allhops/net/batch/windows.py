"""The windows under way: what they send goes out by one wire, what comes in by it is shared out among them.

Each window has a flow of its own, so a late reply can never be taken for an answer to somebody else. This file keeps
no pace and decides nothing about paths.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from allhops.core.batch.window import Window
from allhops.core.lanes.vector import VectorLane, VectorReplies
from allhops.core.plan import Plan, size_of_probe
from allhops.errors import NETWORK_IS_DOWN, CapacityError
from allhops.net.batch.rhythm import beat_probes, block_probes
from allhops.net.clock import WallScale
from allhops.wire.probes import COOKIE_SIZE, LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from allhops.core.batch.strategies import Strategy
    from allhops.core.batch.window import Tally
    from allhops.core.harvest import Harvest
    from allhops.core.lanes import Block
    from allhops.core.ledger import Counters
    from allhops.core.pacer import Pacer
    from allhops.net.batch.group import Group
    from allhops.net.batch.wire import BatchLease, Way, Wire
    from allhops.options import TraceOptions

MOST_COURSES = 10_240
"""Destinations of one window at most."""
LIVE_SLOTS = 1_200_000
"""Slots of all windows under way at most: 59 bytes each (ledger.py)."""
MOST_WINDOWS = 16
"""Under way at once: each holds a source port and a place in the kernel's filter."""
MOST_RINGS = 16
"""Read in one go, so that a flood does not hold the loop up."""
HARVEST_S = 0.5
"""Between two harvests of a window that goes on: the more courses share one, the less each costs to write."""
NOBODY = -1


@dataclass(slots=True)
class _Live:
    """A window under way, and the flow that it holds."""

    window: Window[VectorReplies]
    lease: BatchLease
    courses_at_once: int
    """Moved on in one go, at most."""
    harvest_at: float


class Windows:
    """See the module. `wire` is open; `counters` and `tally` are shared with whoever else counts."""

    def __init__(
        self, wire: Wire, options: TraceOptions, *, counters: Counters, tally: Tally, random: np.random.Generator
    ) -> None:
        self._wire = wire
        self._options = options
        self._counters = counters
        self._tally = tally
        self._random = random
        self._lane = VectorLane(counters, wire.headroom)
        self._wall = WallScale()
        self._live: list[_Live] = []
        self._leaving: tuple[_Live, Block] | None = None
        self.full_queues = 0
        """How often the kernel's send queue had no room."""

    def __len__(self) -> int:
        return len(self._live)

    @property
    def waiting(self) -> int:
        """Probes that wait to be sent."""
        return sum(live.window.waiting for live in self._live)

    @property
    def in_flight(self) -> int:
        """Probes that are out."""
        return sum(live.window.in_flight for live in self._live)

    @property
    def has_room(self) -> bool:
        """Whether one more may be opened."""
        return len(self._live) < MOST_WINDOWS and sum(live.window.plan.slots for live in self._live) < LIVE_SLOTS

    def most_courses(self, strategy: Strategy) -> int:
        """Destinations of one window."""
        rows = self._options.max_ttl - self._options.first_ttl + 1
        slots = rows * (self._options.attempts + strategy.spare_attempts)
        return max(1, min(MOST_COURSES, LIVE_SLOTS // 4 // slots))

    def open(self, way: Way, members: Group, strategy: Strategy, now: float) -> bool:
        """One more, for these; False when there is no port for it before another one ends.

        Raises: CapacityError when there is no other one.
        """
        layout = LAYOUTS[self._options.protocol, way.version]
        try:
            lease = self._wire.lease(way, self._options)
        except CapacityError:
            if not self._live:
                raise
            return False
        plan = Plan(
            layout=layout,
            options=self._options,
            destinations=tuple(members.octets()),
            source=lease.source,
            source_ports=(lease.source_port,),
            key=int.from_bytes(os.urandom(2)),
            cookie=os.urandom(COOKIE_SIZE),
            size=size_of_probe(layout, self._options),
            spare_attempts=strategy.spare_attempts,
        )
        try:
            lease.expect(plan.cookie)
        except CapacityError:
            lease.close()
            if not self._live:
                raise
            return False
        window = Window(
            plan,
            self._lane,
            strategy,
            counters=self._counters,
            tally=self._tally,
            names=members.names,
            positions=members.positions,
            now=now,
            now_ns=self._wall.place(time.time_ns()),
            random=self._random,
            backend=self._wire.backend,
        )
        self._live.append(_Live(window, lease, strategy.at_once, now + HARVEST_S))
        return True

    def send(self, now: float, pacer: Pacer) -> int:
        """Hand probes to the wire, as many as a beat may and the pacer grants: of the block whose turn it is.

        A block that has begun to leave goes on until a window has more to ask, and its turn may be another one's.
        """
        sent, most = 0, beat_probes(pacer.rate_pps)
        while leaving := self._leaving or self._next_block(now, pacer.rate_pps):
            live, block = leaving
            before = block.handed
            wanted = len(block.slots) - before
            granted = pacer.grant(now, wanted, most - sent)
            if not granted:
                break
            live.lease.send(block, granted)
            handed = block.handed - before
            sent += handed
            live.window.probes_left(now)
            is_down = handed > 0 and block.errors[block.handed - 1] in NETWORK_IS_DOWN
            if handed == granted < wanted and not is_down:
                break
            self._leaving = None
            if handed < granted:
                pacer.give_back(granted - handed)
                if not is_down:
                    self.full_queues += 1
                    live.window.queue_was_full(now)
            if handed < granted or is_down:
                self._note_sent(live, now)
        return sent

    def receive(self, now: float) -> None:
        """Enter what was sent, then what came."""
        self._wall.look()
        for live in self._live:
            self._note_sent(live, now)
        for ring in islice(self._wire.receive(), MOST_RINGS):
            if self._wall.steps:
                for index in range(ring.count):
                    ring.stamps_ns[index] = self._wall.place(ring.stamps_ns[index])
            self._dispatch(self._lane.unpack(ring))

    def advance(self, clock: Callable[[], float]) -> Iterator[Harvest | None]:
        """Move them on, one at a step: what has ended of each. One of which nothing is left gives its flow back.

        `clock` is asked at each step: the caller may send in between, and nothing ends before it has begun.
        """
        for live in tuple(self._live):
            while live.window.advance(now := clock(), live.courses_at_once):
                yield None
            self._leaving = None
            harvest = None
            if not live.window.open_courses or now >= live.harvest_at:
                live.harvest_at = now + HARVEST_S
                harvest = live.window.harvest()
            if live.window.ended:
                live.lease.close()
                self._live.remove(live)
            yield harvest

    def stop_sending(self, now: float) -> None:
        """Nothing leaves any more; what is out is waited for."""
        self._leaving = None
        for live in self._live:
            self._note_sent(live, now)
            live.window.stop_sending(now)

    def interrupt(self, now: float) -> None:
        """Nobody waits for what is out, nor wants what has ended."""
        self._leaving = None
        for live in self._live:
            self._note_sent(live, now)
            live.window.interrupt(now)
            live.lease.close()
        self._live.clear()

    def _next_block(self, now: float, rate_pps: float) -> tuple[_Live, Block] | None:
        """Of the window whose turn it is, of those that have something to send."""
        turns = [(live.window.turn(now), live) for live in self._live]
        for turn, live in sorted(turns, key=itemgetter(0)):
            block = live.window.probes_to_send(now, block_probes(rate_pps, turn), rate_pps)
            if block is not None:
                self._leaving = live, block
                return self._leaving
        return None

    def _note_sent(self, live: _Live, now: float) -> None:
        live.window.probes_sent(now, self._wall.place if self._wall.steps else None)

    def _dispatch(self, replies: VectorReplies) -> None:
        """Give each reply to the window whose cookie or flow it shows; by cookie first: a NAT may change the port."""
        if not len(replies):
            return
        owner = np.full(len(replies), NOBODY)
        for place, live in enumerate(self._live):
            cookie = int.from_bytes(live.window.plan.cookie, "big")
            owner[replies.has_cookie & (replies.cookie == cookie)] = place
        rest = np.flatnonzero(owner == NOBODY)
        if len(rest):
            others = replies.select(rest)
            for place, live in enumerate(self._live):
                own = others.is_about(live.window.plan.layout) & (others.flow == live.lease.source_port)
                owner[rest[own]] = place
        for place, live in enumerate(self._live):
            own = owner == place
            if own.any():
                live.window.replies_received(replies if own.all() else replies.select(own))
        strange = owner == NOBODY
        if strange.any():
            self._lane.disown(replies.select(strange))
