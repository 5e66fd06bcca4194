"""The ledger read as paths, many courses at once: the rules of course.py for what ends a path, as array operations.

Nothing is kept between two surveys: whatever the strategies, the windows and the results know of a course is in the
ledger's columns. This file knows no packet and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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

    plan: Plan
    ledger: Ledger
    courses: NDArray[np.int64]
    """(n,): courses of the plan."""
    tries: NDArray[np.uint8]
    """(n, T): probes sent at each TTL."""
    heard: NDArray[np.bool_]
    """(n, T): whether one of them was answered."""
    attempt: NDArray[np.uint8]
    """(n, T): the first attempt that was answered; 0 where nobody answered."""
    kind: NDArray[np.uint8]
    """(n, T): how that one was answered (`classify.KINDS`), 0 for not at all."""
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

    def packed(self, place: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(k, 16): who answered the first attempt of these rows, a packed address, left-aligned; zeros for nobody."""
        return _responders(self.plan, self.ledger, self.courses[place], row, self.attempt[place, row])

    def part(self, which: NDArray[np.bool_]) -> Survey:
        """Of some of the courses."""
        places = np.flatnonzero(which)
        columns: dict[str, Any] = {
            name: column[places] for name, column in vars(self).items() if isinstance(column, np.ndarray)
        }
        return replace(self, **columns)


def key_of(packed: NDArray[Any]) -> NDArray[np.uint64]:
    """(..., 16) left-aligned addresses to (...,) numbers: an IPv4 address its own, an IPv6 address a hash.

    Never 0 for an address that is not. Good for comparing responders of one path, or as a key whose owner is checked.
    """
    halves = np.ascontiguousarray(packed).view(np.uint64)
    high, low = halves[..., 0], halves[..., 1]
    keys: NDArray[np.uint64] = high ^ (low * np.uint64(0x9E3779B97F4A7C15))
    return keys


def survey(plan: Plan, ledger: Ledger, courses: NDArray[np.int64]) -> Survey:
    """Read what the ledger holds of these courses.

    Inside, columns have their courses last, so that numpy looks at thousands of them side by side and not at the few
    rows of one after the other.
    """
    first_ttl, rows, attempts = plan.options.first_ttl, plan.ttls, plan.slots_per_row
    ttls = np.arange(first_ttl, first_ttl + rows, dtype=np.int16)[:, None]

    def of(column: Any) -> NDArray[np.uint8]:
        wanted = np.asarray(column).reshape(plan.courses, -1)[courses]
        return np.ascontiguousarray(wanted.T).reshape(rows, attempts, -1)

    def lowest(what: NDArray[np.bool_]) -> NDArray[np.int16]:
        found = np.where(what.any(axis=1), ttls, _FAR).min(axis=0)
        return np.where(found == _FAR, NONE, found).astype(np.int16)

    def highest(what: NDArray[np.bool_]) -> NDArray[np.int16]:
        found: NDArray[np.int16] = np.where(what, ttls, np.int16(first_ttl - 1)).max(axis=0)
        return found

    state, kind = of(ledger.state), of(ledger.kind)  # who has a kind is answered
    left = np.arange(attempts, 0, -1, dtype=np.uint8)[:, None]
    rank = ((state == ANSWERED) * left).max(axis=1)
    heard = rank > 0
    attempt = np.where(heard, attempts - rank, 0).astype(np.uint8)
    first_kind = kind[:, 0] if attempts == 1 else np.take_along_axis(kind, attempt[:, None], axis=1)[:, 0]
    transit = (kind == TIME_EXCEEDED).any(axis=1)
    highest_transit = highest(transit)
    arrived = kind == DESTINATION
    reached_ttl = lowest(arrived)
    distance = _distances(plan, ledger, courses, arrived)
    between = (ttls >= distance) & (ttls < reached_ttl)
    unheard = ~(between & heard).any(axis=0)
    nearer = (distance > highest_transit) & (distance < reached_ttl) & (distance != NONE) & unheard
    reached_ttl = np.where(nearer, distance, reached_ttl)
    unreachable_ttl = lowest(kind == UNREACHABLE)
    loop_ttl = _loops(plan, ledger, courses, transit, attempt)
    return Survey(
        plan=plan,
        ledger=ledger,
        courses=courses,
        tries=np.ascontiguousarray((state != UNSENT).sum(axis=1, dtype=np.uint8).T),
        heard=np.ascontiguousarray(heard.T),
        attempt=np.ascontiguousarray(attempt.T),
        kind=np.ascontiguousarray(first_kind.T),
        reached_ttl=reached_ttl,
        unreachable_ttl=unreachable_ttl,
        loop_ttl=loop_ttl,
        end_ttl=np.where(reached_ttl > 0, reached_ttl, np.where(unreachable_ttl > 0, unreachable_ttl, loop_ttl)),
        distance=distance,
        highest_heard=highest(heard),
        highest_transit=highest_transit,
    )


def _distances(plan: Plan, ledger: Ledger, courses: NDArray[np.int64], arrived: NDArray[np.bool_]) -> NDArray[np.int16]:
    """(n,): how far away destinations are, by what was left of the TTL that they quote (course.py).

    `arrived`: (T, attempts, n).
    """
    offset, place = np.divmod(np.flatnonzero(arrived), len(courses))
    slot = courses[place] * plan.slots_per_course + offset
    left = np.asarray(ledger.quoted_ttl)[slot].astype(np.int64)
    ttl = offset // plan.slots_per_row + plan.options.first_ttl
    says = (np.asarray(ledger.flags)[slot] & DIRECT == 0) & (left >= 1) & (left <= ttl)
    distances = np.full(len(courses), _FAR, np.int16)
    np.minimum.at(distances, place[says], np.maximum(ttl - left + 1, plan.options.first_ttl)[says].astype(np.int16))
    distances[distances == _FAR] = NONE
    return distances


def _responders(
    plan: Plan, ledger: Ledger, courses: NDArray[np.int64], row: NDArray[np.int64], attempt: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """(k, 16): who answered these attempts."""
    return packed_responders(ledger, (courses * plan.ttls + row) * plan.slots_per_row + attempt)


def _loops(
    plan: Plan,
    ledger: Ledger,
    courses: NDArray[np.int64],
    transit: NDArray[np.bool_],
    attempt: NDArray[np.uint8],
) -> NDArray[np.int16]:
    """(n,): TTL at which a loop closes: the third with one router, if another one was met in between.

    `transit`, `attempt`: (T, n). Whoever is met first and third is met at least three rows apart.
    """
    loops = np.zeros(len(courses), np.int16)
    place = np.flatnonzero(transit.sum(axis=0, dtype=np.uint8) > LOOP_VISITS)
    if not len(place):
        return loops
    is_router = transit[:, place]
    is_router = is_router[: np.flatnonzero(is_router.any(axis=1))[-1] + 1]
    rows = np.arange(len(is_router))[:, None]
    router = key_of(_responders(plan, ledger, courses[place], rows, attempt[: len(rows), place]))
    router = np.where(is_router, router, np.uint64(0))
    is_back = np.zeros(len(place), np.bool_)
    for apart in range(LOOP_VISITS, len(rows)):
        is_back |= ((router[apart:] == router[:-apart]) & is_router[apart:]).any(axis=0)
    for index in np.flatnonzero(is_back).tolist():  # rare: only courses on which somebody came back
        visits: dict[int, list[int]] = {}
        row = router[:, index].tolist()
        for position, one in enumerate(row):
            if not one:
                continue
            seen = visits.setdefault(one, [])
            seen.append(position)
            if len(seen) == LOOP_VISITS and any(other not in (0, one) for other in row[seen[0] : position]):
                loops[place[index]] = plan.options.first_ttl + position
                break
    return loops
