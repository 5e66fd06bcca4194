"""A survey and the ends of its courses, against the same rules spelled out for one course at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from allhops.core.answers import answers_of
from allhops.core.batch.ends import last_ttls, stop_reasons
from allhops.core.batch.survey import NONE, survey
from allhops.core.evidence import DIRECT
from allhops.core.harvest import STOP_REASONS
from allhops.core.ledger import ANSWERED, IN_FLIGHT, TIMED_OUT, UNSENT, Ledger
from allhops.model import StopReason
from allhops.wire.classify import DESTINATION, TIME_EXCEEDED, UNREACHABLE
from tests.harvests import make_plan

if TYPE_CHECKING:
    from numpy.random import Generator

    from allhops.core.plan import Plan

COURSES = 40
ROUTERS = 4
"""So few that they are met again and again."""
SHAPES: tuple[dict[str, Any], ...] = (
    {"first_ttl": 1, "max_ttl": 6, "attempts": 1, "gap_limit": 2},
    {"first_ttl": 3, "max_ttl": 12, "attempts": 2, "gap_limit": 4},
    {"first_ttl": 1, "max_ttl": 30, "attempts": 3, "gap_limit": 5},
    {"first_ttl": 250, "max_ttl": 255, "attempts": 1, "gap_limit": 1},
)


def random_ledger(rng: Generator, plan: Plan) -> Ledger:
    """Every state in every place; of some courses nothing was answered or sent."""
    ledger = Ledger(plan.slots)
    answers = answers_of(ledger)
    size = plan.layout.family.address_size
    addresses = np.zeros((ROUTERS, 16), np.uint8)
    addresses[:, :size] = rng.integers(0, 256, (ROUTERS, size))
    courses = np.arange(plan.slots) // plan.slots_per_course
    answered = rng.random(plan.slots) < rng.choice([0.0, 0.1, 0.5, 1.0], plan.courses)[courses]
    other = rng.choice([UNSENT, IN_FLIGHT, TIMED_OUT], plan.slots)
    np.frombuffer(ledger.state, np.uint8)[:] = np.where(answered, ANSWERED, other)
    kind = rng.choice([TIME_EXCEEDED, DESTINATION, UNREACHABLE], plan.slots, p=[0.9, 0.07, 0.03])
    answers["kind"][answered] = kind[answered]
    answers["flags"][answered] = rng.choice([0, DIRECT], answered.sum(), p=[0.8, 0.2])
    answers["quoted_ttl"][answered] = rng.integers(0, 256 if plan.options.first_ttl > 200 else 12, answered.sum())
    answers["responder"][answered] = addresses.view(np.uint64)[rng.integers(0, ROUTERS, answered.sum())]
    return ledger


class Told:
    """What a ledger says of one course, told row by row."""

    def __init__(self, plan: Plan, ledger: Ledger, course: int) -> None:
        first_ttl = plan.options.first_ttl
        rows = {first_ttl + row: plan.row(course, first_ttl + row) for row in range(plan.ttls)}
        answered = {ttl: [slot for slot in row if ledger.state[slot] == ANSWERED] for ttl, row in rows.items()}
        self.tries = [sum(ledger.state[slot] != UNSENT for slot in row) for row in rows.values()]
        self.attempt = [plan.attempt_of(slots[0]) if slots else 0 for slots in answered.values()]
        self.kind = [ledger.kind[slots[0]] if slots else 0 for slots in answered.values()]
        kinds = {ttl: {ledger.kind[slot] for slot in slots} for ttl, slots in answered.items()}
        self.highest_heard = max((ttl for ttl in kinds if kinds[ttl]), default=first_ttl - 1)
        self.highest_transit = max((ttl for ttl in kinds if TIME_EXCEEDED in kinds[ttl]), default=first_ttl - 1)
        reached = min((ttl for ttl in kinds if DESTINATION in kinds[ttl]), default=NONE)
        self.unreachable_ttl = min((ttl for ttl in kinds if UNREACHABLE in kinds[ttl]), default=NONE)
        distances = [
            max(ttl - ledger.quoted_ttl[slot] + 1, first_ttl)
            for ttl, slots in answered.items()
            for slot in slots
            if ledger.kind[slot] == DESTINATION
            and not ledger.flags[slot] & DIRECT
            and 1 <= ledger.quoted_ttl[slot] <= ttl
        ]
        self.distance = min(distances, default=NONE)
        nearer = self.highest_transit < self.distance < reached
        self.reached_ttl = (
            self.distance if nearer and not any(map(kinds.get, range(self.distance, reached))) else reached
        )
        self.loop_ttl = _loop(
            {
                ttl: ledger.responder_of(slots[0], plan.layout.family.address_size)
                for ttl, slots in answered.items()
                if TIME_EXCEEDED in kinds[ttl]
            }
        )
        self.end_ttl = self.reached_ttl or self.unreachable_ttl or self.loop_ttl
        asked = [ttl for ttl in rows if self.tries[ttl - first_ttl]]
        limit = self.highest_heard + plan.options.gap_limit
        self.last_ttl = self.end_ttl or max((ttl for ttl in asked if ttl <= limit), default=first_ttl - 1)
        self.stop = self._stop(plan)

    def _stop(self, plan: Plan) -> StopReason:
        if self.reached_ttl:
            return StopReason.REACHED
        if self.unreachable_ttl:
            return StopReason.UNREACHABLE
        if self.loop_ttl:
            return StopReason.LOOP
        is_gap = plan.options.max_ttl - self.highest_heard >= plan.options.gap_limit
        return StopReason.GAP_LIMIT if is_gap else StopReason.MAX_TTL


def _loop(routers: dict[int, bytes]) -> int:
    visits: dict[bytes, list[int]] = {}
    for ttl, router in sorted(routers.items()):
        seen = visits.setdefault(router, [])
        seen.append(ttl)
        between = {other for at, other in routers.items() if seen[0] < at < ttl}
        if len(seen) == 3 and between - {router}:
            return ttl
    return NONE


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape['max_ttl']}x{shape['attempts']}")
def test_a_survey_says_what_the_ledger_says_of_each_course(shape: dict[str, Any], version: int) -> None:
    loops = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        plan = make_plan(rng, version, COURSES, **shape)
        ledger = random_ledger(rng, plan)
        courses = rng.permutation(plan.courses)[: COURSES - seed]
        known = survey(plan, ledger, courses)
        told = [Told(plan, ledger, course) for course in courses.tolist()]
        for name in ("tries", "attempt", "kind", "distance", "reached_ttl", "unreachable_ttl", "loop_ttl", "end_ttl"):
            assert getattr(known, name).tolist() == [getattr(one, name) for one in told], name
        for name in ("highest_heard", "highest_transit"):
            assert getattr(known, name).tolist() == [getattr(one, name) for one in told], name
        assert (known.heard == (known.kind != 0)).all()
        assert last_ttls(known).tolist() == [one.last_ttl for one in told]
        assert [STOP_REASONS[code] for code in stop_reasons(known, interrupted=False)] == [one.stop for one in told]
        assert set(stop_reasons(known, interrupted=True).tolist()) == {STOP_REASONS.index(StopReason.INTERRUPTED)}
        which = rng.random(len(courses)) < 0.5
        part = known.part(which)
        assert part.courses.tolist() == courses[which].tolist()
        assert part.tries.tolist() == known.tries[which].tolist()
        loops += int((known.loop_ttl != NONE).sum())
    assert loops
