"""The two clocks of a prober, freed of what people and sleep do to them.

`AwakeClock` counts the seconds in which somebody listened: deadlines are counted in it. `WallScale` puts wall-clock
stamps on one scale, however the clock is set meanwhile: RTTs are differences on it.

The kernel stamps what arrives with the wall clock alone. So what is watched is how far that clock is ahead of the
monotonic one: the two drift alike (the kernel slews both), and only setting the clock, or sleeping, moves them apart.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_log = logging.getLogger("allhops")

MAX_LAG_S = 1.0
"""A loop that nobody saw for longer was stopped: nobody listened, so nothing is given up for that time."""
HEARTBEAT_S = 0.4
"""How often the clock is looked at while a trace is under way, so that waiting is not mistaken for being stopped."""

TOLERANCE_NS = 5_000_000
"""The clocks must have moved apart by more to call it a step: less is what reading two clocks in turn may cost."""
CLOSE_NS = 100_000
"""Two readings of the monotonic clock must be this close for what was read between them to count."""
READINGS = 3
OLDEST_NS = 120 * 1_000_000_000
"""Age of the oldest stamp that can be true: twice the longest wait."""


class AwakeClock:
    """Monotonic seconds of a loop, less those in which it was stopped (SIGSTOP) or blocked."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._looked_at = loop.time()
        self._heart: asyncio.TimerHandle | None = None
        self.stopped_s = 0.0
        """Seconds left out so far."""

    def now(self) -> float:
        """What deadlines are compared with."""
        at = self._loop.time()
        if at - self._looked_at > MAX_LAG_S:
            self.stopped_s += at - self._looked_at
        self._looked_at = at
        return at - self.stopped_s

    def call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """As the loop's own, on this clock. May come early: look again."""
        return self._loop.call_at(when + self.stopped_s, callback)

    def start(self) -> None:
        """Somebody waits from now on."""
        if self._heart is None:
            self._looked_at = self._loop.time()
            self._beat()

    def stop(self) -> None:
        """Nobody waits any more."""
        if self._heart is not None:
            self._heart.cancel()
            self._heart = None

    def _beat(self) -> None:
        self.now()
        self._heart = self._loop.call_later(HEARTBEAT_S, self._beat)


class WallScale:
    """Wall-clock nanoseconds as if the clock had never been set since this was made.

    A stamp from before a step may be read after it: of the two readings that it can have, the one that is neither in
    the future nor impossibly old is right; where neither is, the packet came when it was read.
    """

    def __init__(self, wall: Callable[[], int] | None = None, monotonic: Callable[[], int] = time.monotonic_ns) -> None:
        self._wall = wall or (lambda: time.time_ns())
        self._monotonic = monotonic
        self._ahead_ns = self._measure() or self._wall() - self._monotonic()
        self._step_ns = 0
        self._step_before_ns = 0
        self.steps = 0
        """How often the clock was set."""

    def look(self) -> None:
        """Notice whether the clock was set."""
        ahead = self._measure()
        if ahead is None or abs(ahead - self._ahead_ns - self._step_ns) <= TOLERANCE_NS:
            return
        self._step_before_ns, self._step_ns = self._step_ns, ahead - self._ahead_ns
        self.steps += 1
        moved_s = (self._step_ns - self._step_before_ns) / 1e9
        _log.warning("the clock of this machine was set, or it slept: %+.3f s; RTTs are told without", moved_s)

    def place(self, stamp_ns: int) -> int:
        """Where a stamp belongs."""
        if not self.steps:
            return stamp_ns
        now_ns = self._monotonic() + self._ahead_ns
        for step_ns in (self._step_ns, self._step_before_ns):
            if -TOLERANCE_NS <= now_ns - (stamp_ns - step_ns) <= OLDEST_NS:
                return stamp_ns - step_ns
        return now_ns

    def _measure(self) -> int | None:
        """How far the wall clock is ahead; None where this thread was interrupted whenever it looked."""
        for _ in range(READINGS):
            before = self._monotonic()
            wall = self._wall()
            after = self._monotonic()
            if after - before <= CLOSE_NS:
                return wall - (before + after) // 2
        return None
