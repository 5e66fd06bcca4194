"""The ledger read as paths, many courses at once: the rules of course.py for what ends a path, as array operations.

Nothing is kept between two surveys: whatever the strategies, the windows and the results know of a course is in the
ledger's columns. This file knows no packet and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.answers import packed_responders
from allhops.core.course import LOOP_VISITS
from allhops.core.evidence import DIRECT
from allhops.core.ledger import ANSWERED, UNSENT
from allhops.wire.classify import DESTINATION, TIME_EXCEEDED, UNREACHABLE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.core.ledger import Ledger
    from allhops.core.plan import Plan

NONE = 0
"""In a column of TTLs: there is none."""
_FAR = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What is known of n courses by now, with T = `plan.ttls` rows each; row 0 is `first_ttl`.

    TTL columns are int16, `NONE` where there is none.
    """

    courses: NDArray[np.int64]
    """(n,): courses of the plan."""
    tries: NDArray[np.uint8]
    """(n, T): probes sent at each TTL."""
    heard: NDArray[np.bool_]
    """(n, T): whether one of them was answered."""
    kind: NDArray[np.uint8]
    """(n, T): of the first attempt that was answered (`classify.KINDS`), 0 for none."""
    responder: NDArray[np.uint64]
    """(n, T): who answered that one, as `key_of` has it; 0 for nobody."""
    packed: NDArray[np.uint8]
    """(n, T, 16): the same as a packed address, left-aligned; says nothing where nobody answered."""
    slot: NDArray[np.int64]
    """(n, T): slot of that one; where nobody answered, of the first attempt."""
    reached_ttl: NDArray[np.int16]
    """(n,): lowest TTL that reached the destination, or less when what it quoted says so and nobody was heard in
    between, asked or not."""
    unreachable_ttl: NDArray[np.int16]
    loop_ttl: NDArray[np.int16]
    end_ttl: NDArray[np.int16]
    """(n,): where the path ends by one of the three, in this order."""
    distance: NDArray[np.int16]
    """(n,): how far the destination is by what was left of the TTL that it quoted."""
    highest_heard: NDArray[np.int16]
    """(n,): largest TTL at which somebody answered; `first_ttl` - 1 for none."""
    highest_transit: NDArray[np.int16]
    """(n,): largest TTL at which a router passed the probe on; `first_ttl` - 1 for none."""


def key_of(packed: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(..., 16) left-aligned addresses to (...,) numbers: an IPv4 address its own, an IPv6 address a hash.

    Never 0 for an address that is not. Good for comparing responders of one path, or as a key whose owner is checked.
    """
    halves = np.ascontiguousarray(packed).view(np.uint64)
    high, low = halves[..., 0], halves[..., 1]
    keys: NDArray[np.uint64] = high ^ (low * np.uint64(0x9E3779B97F4A7C15))
    return keys


def survey(plan: Plan, ledger: Ledger, courses: NDArray[np.int64]) -> Survey:
    """Read what the ledger holds of these courses."""
    first_ttl, rows, row = plan.options.first_ttl, plan.ttls, plan.slots_per_row
    shape = (plan.courses, rows, row)

    def of(column: Any) -> Any:
        return np.asarray(column).reshape(shape)[courses]

    state, kind = of(ledger.state), of(ledger.kind)
    answered = state == ANSWERED
    heard = answered.any(axis=2)
    first = answered.argmax(axis=2)
    slot = (courses[:, None] * rows + np.arange(rows)) * row + first
    first_kind = np.where(heard, np.asarray(ledger.kind)[slot], 0)
    packed = packed_responders(ledger, slot)
    responder = np.where(heard, key_of(packed), np.uint64(0))
    ttls = np.arange(first_ttl, first_ttl + rows, dtype=np.int16)

    def lowest(what: Any) -> Any:
        found = what.any(axis=1)
        return np.where(found, ttls[what.argmax(axis=1)], NONE).astype(np.int16)

    def highest(what: Any) -> Any:
        found = what.any(axis=1)
        return np.where(found, ttls[rows - 1 - what[:, ::-1].argmax(axis=1)], first_ttl - 1).astype(np.int16)

    arrived = (answered & (kind == DESTINATION)).any(axis=2)
    transit = (answered & (kind == TIME_EXCEEDED)).any(axis=2)
    reached_ttl = lowest(arrived)
    highest_transit = highest(transit)
    # What was left of the TTL that a destination quotes says how far away it is (course.py).
    left = of(ledger.quoted_ttl).astype(np.int16)
    quoted = answered & (kind == DESTINATION) & (of(ledger.flags) & DIRECT == 0)
    quoted &= (left >= 1) & (left <= ttls[None, :, None])
    far = np.where(quoted, np.maximum(ttls[None, :, None] - left + 1, first_ttl), _FAR).min(axis=(1, 2))
    distance = np.where(far == _FAR, NONE, far).astype(np.int16)
    between = (ttls >= distance[:, None]) & (ttls < reached_ttl[:, None])
    unheard = ~(between & heard).any(axis=1)
    nearer = (distance > highest_transit) & (distance < reached_ttl) & (distance != NONE) & unheard
    reached_ttl = np.where(nearer, distance, reached_ttl).astype(np.int16)
    unreachable_ttl = lowest((answered & (kind == UNREACHABLE)).any(axis=2))
    loop_ttl = _loops(np.where(transit, responder, np.uint64(0)), ttls)
    end_ttl = np.where(reached_ttl > 0, reached_ttl, np.where(unreachable_ttl > 0, unreachable_ttl, loop_ttl))
    return Survey(
        courses=courses,
        tries=(state != UNSENT).sum(axis=2, dtype=np.uint8),
        heard=heard,
        kind=first_kind,
        responder=responder,
        packed=packed,
        slot=slot,
        reached_ttl=reached_ttl,
        unreachable_ttl=unreachable_ttl,
        loop_ttl=loop_ttl,
        end_ttl=end_ttl.astype(np.int16),
        distance=distance,
        highest_heard=highest(heard),
        highest_transit=highest_transit,
    )


def _loops(responder: NDArray[np.uint64], ttls: NDArray[np.int16]) -> NDArray[np.int16]:
    """(n,): TTL at which a loop closes: the third with one router, if another one was met in between."""
    loops = np.zeros(len(responder), np.int16)
    ordered = np.sort(responder, axis=1)
    met_thrice = ((ordered[:, 2:] == ordered[:, :-2]) & (ordered[:, 2:] != 0)).any(axis=1)
    for index in np.flatnonzero(met_thrice).tolist():  # rare: only courses on which somebody came back
        visits: dict[int, list[int]] = {}
        row = responder[index].tolist()
        for position, router in enumerate(row):
            if not router:
                continue
            seen = visits.setdefault(router, [])
            seen.append(position)
            if len(seen) == LOOP_VISITS and any(other not in (0, router) for other in row[seen[0] : position]):
                loops[index] = ttls[position]
                break
    return loops
