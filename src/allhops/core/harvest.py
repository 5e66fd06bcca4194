"""Courses that have ended, still as columns: what a batch hands to whoever wants traces, lines or tables of them.

A harvest shares plan and ledger with the window it comes from; nothing in either changes any more for its courses,
but for the stamps of replies that come late and the count and flags of duplicates: who reads later may see more.
This file knows no packet and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from allhops.core.answers import packed_responders
from allhops.core.ledger import ANSWERED, UNSENT
from allhops.core.paths import address_from, hop_from
from allhops.errors import explain_errno
from allhops.model import Flow, Hop, Inherited, StopReason, Trace
from allhops.options import MAX_TTL
from allhops.wire.classify import DESTINATION, IGNORED, UNREACHABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from allhops.core.batch.strategies import Inheritance
    from allhops.core.ledger import Ledger
    from allhops.core.plan import Plan

STOP_REASONS = tuple(StopReason)
"""Column value to stop reason."""


class Rows(NamedTuple):
    """Probes and the hops that they belong to; m of them, in order of course, hop and attempt."""

    place: NDArray[np.int64]
    """(m,): place in the harvest's columns."""
    ttl: NDArray[np.int16]
    """(m,): of the hop, which for the destination's may be less than the probe's; 0 for a probe that no hop shows."""
    slot: NDArray[np.int64]


class Hops(NamedTuple):
    """What is shown of each TTL; h of them, in order of place and TTL."""

    place: NDArray[np.int64]
    ttl: NDArray[np.int16]
    begin: NDArray[np.int64]
    """(h,): its first probe in `Rows`."""
    end: NDArray[np.int64]
    """(h,): behind its last one."""
    heir: NDArray[np.int64]
    """(h,): entry of `Harvest.inherited` that says who is there; -1 for none."""


@dataclass(frozen=True, kw_only=True)
class Harvest:
    """n courses that have ended. `names` and `positions` have one entry for each course of the plan."""

    plan: Plan
    ledger: Ledger
    names: Sequence[str]
    """Destinations as the caller wrote them."""
    positions: NDArray[np.int64]
    """Of the destinations in the caller's list."""
    courses: NDArray[np.int64]
    """(n,)"""
    stop: NDArray[np.uint8]
    """(n,): index into `STOP_REASONS`."""
    end_ttl: NDArray[np.int16]
    """(n,): where the path ends; 0 if it was not found."""
    last_ttl: NDArray[np.int16]
    """(n,): of the last hop to show; `first_ttl` - 1 for none."""
    started_ns: NDArray[np.int64]
    """(n,): wall clock when the first probe was due."""
    duration_ns: NDArray[np.int64]
    """(n,)"""
    errors: NDArray[np.uint16]
    """(n,): errno of the last probe that could not be sent; 0 for none."""
    inherited: Inheritance | None
    """In any order, of these courses or of others too; the last entry for a hop counts."""
    backend: str

    def __len__(self) -> int:
        return len(self.courses)

    def split(self, size: int) -> Iterator[Harvest]:
        """The same courses, `size` at a time: for those who must not hold an event loop for long."""
        if len(self) <= size:
            yield self
            return
        for start in range(0, len(self), size):
            yield self.only(slice(start, start + size))

    def shown(self) -> Rows:
        """The probes that the hops show: at most `attempts` a hop, those that were answered first.

        The last hop takes later arrivals at the same end as further samples (course.py).
        """
        return self._shown

    @cached_property
    def _shown(self) -> Rows:
        """Found once: the output, the summary and the inherited hops each ask for them."""
        index, ttl, slot = self._sent
        further = np.zeros(len(slot), np.bool_)
        highest = np.where(self.end_ttl > 0, np.minimum(self.end_ttl, self.last_ttl), self.last_ttl)
        if (ttl > highest[index]).any():
            further = self._further(index, ttl, slot)
            ttl = np.where(further, self.end_ttl[index], ttl)
            keep = np.flatnonzero(ttl <= self.last_ttl[index])
            keep = keep[np.argsort(self._row_key(index[keep], ttl[keep]), kind="stable")]
            index, ttl, slot, further = index[keep], ttl[keep], slot[keep], further[keep]
        key, attempts = self._row_key(index, ttl), self.plan.options.attempts
        has_room = np.ones(len(key), np.bool_)  # in order of hops: no more than so many of its hop stand before it
        has_room[attempts:] = key[attempts:] != key[:-attempts]
        if not has_room.all():
            rank = np.where(further, 1, np.where(self.column("state", slot) == ANSWERED, 0, 2))
            keep = np.sort(np.argsort(3 * key + rank, kind="stable")[has_room])
            index, ttl, slot = index[keep], ttl[keep], slot[keep]
        return Rows(index, ttl, slot)

    def sent(self) -> Rows:
        """Every probe that was sent, in order of place and slot; those that no hop shows have TTL 0."""
        index, _, slot = self._sent
        shown = self.shown()
        if np.array_equal(slot, shown.slot):
            return shown
        ttl = np.zeros(len(slot), np.int16)
        by_slot = np.argsort(slot)
        ttl[by_slot[np.searchsorted(slot, shown.slot, sorter=by_slot)]] = shown.ttl
        return Rows(index, ttl, slot)

    def hops(self, probes: Rows) -> Hops:
        """Every hop to show, and which of the probes it has: of those that are `shown`."""
        first_ttl = int(self.plan.options.first_ttl)
        counts = np.maximum(self.last_ttl.astype(np.int64) - first_ttl + 1, 0)
        before = np.cumsum(counts) - counts
        place = np.repeat(np.arange(len(self)), counts)
        ttl = np.arange(first_ttl, first_ttl + len(place)) - before[place]
        asked = np.bincount(before[probes.place] + (probes.ttl - first_ttl), minlength=len(place))
        end = np.cumsum(asked)
        return Hops(place, ttl.astype(np.int16), end - asked, end, self._heirs(before, asked == 0))

    def column(self, name: str, slot: NDArray[np.int64]) -> NDArray[Any]:
        """These slots of a column of the ledger."""
        return np.asarray(getattr(self.ledger, name))[slot]

    def destinations(self) -> NDArray[np.uint8]:
        """(n, 4 or 16): packed addresses."""
        plan = self.plan
        packed = map(plan.destinations.__getitem__, (self.courses // len(plan.source_ports)).tolist())
        return np.frombuffer(b"".join(packed), np.uint8).reshape(-1, plan.layout.family.address_size)

    def source_ports(self) -> NDArray[np.uint16]:
        """(n,): of the probes; ICMP: identifiers."""
        ports = np.array(self.plan.source_ports, np.uint16)
        return ports[self.courses % len(ports)]

    def responders(self, slot: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(m, 4 or 16): packed addresses of those who answered; nothing that counts where nobody did."""
        return packed_responders(self.ledger, slot)[:, : self.plan.layout.family.address_size]

    def is_reply(self, slot: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(m,): whether a slot holds a reply that a trace shows (`paths.reply_from`)."""
        told: NDArray[np.bool_] = (self.column("state", slot) == ANSWERED) & (self.column("kind", slot) != IGNORED)
        return told

    def traces(self) -> Iterator[Trace]:
        """Each course as a value of the model."""
        plan, ledger = self.plan, self.ledger
        probes = self.shown()
        hops = self.hops(probes)
        slots = probes.slot.tolist()
        bounds = np.searchsorted(hops.place, np.arange(len(self) + 1)).tolist()
        ttls, begins, ends, heirs = (column.tolist() for column in hops[1:])
        for place in range(len(self)):
            yield self.trace(
                place,
                tuple(
                    hop_from(plan, ledger, ttls[at], slots[begins[at] : ends[at]])
                    if heirs[at] < 0
                    else Hop(ttl=ttls[at], probes=(), inherited=self.inherited_hop(heirs[at]))
                    for at in range(bounds[place], bounds[place + 1])
                ),
            )

    def trace(self, place: int, hops: tuple[Hop, ...] = ()) -> Trace:
        """One course as a value of the model, with these hops."""
        plan, course = self.plan, int(self.courses[place])
        reason = STOP_REASONS[self.stop[place]]
        return Trace(
            destination=self.names[course],
            address=address_from(plan.destination_of(course)),
            source=address_from(plan.source),
            protocol=plan.options.protocol,
            flow=Flow(source_port=plan.source_port_of(course), destination_port=plan.options.destination_port),
            started_at_ns=int(self.started_ns[place]),
            duration_ns=int(self.duration_ns[place]),
            stop_reason=reason,
            hops=hops,
            error=explain_errno(int(self.errors[place])) if reason is StopReason.LOCAL_ERROR else None,
            backend=self.backend,
        )

    def inherited_hop(self, heir: int) -> Inherited:
        """What an entry of `inherited` says."""
        assert self.inherited is not None
        size = self.plan.layout.family.address_size
        responder, donor = self.inherited.responder[heir, :size], self.inherited.donor[heir, :size]
        return Inherited(address=address_from(responder.tobytes()), destination=address_from(donor.tobytes()))

    def only(self, part: slice | NDArray[np.bool_]) -> Harvest:
        """Some of the courses."""
        courses = self.courses[part]
        inherited = self.inherited
        if inherited is not None:
            is_mine = np.zeros(self.plan.courses, np.bool_)
            is_mine[courses] = True
            mine = is_mine[inherited.course]
            inherited = inherited._replace(**{name: column[mine] for name, column in inherited._asdict().items()})
        return replace(
            self,
            courses=courses,
            stop=self.stop[part],
            end_ttl=self.end_ttl[part],
            last_ttl=self.last_ttl[part],
            started_ns=self.started_ns[part],
            duration_ns=self.duration_ns[part],
            errors=self.errors[part],
            inherited=inherited,
        )

    @cached_property
    def _sent(self) -> tuple[NDArray[np.int64], NDArray[np.int16], NDArray[np.int64]]:
        """(place in the harvest, TTL, slot) of every probe that was sent, in order of place and slot."""
        plan = self.plan
        state = np.frombuffer(self.ledger.state, np.uint8).reshape(plan.courses, plan.slots_per_course)[self.courses]
        index, offset = np.nonzero(state != UNSENT)
        slot = self.courses[index] * plan.slots_per_course + offset
        ttl = (offset // plan.slots_per_row + plan.options.first_ttl).astype(np.int16)
        return index, ttl, slot

    def _row_key(self, place: NDArray[np.int64], ttl: NDArray[Any]) -> NDArray[np.int64]:
        """One number for a place and a TTL, in the order of both."""
        keys: NDArray[np.int64] = place * (MAX_TTL + 1) + ttl
        return keys

    def _further(self, index: NDArray[np.int64], ttl: NDArray[np.int16], slot: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(m,): whether a probe that was sent beyond the end of its path arrived at that end too."""
        answered = self.column("state", slot) == ANSWERED
        kind = self.column("kind", slot)
        reached = np.zeros(len(self), np.bool_)
        reached[index[answered & (kind == DESTINATION)]] = True
        wanted = np.where(reached, DESTINATION, UNREACHABLE)[index]
        end = self.end_ttl[index]
        further: NDArray[np.bool_] = (end > 0) & (ttl > end) & answered & (kind == wanted)
        return further

    def _heirs(self, before: NDArray[np.int64], is_empty: NDArray[np.bool_]) -> NDArray[np.int64]:
        """For each hop the entry of `inherited` that tells it; -1 for none.

        `before`: (n,), hops before each course's. `is_empty`: (h,), hops without a probe.
        """
        heirs = np.full(len(is_empty), -1)
        if self.inherited is None:
            return heirs
        place_of = np.full(self.plan.courses, -1)
        place_of[self.courses] = np.arange(len(self))
        told = np.flatnonzero(place_of[self.inherited.course] >= 0)
        place = place_of[self.inherited.course[told]]
        ttl = self.inherited.ttl[told].astype(np.int16)
        is_shown = (ttl >= self.plan.options.first_ttl) & (ttl <= self.last_ttl[place])
        told, hop = told[is_shown], (before[place] + ttl - self.plan.options.first_ttl)[is_shown]
        heirs[hop[is_empty[hop]]] = told[is_empty[hop]]
        return heirs


def joined(harvests: Sequence[Harvest]) -> Harvest:
    """Harvests of one window as one."""
    if len(harvests) == 1:
        return harvests[0]
    inherited = [harvest.inherited for harvest in harvests if harvest.inherited is not None]
    columns = ("courses", "stop", "end_ttl", "last_ttl", "started_ns", "duration_ns", "errors")
    whole: dict[str, Any] = {name: np.concatenate([getattr(one, name) for one in harvests]) for name in columns}
    return replace(
        harvests[0],
        **whole,
        inherited=type(inherited[0])(*map(np.concatenate, zip(*inherited, strict=True))) if inherited else None,
    )
