"""Which rows of a course frugal asks first, and how it makes its neighbours wait: a short list is in a hurry.

A long list keeps the wire busy while some destinations wait for others, so many small steps cost no time and save
probes. A short one has nothing else to send meanwhile. So it takes fewer steps, each course asks at once some rows that
it may ask anyway, and nobody waits for more of a neighbour than how far away it is. This file knows no packet and no
clock.
"""

from __future__ import annotations

from enum import Enum, auto
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allhops.core.batch.strategies.distances import UNKNOWN
from allhops.core.batch.strategies.neighbours import LEAST_FIRST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from allhops.options import TraceOptions

BLIND_TTL = 12
"""Where to start as long as nothing is known at all: most paths are longer, few are half as long."""
SHARED_TTL, ONE_IN = 8, 4
"""Of those that start blind one in so many asks all rows below, the others those from this TTL on: what is nearer most
of them have in common."""
BEYOND_EXPECTED = 1
"""Rows past the neighbour's last router at which to start. A start too far away tests rows for silence that have to be
tested anyway, and finds a destination that answers at once."""


class Wait(Enum):
    """What others wait for at a course."""

    END = auto()
    DISTANCE = auto()
    """Nothing more is asked beyond its last answer: how far away it is, is known."""
    SILENCE = auto()
    """A row beyond its last answer was asked in vain: how far away it is, is known but for gaps."""


class Manner(NamedTuple):
    """How the courses of a window are begun."""

    strides: Sequence[int]
    """Places between those that are asked together (neighbours.py)."""
    least_first: int
    """Destinations that are asked first, at least."""
    wait: Wait

    @property
    def is_hasty(self) -> bool:
        """Whether a course that starts asks more than the one row, too."""
        return self.wait is not Wait.END


MANNERS = (
    (500, Manner((4, 1), 8, Wait.SILENCE)),
    (1_500, Manner((12, 1), 8, Wait.DISTANCE)),
    (4_000, Manner((16, 4, 1), 8, Wait.DISTANCE)),
    (inf, Manner((64, 16, 4, 2, 1), LEAST_FIRST, Wait.END)),
)
"""By how many destinations a batch has had so far, those of the window included: for fewer than so many. More steps ask
fewer probes and take longer, each the time of a trace (`python -m benchmarks whole`, docs/design.md)."""


def manner_of(destinations: int) -> Manner:
    """For a window with which a batch has had so many."""
    return next(manner for below, manner in MANNERS if destinations < below)


def start_ttl(expected: NDArray[np.int16], options: TraceOptions) -> NDArray[np.int16]:
    """(n,): TTL of the row to begin with, for courses whose neighbour's last router was at `expected`."""
    ttl = np.where(expected == UNKNOWN, BLIND_TTL, expected + BEYOND_EXPECTED)
    return np.clip(ttl, options.first_ttl, options.max_ttl).astype(np.int16)


def first_rows(
    expected: NDArray[np.int16], options: TraceOptions, manner: Manner
) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
    """(place, ttl) of all rows to begin with: as `start_ttl`, and in haste the neighbour's last router's."""
    beside = np.arange(-1, 1) if manner.is_hasty else np.zeros(1, np.int64)
    ttl = start_ttl(expected, options)[:, None] + beside
    asked = (ttl >= options.first_ttl) & (ttl <= options.max_ttl) & ((expected != UNKNOWN)[:, None] | (beside == 0))
    place, column = np.nonzero(asked)
    return place, ttl[place, column].astype(np.int16)


def blind_rows(courses: int, options: TraceOptions, manner: Manner) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
    """(place, ttl) of what courses that start blind ask besides: they meet nobody's stop, so all rows below.

    Those that are hasty ask as many rows beyond as the gap limit, too: of most all would be asked, one after the other.
    """
    start = max(BLIND_TTL, options.first_ttl)
    ahead = options.gap_limit if manner.is_hasty else 0
    ttls = np.arange(options.first_ttl, min(start + ahead, options.max_ttl) + 1, dtype=np.int16)
    ttls = ttls[ttls != min(start, options.max_ttl)]
    place, row = np.nonzero((np.arange(courses)[:, None] % ONE_IN == 0) | (ttls >= SHARED_TTL))
    return place, ttls[row]
