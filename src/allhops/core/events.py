"""What a session tells, in the order in which it becomes certain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from allhops.model import Address, Hop, Trace


@dataclass(frozen=True, slots=True)
class ResponderHeard:
    """An address answered for the first time on its course."""

    course: int
    address: Address


@dataclass(frozen=True, slots=True)
class HopCertain:
    """Nothing to come can change who answered at this TTL and when; rows come in order of TTL.

    What the final trace may add: duplicates, a late reply, a verdict.
    """

    course: int
    hop: Hop


@dataclass(frozen=True, slots=True)
class TraceEnded:
    """The last event of a course."""

    course: int
    trace: Trace


Event = ResponderHeard | HopCertain | TraceEnded
