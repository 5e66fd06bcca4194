"""Replies that our own kernel dropped say that this machine cannot keep the pace up: it is lowered.

A send queue that is full says nothing of the kind: what found no room is sent a moment later. This file reads no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from allhops.core.batch.window import Tally
    from allhops.core.ledger import Counters
    from allhops.core.pacer import Pacer

WATCH_S = 0.5
"""Between two looks at what the kernel dropped: what a lower rate does shows only after a round trip."""


class DropWatch:
    """Lowers the rate of `pacer` when `counters` tell of drops; `tally` tells how fast it really was."""

    def __init__(self, counters: Counters, tally: Tally, pacer: Pacer) -> None:
        self._counters = counters
        self._tally = tally
        self._pacer = pacer
        self._since = 0.0
        self._sent = 0
        self._drops = 0
        self._fastest_pps = 0.0
        """Sent between two looks, at most: what was asked for may be far beyond what this machine does."""

    def look(self, now: float) -> None:
        """Look, if it is time to."""
        passed = now - self._since
        if passed < WATCH_S:
            return
        if self._since:
            self._fastest_pps = max(self._fastest_pps, (self._tally.sent - self._sent) / passed)
            if self._counters.kernel_drops > self._drops:
                self._pacer.slow_down(self._fastest_pps)
        self._since, self._sent, self._drops = now, self._tally.sent, self._counters.kernel_drops
