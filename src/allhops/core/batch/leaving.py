"""On the way out: slots that wait, the block of them that is leaving, and what of that has left since it was asked for.

This file knows no packet and reads no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allhops.core.batch.waiting import NO_TURN, Turn, Waiting
from allhops.core.lanes.departures import departures

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from allhops.core.lanes import Block


class Departed(NamedTuple):
    """n probes that were handed over, in the order of leaving."""

    slots: NDArray[np.int64]
    errors: NDArray[np.uint16]
    """errno where the kernel refused one, else 0."""
    sent_ns: NDArray[np.int64]
    """By the wall clock."""
    sent_at: NDArray[np.float64]
    """By the clock of the calls, seconds."""


class Leaving:
    """See the module. `random` decides the order."""

    def __init__(self, random: np.random.Generator) -> None:
        self.waiting = Waiting(random)
        self._block: Block | None = None
        self._turn = NO_TURN
        self._counted = 0
        self._left: list[tuple[Block, int, int, float]] = []
        """What has left: of a block, from one probe to another, and when."""

    @property
    def slots(self) -> int:
        """How many wait, due or not."""
        return self.waiting.slots + (len(self._block) - self._block.handed if self._block is not None else 0)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing, not even a block that was handed over, or what left of it and was not asked for."""
        return not self.waiting.slots and self._block is None and not self._left

    def turn(self, now: float) -> Turn:
        """Of what is next."""
        return self._turn if self._block is not None else self.waiting.turn(now)

    def block(
        self, now: float, most: int, rate_pps: float, build: Callable[[NDArray[np.int64]], Block | None]
    ) -> Block | None:
        """The one that is leaving, or a new one; None when nothing is due.

        `build` makes one of at most so many slots, or of those of them that are still worth it; None for none.
        """
        if self._block is None:
            self._turn = self.waiting.turn(now)
            self._block, self._counted = build(self.waiting.take(now, most, rate_pps)), 0
            if self._block is None:
                self.waiting.left(now)
        return self._block

    def look(self, now: float) -> None:
        """What was handed over of the block since the last look left now; one that is through makes room."""
        block = self._block
        if block is None or block.handed == self._counted:
            return
        self._left.append((block, self._counted, block.handed, now))
        self._counted = block.handed
        if block.handed == len(block.slots):
            self._block = None
            self.waiting.left(now)

    def departed(self) -> Departed | None:
        """All that the looks have found since the last time; None for nothing."""
        if not self._left:
            return None
        counts = [last - first for _, first, last, _ in self._left]
        sent_at = np.repeat([at for *_, at in self._left], counts)
        parts = _by_block(self._left)
        self._left = []
        return Departed(
            np.concatenate([np.asarray(block.slots)[first:last] for block, first, last in parts]),
            np.concatenate([np.frombuffer(block.errors, np.uint16)[first:last] for block, first, last in parts]),
            np.concatenate([departures(block, first, last) for block, first, last in parts]),
            sent_at,
        )

    def clear(self) -> None:
        """Nothing of what waits will be sent."""
        self._block = None
        self.waiting.clear()


def _by_block(left: list[tuple[Block, int, int, float]]) -> list[tuple[Block, int, int]]:
    """What left of each block in one piece."""
    parts: list[tuple[Block, int, int]] = []
    for block, first, last, _ in left:
        if parts and parts[-1][0] is block:
            first = parts.pop()[1]
        parts.append((block, first, last))
    return parts
