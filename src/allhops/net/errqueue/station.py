"""What the leases of one transport share. This file knows no packet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from allhops.net.errqueue.places import Places

if TYPE_CHECKING:
    import asyncio

    from allhops.net.errqueue.arrivals import Arrivals
    from allhops.net.errqueue.watch import Watch
    from allhops.net.transport import Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """Where replies go, what watches the sockets, which leases are out (they enter and remove themselves), and how
    many sockets there may be where every probe needs one.
    """

    loop: asyncio.AbstractEventLoop
    arrivals: Arrivals
    watch: Watch
    leases: set[Lease] = field(default_factory=set)
    places: Places = field(default_factory=Places)
