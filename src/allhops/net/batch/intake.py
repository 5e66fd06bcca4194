"""Destinations between the feed and their windows: sorted by the way they go, until there are enough of one way.

This file opens nothing and reads no clock.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from allhops.core.plan import size_of_probe
from allhops.errors import AllhopsError, UsageError
from allhops.net.batch.feed import Refused
from allhops.net.batch.group import Group, all_differ
from allhops.net.many import untraced
from allhops.wire.probes import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.net.batch.group import Kind
    from allhops.net.batch.wire import Way, Wire
    from allhops.options import TraceOptions


ROUTED_AT_ONCE = 4_096
"""Destinations whose way is looked up in one go: 1 ms, or 8 ms where each of them has to be asked about."""


@dataclass(slots=True)
class Gathering:
    """Destinations of one way, which makes up for their scopes; `since` is when the first came or others left."""

    way: Way
    members: Group
    since: float

    def take(self, most: int) -> Group:
        """The first so many, no address twice: a window tells replies apart by it."""
        head = self.members[:most]
        if all_differ(head.keys):
            self.members = self.members[most:]
            return head
        _, firsts = np.unique(self.members.keys, return_index=True)
        is_taken = np.zeros(len(self.members), np.bool_)
        is_taken[np.sort(firsts)[:most]] = True
        taken = self.members.select(np.flatnonzero(is_taken))
        self.members = self.members.select(np.flatnonzero(~is_taken))
        return taken

    def give_back(self, members: Group) -> None:
        """These could not be served now."""
        self.members = Group.joined([members, self.members])

    def add(self, members: Group, now: float) -> None:
        """More of them."""
        if not self.members:
            self.since = now
        self.members = Group.joined([self.members, members])


class Intake:
    """See the module."""

    def __init__(self, options: TraceOptions) -> None:
        self._options = options
        self._unrouted: defaultdict[Kind, list[Group]] = defaultdict(list)
        self._unrouted_count = 0
        self._gatherings: dict[Way, Gathering] = {}

    def __len__(self) -> int:
        return self._unrouted_count + sum(len(gathering.members) for gathering in self._gatherings.values())

    def __iter__(self) -> Iterator[Gathering]:
        """Those of which something waits."""
        return iter([gathering for gathering in self._gatherings.values() if gathering.members])

    @property
    def unrouted(self) -> int:
        """How many are not sorted yet."""
        return self._unrouted_count

    def add(self, members: Group) -> None:
        """One or more."""
        self._unrouted[members.kind].append(members)
        self._unrouted_count += len(members)

    def clear(self) -> None:
        """Nobody will ask for them."""
        self._unrouted.clear()
        self._unrouted_count = 0
        self._gatherings.clear()

    def route(self, wire: Wire, now: float) -> list[Refused]:
        """Sort some of what is new by the way it goes; those to which no way leads. Raises: UsageError."""
        refused: list[Refused] = []
        room = ROUTED_AT_ONCE
        while self._unrouted and room:
            members = self._next(room)
            room -= len(members)
            refused += self._sort(members, wire, now)
        return refused

    def _next(self, most: int) -> Group:
        """The first of what is new, at most so many, that are alike."""
        kind = next(iter(self._unrouted))
        waiting = Group.joined(self._unrouted.pop(kind))
        members, later = waiting[:most], waiting[most:]
        if later:
            self._unrouted[kind] = [later]
        self._unrouted_count -= len(members)
        return members

    def _sort(self, members: Group, wire: Wire, now: float) -> Iterator[Refused]:
        """Add these to the gatherings of their ways; those to which no way leads, or no probe as it was asked for."""
        try:
            self._options.check_flow_label(members.version)
            size_of_probe(LAYOUTS[self._options.protocol, members.version], self._options)
        except UsageError as error:
            for place, name in enumerate(members.names):
                yield self._refused(members, place, f"{name}: {error}")
            return
        found = wire.ways(members, self._options)
        order = np.argsort(found.of, kind="stable")
        begins = np.searchsorted(found.of[order], np.arange(1, len(found.kinds)))
        for way, places in zip(found.kinds, np.split(order, begins), strict=True):
            if isinstance(way, AllhopsError):
                for place in places.tolist():
                    yield self._refused(members, place, str(way))
                continue
            those = members if len(places) == len(members) else members.select(places)
            if way in self._gatherings:
                self._gatherings[way].add(those, now)
            else:
                self._gatherings[way] = Gathering(way, those, now)

    def _refused(self, members: Group, place: int, error: str) -> Refused:
        return Refused(int(members.positions[place]), untraced(members.names[place], self._options, error))
