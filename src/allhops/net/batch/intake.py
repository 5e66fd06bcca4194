"""Destinations between the feed and their windows: sorted by the way they go, until there are enough of one way.

This file opens nothing and reads no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from allhops.errors import AllhopsError
from allhops.net.batch.feed import Destination, Refused
from allhops.net.many import untraced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from allhops.model import Address
    from allhops.net.batch.wire import Way, Wire
    from allhops.options import TraceOptions


ROUTED_AT_ONCE = 4_096
"""Destinations whose way is looked up in one go: some 12 ms."""


@dataclass(slots=True)
class Gathering:
    """Destinations of one way; `since` is when the first of them came or others of them left."""

    way: Way
    members: list[Destination] = field(default_factory=list)
    since: float = 0.0

    def take(self, most: int) -> list[Destination]:
        """The first so many, no address twice: a window tells replies apart by it."""
        taken: dict[Address, Destination] = {}
        left = []
        for place, member in enumerate(self.members):
            if len(taken) == most:
                left += self.members[place:]
                break
            if taken.setdefault(member.address, member) is not member:
                left.append(member)
        self.members = left
        return [*taken.values()]

    def give_back(self, members: Sequence[Destination]) -> None:
        """These could not be served now."""
        self.members[:0] = members


class Intake:
    """See the module."""

    def __init__(self, options: TraceOptions) -> None:
        self._options = options
        self._unrouted: list[Destination] = []
        self._gatherings: dict[Way, Gathering] = {}

    def __len__(self) -> int:
        return len(self._unrouted) + sum(len(gathering.members) for gathering in self._gatherings.values())

    def __iter__(self) -> Iterator[Gathering]:
        """Those of which something waits."""
        return iter([gathering for gathering in self._gatherings.values() if gathering.members])

    @property
    def unrouted(self) -> int:
        """How many are not sorted yet."""
        return len(self._unrouted)

    def add(self, member: Destination) -> None:
        """One more."""
        self._unrouted.append(member)

    def clear(self) -> None:
        """Nobody will ask for them."""
        self._unrouted.clear()
        self._gatherings.clear()

    def route(self, wire: Wire, now: float) -> list[Refused]:
        """Sort some of what is new by the way it goes; those to which no way leads. Raises: UsageError."""
        members, self._unrouted = self._unrouted[:ROUTED_AT_ONCE], self._unrouted[ROUTED_AT_ONCE:]
        if not members:
            return []
        refused = []
        ways = wire.ways([member.address for member in members], self._options)
        for member, way in zip(members, ways, strict=True):
            if isinstance(way, AllhopsError):
                refused.append(Refused(member.position, untraced(member.name, self._options, str(way))))
                continue
            gathering = self._gatherings.setdefault(way, Gathering(way))
            if not gathering.members:
                gathering.since = now
            gathering.members.append(member)
        return refused
