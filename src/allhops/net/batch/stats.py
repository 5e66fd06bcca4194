"""Where a batch stands, in numbers that add up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a batch has done so far; `sent` is the sum of the four ends of a probe and of what is `in_flight`."""

    sent: int = 0
    answered: int = 0
    timed_out: int = 0
    local_error: int = 0
    cancelled: int = 0
    in_flight: int = 0
    kernel_drops: int = 0
    """Replies that the kernel dropped because our buffer was full."""
    full_queues: int = 0
    """Times that the kernel's send queue had no room; what found none was sent a moment later."""
    rate_now_pps: float = 0.0
    done: int = 0
    """Destinations that have ended."""
