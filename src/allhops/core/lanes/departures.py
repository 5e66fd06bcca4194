"""When the probes of a block left. This file reads no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.core.lanes import Block


def departures(block: Block, first: int, last: int) -> NDArray[np.int64]:
    """(last - first,): wall clock, nanoseconds, of probes that have been handed over.

    Those between two marks left one after the other; where there are no marks `sent_ns` says it.
    """
    if not block.marks:
        return np.frombuffer(block.sent_ns, np.int64)[first:last]
    places, clocks_ns = np.array(block.marks).T
    since_ns = clocks_ns - clocks_ns[0]  # a float has no room for nanoseconds since 1970
    left_ns: NDArray[np.int64] = np.interp(np.arange(first, last), places, since_ns).astype(np.int64) + clocks_ns[0]
    return left_ns
