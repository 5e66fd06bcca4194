"""When the next probe may leave: one token bucket for all that a prober sends.

Smooth by construction: the bucket holds at most `BURST_S` worth of the rate, and what could not be granted in time,
because whoever asks was busy elsewhere, is made up for by at most `CATCH_UP` of the rate. So no second ever sees more
than 1.02 times the rate. This file reads no clock.
"""

from __future__ import annotations

from math import inf

BURST_S = 0.01
"""Seconds of the rate that may leave at once."""
CATCH_UP = 0.01
"""Of the rate: how much faster the bucket fills while somebody is owed probes."""
MOST_OWED_S = 10.0
"""Seconds of the rate that are owed at most."""
SLOW_DOWN = 0.7
"""Of the rate that made the kernel drop packets: what is tried next."""
LEAST_PPS = 100.0
"""No machine is slower than this."""
RECOVERY = 0.05
"""Of the rate a second, by which a rate that was lowered rises again."""


class Pacer:
    """Grants probes at `rate_pps` probes a second; None grants all that is asked."""

    def __init__(self, rate_pps: float | None = None) -> None:
        self.rate_pps = inf if rate_pps is None else rate_pps
        self._asked_rate_pps = self.rate_pps
        self._tokens = self._capacity = _capacity(self.rate_pps)
        self._counted_at: float | None = None
        self._owed = 0.0
        self._is_wanted = False

    def grant(self, now: float, wanted: int, most: int | None = None) -> int:
        """Take up to `wanted` probes out of the bucket, and no more than `most`; how many may leave now."""
        most = wanted if most is None else min(wanted, most)
        if self.rate_pps == inf:
            return most
        self._fill(now)
        granted = min(most, int(self._tokens))
        self._tokens -= granted
        self._is_wanted = granted < wanted
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

    def slow_down(self, observed_pps: float) -> None:
        """This machine dropped packets at this rate: go slower, and rise again little by little."""
        self._change(max(min(LEAST_PPS, self.rate_pps), SLOW_DOWN * min(self.rate_pps, observed_pps)))
        self._tokens = min(self._tokens, self._capacity)
        self._owed = 0.0

    def _fill(self, now: float) -> None:
        before, self._counted_at = self._counted_at, now
        if before is None:
            return
        passed = now - before
        if self.rate_pps < self._asked_rate_pps:
            self._change(min(self._asked_rate_pps, self.rate_pps * (1 + RECOVERY * passed)))
        tokens = self._tokens + passed * self.rate_pps
        if self._owed:
            extra = min(self._owed, CATCH_UP * self.rate_pps * passed)
            tokens += extra
            self._owed -= extra
        if tokens > self._capacity:
            if self._is_wanted:
                self._owed = min(self._owed + tokens - self._capacity, MOST_OWED_S * self.rate_pps)
            tokens = self._capacity
        self._tokens = tokens

    def _change(self, rate_pps: float) -> None:
        self.rate_pps, self._capacity = rate_pps, _capacity(rate_pps)


def _capacity(rate_pps: float) -> float:
    """Of the bucket, probes."""
    return max(1.0, rate_pps * BURST_S)
