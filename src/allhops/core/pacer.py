"""When the next probe may leave: one token bucket for all that a prober sends.

Smooth by construction: the bucket holds at most `BURST_S` worth of the rate, so no second ever
sees more than the rate plus that. This file reads no clock.
"""

from __future__ import annotations

from math import inf

BURST_S = 0.01
"""Seconds of the rate that may leave at once."""


class Pacer:
    """Grants probes at `rate_pps` probes a second; None grants all that is asked."""

    def __init__(self, rate_pps: float | None = None) -> None:
        self.rate_pps = inf if rate_pps is None else rate_pps
        self._capacity = max(1.0, self.rate_pps * BURST_S)
        self._tokens = self._capacity
        self._counted_at: float | None = None

    def grant(self, now: float, wanted: int) -> int:
        """Take up to `wanted` probes out of the bucket; how many may leave now."""
        if self.rate_pps == inf:
            return wanted
        self._fill(now)
        granted = min(wanted, int(self._tokens))
        self._tokens -= granted
        return granted

    def give_back(self, probes: int) -> None:
        """Put back what was granted and not sent."""
        self._tokens = min(self._capacity, self._tokens + probes)

    def ready_at(self, now: float) -> float:
        """Monotonic time at which one probe will be granted."""
        if self.rate_pps == inf:
            return now
        self._fill(now)
        return now + max(0.0, 1.0 - self._tokens) / self.rate_pps

    def _fill(self, now: float) -> None:
        if self._counted_at is not None:
            self._tokens = min(self._capacity, self._tokens + (now - self._counted_at) * self.rate_pps)
        self._counted_at = now
