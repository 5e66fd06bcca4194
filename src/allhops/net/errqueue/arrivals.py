"""Replies on their way from the sockets to the ring, and how near to losing some the sockets are.

A send may have to read a socket's errors before anybody has asked for replies: they wait here. This file knows no
packet and no socket.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from allhops.net.errqueue.queue import BOOKED_FOR_AN_ERROR, NEARLY_FULL

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.core.lanes import Ring
    from allhops.core.ledger import Counters

_log = logging.getLogger("allhops")


class Arrivals:
    """First in, first out. `announce` is to be called when replies wait that no socket will announce."""

    def __init__(self, counters: Counters, announce: Callable[[], None]) -> None:
        self.announce = announce
        self._counters = counters
        self._waiting: deque[tuple[bytes, int, int]] = deque()
        self._warned = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, packet: bytes, stamp_ns: int, hearsay: int) -> None:
        """A reply, its kernel stamp, and what of it nobody saw."""
        self._waiting.append((packet, stamp_ns, hearsay))

    def move_to(self, ring: Ring) -> None:
        """Fill the ring with the oldest."""
        while self._waiting and ring.count < ring.capacity:
            ring.append(*self._waiting.popleft())

    def watch_fill(self, booked: int, capacity: int) -> None:
        """Note how full a receive buffer was found, bytes: what a full error queue drops is counted nowhere."""
        is_full = booked + BOOKED_FOR_AN_ERROR >= capacity
        self._counters.kernel_drops += is_full
        if (is_full or booked > NEARLY_FULL * capacity) and not self._warned:
            self._warned = True
            _log.warning(
                "a receive buffer was %d %% full, replies may be lost: probe more slowly or raise net.core.rmem_max",
                100 * booked // capacity,
            )

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
