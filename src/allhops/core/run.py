"""A course under way: its strategy's steps taken one by one, what waits to be sent, and how far it has been told.

This file decides neither what to ask (the strategy does) nor when a path is complete (the course does), and reads no
clock.
"""

from __future__ import annotations

from itertools import islice
from math import inf
from typing import TYPE_CHECKING

from allhops.core.strategies.steps import Pause, Settle, Step, Wave

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.core.course import Course


class Run:
    """A course under way: what waits to be sent, and how far it has been told."""

    __slots__ = (
        *("course", "ended", "exhausted", "first_wave_at", "heard", "next_expiry", "next_send_at"),
        *("next_ttl", "pending", "spacing_s", "step", "steps"),
    )

    def __init__(self, course: Course, steps: Iterator[Step]) -> None:
        self.course = course
        self.steps = steps
        self.pending: list[int] = []
        self.spacing_s = 0.0
        self.next_send_at = -inf
        self.first_wave_at: float | None = None
        self.step: Step | None = None
        self.next_ttl = course.plan.options.first_ttl
        self.next_expiry: float | None = None
        self.heard: set[bytes] = set()
        self.exhausted = False
        self.ended = False

    def sent(self, slots: set[int], now: float) -> None:
        """These slots have left."""
        self.next_send_at = now + self.spacing_s
        self.pending = [slot for slot in self.pending if slot not in slots]

    def proceed(self, now: float) -> None:
        """Take the strategy's next steps: a pause is over, or nothing of the last wave is left that could help."""
        while not self.exhausted:
            if isinstance(self.step, Pause) and now < self._resume_at(self.step):
                return
            if isinstance(self.step, Settle) and self.course.any_in_flight(self.step.slots):
                return
            if any(map(self.course.is_useful, self.pending)):
                return
            if self.course.sent and self.first_wave_at is None:
                self.first_wave_at = now
            self._step()

    def wanted(self, now: float, most: int) -> list[int]:
        """The next slots that may leave now and can still change the result."""
        if self.ended or now < self.next_send_at:
            return []
        most = 1 if self.spacing_s else most
        return list(islice(filter(self.course.is_useful, self.pending), most))

    def next_action(self) -> float | None:
        """When this run wants to be called even if nothing arrives: a deadline, a pause's end, or the next probe."""
        times = [] if self.next_expiry is None else [self.next_expiry]
        if isinstance(self.step, Pause):
            times.append(self._resume_at(self.step))
        if self.wanted(inf, 1):
            times.append(self.next_send_at)
        return min(times, default=None)

    @property
    def holds(self) -> bool:
        """Whether the course must not end although it is complete: it is about to be asked again."""
        return self.step is not None and self.step.holds()

    def may_ask_again(self, ttl: int) -> bool:
        """Whether a complete row is silent, and about to be asked again or not asked again yet."""
        course = self.course
        return course.is_silent(ttl) and (self.holds or not (self.exhausted or course.was_asked_again(ttl)))

    def _resume_at(self, pause: Pause) -> float:
        return (self.first_wave_at or 0.0) + pause.until_s()

    def _step(self) -> None:
        """One step. Slots of earlier waves that were of no use stay pending: what made them so may be corrected."""
        self.step = next(self.steps, None)
        if self.step is None:
            self.exhausted = True
        elif isinstance(self.step, Wave):
            self.pending += self.step.slots
            self.spacing_s = self.step.spacing_s
