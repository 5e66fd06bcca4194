"""Courses that have ended, still as columns: what a batch hands to whoever wants traces, lines or tables of them.

A harvest shares plan and ledger with the window it comes from; nothing in either changes any more for its courses,
but for the stamps of replies that come late. This file knows no packet and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from allhops.core.ledger import ANSWERED, UNSENT
from allhops.core.paths import address_from, hop_from
from allhops.errors import explain_errno
from allhops.model import Flow, Hop, Inherited, StopReason, Trace
from allhops.wire.classify import DESTINATION, UNREACHABLE

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
    backend: str

    def __len__(self) -> int:
        return len(self.courses)

    def shown(self) -> Rows:
        """The probes that the hops show: at most `attempts` a hop, those that were answered first.

        The last hop takes later arrivals at the same end as further samples (course.py).
        """
        index, own_ttl, slot = self._sent()
        state, kind = _view(self.ledger.state), _view(self.ledger.kind)
        answered = state[slot] == ANSWERED
        reached = STOP_REASONS.index(StopReason.REACHED)
        wanted = np.where(self.stop[index] == reached, DESTINATION, UNREACHABLE)
        end = self.end_ttl[index]
        further = (end > 0) & (own_ttl > end) & answered & (kind[slot] == wanted)
        ttl = np.where(further, end, own_ttl)
        keep = further | (own_ttl <= self.last_ttl[index])
        rank = np.where(further, 1, np.where(answered, 0, 2))
        index, ttl, slot, rank = index[keep], ttl[keep], slot[keep], rank[keep]
        order = np.lexsort((slot, rank, ttl, index))
        index, ttl, slot = index[order], ttl[order], slot[order]
        nth = _nth_of_group(index * (int(self.plan.options.max_ttl) + 1) + ttl)
        keep = nth < self.plan.options.attempts
        index, ttl, slot = index[keep], ttl[keep], slot[keep]
        order = np.lexsort((slot, ttl, index))
        return Rows(index[order], ttl[order].astype(np.int16), slot[order])

    def sent(self) -> Rows:
        """Every probe that was sent, in order of slot; those that no hop shows have TTL 0."""
        index, _, slot = self._sent()
        shown = self.shown()
        ttl = np.zeros(len(slot), np.int16)
        by_slot = np.argsort(slot)
        ttl[by_slot[np.searchsorted(slot, shown.slot, sorter=by_slot)]] = shown.ttl
        return Rows(index, ttl, slot)

    def traces(self) -> Iterator[Trace]:
        """Each course as a value of the model."""
        shown = self.shown()
        inherited = self._inherited_hops()
        bounds = np.searchsorted(shown.place, np.arange(len(self) + 1)).tolist()
        ttls, slots = shown.ttl.tolist(), shown.slot.tolist()
        for index in range(len(self)):
            rows: dict[int, list[int]] = {}
            for place in range(bounds[index], bounds[index + 1]):
                rows.setdefault(ttls[place], []).append(slots[place])
            yield self._trace(index, rows, inherited.get(int(self.courses[index]), {}))

    def _sent(self) -> tuple[NDArray[np.int64], NDArray[np.int16], NDArray[np.int64]]:
        """(place in the harvest, TTL, slot) of every probe that was sent, in order of place and slot."""
        plan = self.plan
        state = _view(self.ledger.state).reshape(plan.courses, plan.slots_per_course)[self.courses]
        index, offset = np.nonzero(state != UNSENT)
        slot = self.courses[index] * plan.slots_per_course + offset
        ttl = (offset // plan.slots_per_row + plan.options.first_ttl).astype(np.int16)
        return index, ttl, slot

    def _inherited_hops(self) -> dict[int, dict[int, Inherited]]:
        """By course and TTL."""
        hops: dict[int, dict[int, Inherited]] = {}
        if self.inherited is None:
            return hops
        size = self.plan.layout.family.address_size
        responders, donors = self.inherited.responder[:, :size], self.inherited.donor[:, :size]
        for place, (course, ttl) in enumerate(
            zip(self.inherited.course.tolist(), self.inherited.ttl.tolist(), strict=True)
        ):
            hops.setdefault(course, {})[ttl] = Inherited(
                address=address_from(responders[place].tobytes()), destination=address_from(donors[place].tobytes())
            )
        return hops

    def _trace(self, index: int, rows: dict[int, list[int]], inherited: dict[int, Inherited]) -> Trace:
        plan, course = self.plan, int(self.courses[index])
        reason = STOP_REASONS[self.stop[index]]
        hops = []
        for ttl in range(plan.options.first_ttl, int(self.last_ttl[index]) + 1):
            if ttl in inherited and ttl not in rows:
                hops.append(Hop(ttl=ttl, probes=(), inherited=inherited[ttl]))
            else:
                hops.append(hop_from(plan, self.ledger, ttl, rows.get(ttl, ())))
        return Trace(
            destination=self.names[course],
            address=address_from(plan.destination_of(course)),
            source=address_from(plan.source),
            protocol=plan.options.protocol,
            flow=Flow(source_port=plan.source_port_of(course), destination_port=plan.options.destination_port),
            started_at_ns=int(self.started_ns[index]),
            duration_ns=int(self.duration_ns[index]),
            stop_reason=reason,
            hops=tuple(hops),
            error=explain_errno(int(self.errors[index])) if reason is StopReason.LOCAL_ERROR else None,
            backend=self.backend,
        )


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


def _view(column: bytearray) -> NDArray[np.uint8]:
    return np.frombuffer(column, np.uint8)


def _nth_of_group(key: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of each entry among its equals, which stand side by side.

    >>> _nth_of_group(np.array([7, 7, 9, 9, 9])).tolist()
    [0, 1, 0, 1, 2]
    """
    places = np.arange(len(key))
    starts = np.flatnonzero(np.diff(key, prepend=key[:1] - 1)) if len(key) else places
    return places - np.repeat(starts, np.diff(starts, append=len(key)))
