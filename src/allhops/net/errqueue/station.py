"""What the leases of one transport share. This file knows no packet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from allhops.net.errqueue.places import Places
from allhops.net.errqueue.spray import Misses

if TYPE_CHECKING:
    import asyncio

    from allhops.net.errqueue.arrivals import Arrivals
    from allhops.net.errqueue.watch import Watch


class Leased(Protocol):
    """What was given out, and is to be closed with the transport."""

    def close(self) -> None:
        """Give it back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """What one transport has: where replies go, what watches the sockets.

    `leases` are those that are out: they enter and remove themselves. `places` is how many sockets there may be where
    every probe needs one. `misses` tells whether somebody is guessing ports.
    """

    loop: asyncio.AbstractEventLoop
    arrivals: Arrivals
    watch: Watch
    leases: set[Leased] = field(default_factory=set)
    places: Places = field(default_factory=Places)
    misses: Misses = field(default_factory=Misses)
