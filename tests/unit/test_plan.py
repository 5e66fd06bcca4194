from __future__ import annotations

import pytest

from allhops.core.plan import Plan
from allhops.model import Protocol
from allhops.options import TraceOptions
from allhops.wire.probes import LAYOUTS


@pytest.fixture
def plan() -> Plan:
    return Plan(
        layout=LAYOUTS[Protocol.UDP, 4],
        options=TraceOptions(first_ttl=3, max_ttl=12, attempts=2),
        destinations=(b"\xcb\0\x71\1", b"\xcb\0\x71\2", b"\xcb\0\x71\3"),
        source=b"\xc0\0\2\1",
        source_ports=(40_000, 50_000),
        key=1,
        cookie=b"abcd",
        size=60,
    )


def test_slots_are_dense_and_each_names_its_probe(plan: Plan) -> None:
    seen = [
        plan.slot(course, ttl, attempt)
        for course in range(6)
        for ttl in range(3, 13)
        for attempt in range(plan.slots_per_row)
    ]
    assert seen == list(range(plan.slots))
    for course in range(6):
        for ttl in range(3, 13):
            for attempt in range(plan.slots_per_row):
                slot = plan.slot(course, ttl, attempt)
                assert (plan.course_of(slot), plan.ttl_of(slot), plan.attempt_of(slot)) == (course, ttl, attempt)


def test_rows_make_up_courses_and_courses_the_plan(plan: Plan) -> None:
    assert [slot for ttl in range(3, 13) for slot in plan.row(4, ttl)] == list(plan.course_slots(4))
    assert [slot for course in range(plan.courses) for slot in plan.course_slots(course)] == list(range(plan.slots))


def test_a_course_is_a_destination_and_a_flow(plan: Plan) -> None:
    pairs = [(plan.destination_of(course), plan.source_port_of(course)) for course in range(plan.courses)]
    assert len(set(pairs)) == 6
    assert pairs[3] == (b"\xcb\0\x71\2", 50_000)
