"""Probes that are out, and when each has been waited for long enough: the waits of course.py for thousands of courses.

One difference: a course alone must guess how slow the rest of its path may be, a window has heard thousands of paths.
So what lies beyond the last answer, or before the first, is waited for `NEAR_FACTOR` times as long as the slowest reply
that any course has heard, once there are `EXPERIENCE` of them. This file reads no clock.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from allhops.core.course import NEAR_FACTOR, NEAR_SHARE, TAIL_FACTOR, TAIL_SHARE
from allhops.core.ledger import IN_FLIGHT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.core.ledger import Ledger
    from allhops.core.plan import Plan

EXPERIENCE = 250
"""Replies that a window must have heard before it knows what is slow: one of so many is among the slowest per cent, and
`NEAR_FACTOR` is for the others."""
LOOK_S = 0.05
"""Between two searches for probes to give up: what a wait may last longer than its rule says."""


class Flight:
    """What is out of one window.

    Columns, one entry a course: `slowest_ns`, the slowest RTT heard, `slowest_of_all_ns` of any of them; `unheard`, the
    first slot beyond the largest TTL answered.
    """

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._plan = plan
        self._ledger = ledger
        self._state = np.frombuffer(ledger.state, np.uint8)
        self._young: deque[tuple[NDArray[np.float64], NDArray[np.int64]]] = deque()
        self._old = np.empty(0, np.int64)
        self._old_sent_at = np.empty(0)
        self._look_at = 0.0
        self._replies = 0
        self.slowest_ns = np.zeros(plan.courses, np.int64)
        self.slowest_of_all_ns = 0
        self.unheard = np.zeros(plan.courses, np.int64)
        self.slots = 0
        """How many are out."""

    def left(self, slots: NDArray[np.int64], sent_at: NDArray[np.float64]) -> None:
        """These are out, each since when it was sent: the first of them longest."""
        if len(slots):
            self._young.append((sent_at, slots))
        self.slots += len(slots)

    def heard(self, slots: NDArray[np.int64], courses: NDArray[np.int64], beyond: NDArray[np.int64]) -> None:
        """These, one or more, were answered; `beyond` is the first slot of the next TTL of each."""
        # To numpy a memoryview's "q" is another type than int64, and `maximum.at` would cast one by one.
        received_ns = np.asarray(self._ledger.received_ns)[slots].astype(np.int64)
        rtts_ns = received_ns - np.frombuffer(self._ledger.sent_ns, np.int64)[slots]
        np.maximum.at(self.slowest_ns, courses, rtts_ns)
        self.slowest_of_all_ns = max(self.slowest_of_all_ns, int(rtts_ns.max()))
        np.maximum.at(self.unheard, courses, beyond)
        self.slots -= len(slots)
        self._replies += len(slots)

    def expired(self, now: float) -> NDArray[np.int64]:
        """Probes whose wait is over; looks at most every `LOOK_S`."""
        if now < self._look_at:
            return np.empty(0, np.int64)
        self._look_at = now + LOOK_S
        self._age(now)
        if not len(self._old):
            return self._old
        out = self._state[self._old] == IN_FLIGHT
        self._old, self._old_sent_at = self._old[out], self._old_sent_at[out]
        over = self._old_sent_at + self._waits(self._old) <= now
        expired: NDArray[np.int64] = self._old[over]
        self._old, self._old_sent_at = self._old[~over], self._old_sent_at[~over]
        self.slots -= len(expired)
        return expired

    def clear(self) -> NDArray[np.int64]:
        """All that are out; nobody waits for them any more."""
        chunks = [self._old, *(slots for _, slots in self._young)]
        every = np.concatenate(chunks)
        self._young.clear()
        self._old, self._old_sent_at, self.slots = np.empty(0, np.int64), np.empty(0), 0
        out: NDArray[np.int64] = every[self._state[every] == IN_FLIGHT]
        return out

    def _age(self, now: float) -> None:
        """Nothing younger than the shortest wait there is needs to be looked at."""
        shortest = NEAR_SHARE * self._plan.options.timeout
        chunks, times = [self._old], [self._old_sent_at]
        while self._young and self._young[0][0][0] + shortest <= now:
            sent_at, slots = self._young.popleft()
            is_silent = self._state[slots] == IN_FLIGHT
            chunks.append(slots[is_silent])
            times.append(sent_at[is_silent])
        if len(chunks) > 1:
            self._old, self._old_sent_at = np.concatenate(chunks), np.concatenate(times)

    def _waits(self, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds that each of these probes is waited for (course.py, Waiting)."""
        timeout = self._plan.options.timeout
        courses = slots // self._plan.slots_per_course
        slowest, slowest_of_all = self.slowest_ns[courses] / 1e9, self.slowest_of_all_ns / 1e9
        near = np.maximum(NEAR_FACTOR * slowest, NEAR_SHARE * timeout)
        if self._replies >= EXPERIENCE:
            tail = np.maximum(near, NEAR_FACTOR * slowest_of_all)
        else:
            slowest = np.where(slowest > 0, slowest, slowest_of_all)
            tail = np.where(slowest > 0, np.maximum(TAIL_FACTOR * slowest, TAIL_SHARE * timeout), timeout)
        waits: NDArray[np.float64] = np.minimum(np.where(slots < self.unheard[courses], near, tail), timeout)
        return waits
