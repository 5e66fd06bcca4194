"""What courses still have to ask on the way from where they stand to us, and who stands there without being asked.

This file knows no packet and no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allhops.core.batch.strategies.links import DEPTH
from allhops.core.batch.strategies.stop_set import NOBODY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from allhops.core.batch.strategies.links import Links


class Way(NamedTuple):
    """What n courses with T rows still have to ask, and what they need not."""

    wanted: NDArray[np.bool_]
    """(n, T): rows to ask."""
    told: NDArray[np.int32]
    """(n, T): entries of those who stand at rows that need not be asked; `NOBODY` elsewhere."""


class Ground(NamedTuple):
    """What n courses with T rows have met so far."""

    asked: NDArray[np.bool_]
    """(n, T)"""
    routers: NDArray[np.bool_]
    """(n, T): where a router answered, before the path's end."""
    entry: NDArray[np.int32]
    """(n, T): of these, as far as they are known; `NOBODY` elsewhere."""
    guess: NDArray[np.int32]
    """(n, T): whom they may meet; `NOBODY` where nobody knows."""
    limit: NDArray[np.int16]
    """(n,): largest TTL to ask."""


def way_down(ground: Ground, links: Links, ttls: NDArray[np.int16]) -> Way:
    """Row by row towards us: what was met, what is sure by it, and what is neither; `ttls` are those of the rows.

    A row that is asked now is thought to answer as it is likely to, so that all rows that need asking are asked
    together. `lost` counts rows that were silent though somebody was expected there: before anything is expected again
    so many more are asked.
    """
    shape = ground.asked.shape
    wanted, told = np.zeros(shape, np.bool_), np.full(shape, NOBODY, np.int32)
    stands = [np.full(shape[0], NOBODY, np.int32)] * DEPTH
    lost, is_open = np.zeros(shape[0], np.int16), np.zeros(shape[0], np.bool_)
    for row in range(int(ground.limit.max(initial=0) - ttls[0]), -1, -1):
        likely, is_sure = _expected(links, stands, ground.guess[:, row])
        asked, heard = ground.asked[:, row], ground.routers[:, row]
        unasked = ~asked & (ttls[row] <= ground.limit)
        free = unasked & is_sure
        wanted[:, row] = ask = unasked & ~is_sure
        is_open |= ask
        owed = free & ~is_open & (likely != NOBODY)
        told[owed, row] = likely[owed]
        still_lost = np.where(asked, lost + (likely != NOBODY), np.maximum(lost - ask, 0))
        lost = np.where(heard | free, 0, still_lost)
        here = np.where(unasked & (lost == 0), likely, np.where(heard, ground.entry[:, row], NOBODY))
        stands = [here.astype(np.int32), *stands[:-1]]
    return Way(wanted, told)


def _expected(
    links: Links, stands: Sequence[NDArray[np.int32]], guess: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Who will be met, `NOBODY` for silence or for no idea, and whether that is sure.

    By whom was met one row farther away, two rows ... ; what is sure goes first, what is nearer next.
    """
    likely, is_known = guess, np.zeros(len(guess), np.bool_)
    is_sure = is_known.copy()
    for rows, entry in enumerate(stands, 1):
        before, knows, sure = links.before(entry, rows)
        better = (sure & ~is_sure) | (knows & ~is_known)
        likely = np.where(better, before, likely)
        is_known |= knows
        is_sure |= sure
    return likely, is_sure
