"""The ledger read as paths, many courses at once: the rules of course.py for what ends a path, as array operations.

Nothing is kept between two surveys: whatever the strategies, the windows and the results know of a course is in the
ledger's columns. This file knows no packet and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.answers import packed_responders, responder_keys
from allhops.core.course import LOOP_VISITS
from allhops.core.evidence import DIRECT
from allhops.core.ledger import UNSENT
from allhops.wire.classify import DESTINATION, IGNORED, TIME_EXCEEDED, UNREACHABLE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.core.ledger import Ledger
    from allhops.core.plan import Plan

NONE = 0
"""In a column of TTLs: there is none."""
_FAR = np.iinfo(np.int16).max


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
        rows = self.courses[place] * self.plan.ttls + row
        return packed_responders(self.ledger, rows * self.plan.slots_per_row + self.attempt[place, row])

    def part(self, which: NDArray[np.bool_]) -> Survey:
        """Of some of the courses."""
        places = np.flatnonzero(which)
        columns: dict[str, Any] = {
            name: column[places] for name, column in vars(self).items() if isinstance(column, np.ndarray)
        }
        return Survey(plan=self.plan, ledger=self.ledger, **columns)


def survey(plan: Plan, ledger: Ledger, courses: NDArray[np.int64]) -> Survey:
    """Read what the ledger holds of these courses.

    Inside, columns have their courses last, so that numpy looks at thousands of them side by side and not at the few
    rows of one after the other; those of the survey are views of them.
    """
    nobody, by_row = plan.options.first_ttl - 1, (plan.ttls, plan.slots_per_row, len(courses))
    first_slots = courses * plan.slots_per_course
    ttls = np.repeat(np.arange(nobody + 1, nobody + 1 + plan.ttls, dtype=np.uint8), plan.slots_per_row)[:, None]
    states, kinds = (column.reshape(plan.courses, -1) for column in map(np.asarray, (ledger.state, ledger.kind)))
    state = np.ascontiguousarray(states.take(courses, axis=0).T)
    kind = np.ascontiguousarray(kinds[courses].T)
    answered, transit = kind != IGNORED, kind == TIME_EXCEEDED
    arrived, unreachable = kind == DESTINATION, kind == UNREACHABLE
    highest_heard, highest_transit = (np.maximum(_highest(what, ttls), nobody) for what in (answered, transit))
    reached_ttl, unreachable_ttl = _lowest(arrived, ttls), _lowest(unreachable, ttls)
    distance = _distances(ledger, first_slots, ttls, arrived)
    nearer = np.flatnonzero((distance > highest_transit) & (distance < reached_ttl))
    if len(nearer):
        between = (ttls >= distance[nearer]) & (ttls < reached_ttl[nearer]) & answered[:, nearer]
        nearer = nearer[~between.any(axis=0)]
        reached_ttl[nearer] = distance[nearer]
    attempt, first_kind = _first_answers(kind.reshape(by_row))
    loop_ttl = _loops(plan, ledger, first_slots, transit.reshape(by_row).any(axis=1), attempt)
    return Survey(
        plan=plan,
        ledger=ledger,
        courses=courses,
        tries=(state != UNSENT).view(np.uint8).reshape(by_row).sum(axis=1, dtype=np.uint8).T,
        heard=(first_kind != IGNORED).T,
        attempt=attempt.T,
        kind=first_kind.T,
        reached_ttl=reached_ttl,
        unreachable_ttl=unreachable_ttl,
        loop_ttl=loop_ttl,
        end_ttl=np.where(reached_ttl > 0, reached_ttl, np.where(unreachable_ttl > 0, unreachable_ttl, loop_ttl)),
        distance=distance,
        highest_heard=highest_heard,
        highest_transit=highest_transit,
    )


def _highest(what: NDArray[np.bool_], ttls: NDArray[np.uint8]) -> NDArray[np.int16]:
    """(n,): the largest of `ttls` (slots, 1) where `what` (slots, n) is so; `NONE` for none."""
    found: NDArray[np.int16] = (what.view(np.uint8) * ttls).max(axis=0).astype(np.int16)
    return found


def _lowest(what: NDArray[np.bool_], ttls: NDArray[np.uint8]) -> NDArray[np.int16]:
    """The same for the smallest: in a byte, the negative of the largest negative one, and none stays none."""
    found: NDArray[np.int16] = np.negative((what.view(np.uint8) * -ttls).max(axis=0)).astype(np.int16)
    return found


def _first_answers(kind: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(T, attempts, n) to (T, n): the first attempt that was answered, 0 for none, and how."""
    attempts = kind.shape[1]
    if attempts == 1:
        return np.zeros((len(kind), kind.shape[2]), np.uint8), kind[:, 0]
    left = np.arange(attempts, 0, -1, dtype=np.uint8)[:, None]
    rank = ((kind != IGNORED).view(np.uint8) * left).max(axis=1)
    attempt = (attempts - rank) * (rank > 0)
    return attempt, np.take_along_axis(kind, attempt[:, None], axis=1)[:, 0]


def _distances(
    ledger: Ledger, first_slots: NDArray[np.int64], ttls: NDArray[np.uint8], arrived: NDArray[np.bool_]
) -> NDArray[np.int16]:
    """(n,): how far away destinations are, by what was left of the TTL that they quote (course.py).

    `first_slots`: (n,), of each course; `arrived`: (slots, n); `ttls`: (slots, 1), none nearer than the first.
    """
    distances = np.zeros(len(first_slots), np.int16)
    found = np.flatnonzero(arrived)
    if not len(found):
        return distances
    offset, place = np.divmod(found, len(distances))
    slot, ttl = first_slots[place] + offset, ttls.ravel()[offset].astype(np.int16)
    left = np.asarray(ledger.quoted_ttl)[slot]
    says = np.flatnonzero((np.asarray(ledger.flags)[slot] & DIRECT == 0) & (left >= 1) & (left <= ttl))
    place, distance = place[says], np.maximum(ttl - left + 1, ttls[0])[says]
    distances[place] = _FAR
    np.minimum.at(distances, place, distance)
    return distances


def _loops(
    plan: Plan,
    ledger: Ledger,
    first_slots: NDArray[np.int64],
    transit: NDArray[np.bool_],
    attempt: NDArray[np.uint8],
) -> NDArray[np.int16]:
    """(n,): TTL at which a loop closes: the third with one router, if another one was met in between.

    `first_slots`: (n,), of each course; `attempt`: (T, n), the first that was answered, where `transit`, (T, n), says
    that a router did.
    """
    loops = np.zeros(len(first_slots), np.int16)
    if transit.view(np.uint8).sum(axis=0, dtype=np.uint8).max(initial=0) <= LOOP_VISITS:
        return loops
    rows = np.arange(np.flatnonzero(transit.any(axis=1))[-1] + 1)[:, None]
    slots = first_slots + rows * plan.slots_per_row
    if plan.slots_per_row > 1:
        slots += attempt[: len(rows)]
    router = responder_keys(ledger, slots, plan.layout.family.address_size) * transit[: len(rows)]
    ordered = np.sort(router, axis=0)
    is_back = (ordered[LOOP_VISITS - 1 :] == ordered[: 1 - LOOP_VISITS]) & (ordered[LOOP_VISITS - 1 :] != 0)
    for index in np.flatnonzero(is_back.any(axis=0)).tolist():  # rare: only courses on which somebody was met so often
        visits: dict[int, list[int]] = {}
        row = router[:, index].tolist()
        for position, one in enumerate(row):
            if not one:
                continue
            seen = visits.setdefault(one, [])
            seen.append(position)
            if len(seen) == LOOP_VISITS and any(other not in (0, one) for other in row[seen[0] : position]):
                loops[index] = plan.options.first_ttl + position
                break
    return loops
