"""How much at once, and how often: what a batch makes of its rate.

`rate_pps` is infinite when nothing limits the rate. This file keeps no state and reads no clock.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, inf
from typing import TYPE_CHECKING

from allhops.core.batch.window import BLOCK_PROBES

if TYPE_CHECKING:
    from allhops.core.batch.waiting import Turn

BEAT_PROBES = 128
"""Handed over in one beat, if the rate allows: what leaves together queues behind itself at the first router."""
SHORTEST_BEAT_S, LONGEST_BEAT_S = 0.001, 0.009
"""The longest is less than the pacer's burst, so that nothing of the rate is lost between two beats."""
BURST_PROBES, BURST_S = 256, 0.004
"""The most that one beat hands over, whichever is more: after a pause what was missed is not sent in one go."""
UNPACED_PROBES = 1_024
"""Handed over in one beat when nothing limits the rate: what one system call takes."""
SHORTEST_LOOK_S, URGENT_LOOK_S, LONGEST_LOOK_S = 0.01, 0.04, 0.4
"""Between two looks at what has arrived: as long as `LOOK_PROBES` take to be sent, at most the second while there is
little left to send before somebody has heard a reply, else the third."""
LOOK_PROBES = 4_096
"""To read and enter replies costs a fixed price that so many share well (`python -m benchmarks lanes`)."""
LEAST_BLOCK = 64
"""Probes built together, at least; at most `BLOCK_PROBES`."""
URGENT_BLOCK_S, BLOCK_S = 0.02, 0.1
"""Seconds of the rate in a block: what is asked on waits for the block to be through, and the shorter blocks cost a
microsecond a probe, which is well spent where other destinations wait for this one."""
LEAST_WINDOW = 100
WINDOW_S = 1.0
"""Seconds of the rate that a window's first probes may take: its paths become complete together, some twenty times as
long after it was opened, and until then there is nothing to write that a crash would leave behind."""
APPETITE_S, APPETITE_PROBES = 1.0, 65_536
"""Seconds of the rate that must wait to be sent for no further window to be opened, and what takes their place when
nothing limits the rate."""


@lru_cache(maxsize=1)
def beat_s(rate_pps: float) -> float:
    """Seconds between two beats, while probes wait to be sent; the same in most beats."""
    return min(max(BEAT_PROBES / rate_pps, SHORTEST_BEAT_S), LONGEST_BEAT_S)


@lru_cache(maxsize=1)
def beat_probes(rate_pps: float) -> int:
    """Probes that one beat may hand over; the same in most beats."""
    return UNPACED_PROBES if rate_pps == inf else max(BURST_PROBES, ceil(BURST_S * rate_pps))


def look_s(rate_pps: float, waiting: int) -> float:
    """Seconds between two looks, unless `LOOK_PROBES` are sent before."""
    if rate_pps == inf:
        return SHORTEST_LOOK_S
    longest = LONGEST_LOOK_S if waiting > LONGEST_LOOK_S * rate_pps else URGENT_LOOK_S
    return min(max(LOOK_PROBES / rate_pps, SHORTEST_LOOK_S), longest)


def block_probes(rate_pps: float, turn: Turn) -> int:
    """Probes of a block whose first have this turn, at most."""
    seconds = BLOCK_S if turn.others_first else URGENT_BLOCK_S
    return max(LEAST_BLOCK, int(min(rate_pps * seconds, BLOCK_PROBES)))


def window_courses(rate_pps: float) -> float:
    """Destinations of a window, at most; may be infinite."""
    return max(LEAST_WINDOW, rate_pps * WINDOW_S)


def appetite_probes(rate_pps: float) -> float:
    """Probes that must wait for no further window to be opened."""
    return APPETITE_PROBES if rate_pps == inf else APPETITE_S * rate_pps
