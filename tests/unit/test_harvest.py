"""Courses as columns: the same hops as those of courses that are traced one by one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.core.course import Course
from allhops.core.ledger import ANSWERED, UNSENT
from allhops.model import StopReason, Trace
from tests.harvests import random_harvest

SEEDS = st.integers(0, 2**32 - 1)


def course_of(harvest_seed: int, version: int, attempts: int) -> tuple[list[Trace], list[Course]]:
    """A harvest whose courses end where `Course` says that they end, as traces, and those courses."""
    harvest = random_harvest(harvest_seed, version=version, max_ttl=6, attempts=attempts)
    courses = []
    for index in harvest.courses.tolist():
        course = Course(harvest.plan, harvest.ledger, index)
        for slot in harvest.plan.course_slots(index):
            if harvest.ledger.state[slot] == ANSWERED:
                course.note_answered(slot)
        courses.append(course)
    ends = np.array([course.end_ttl or 0 for course in courses], np.int16)
    last = np.array([course.last_ttl() for course in courses], np.int16)
    return [*replace(harvest, end_ttl=ends, last_ttl=last, inherited=None).traces()], courses


@given(SEEDS, st.sampled_from([4, 6]), st.integers(1, 3))
def test_hops_are_those_of_a_course(seed: int, version: int, attempts: int) -> None:
    traces, courses = course_of(seed, version, attempts)
    for trace, course in zip(traces, courses, strict=True):
        ttls = range(1, course.last_ttl() + 1)
        assert trace.hops == tuple(replace(course.hop(ttl), verdict=None) for ttl in ttls)


@given(SEEDS, st.integers(1, 9))
def test_split_is_the_same_traces(seed: int, size: int) -> None:
    harvest = random_harvest(seed, max_ttl=5, attempts=2)
    parts = [*harvest.split(size)]
    assert all(len(part) <= size for part in parts)
    assert [trace for part in parts for trace in part.traces()] == [*harvest.traces()]


@given(SEEDS)
def test_sent_is_every_probe_once(seed: int) -> None:
    harvest = random_harvest(seed, max_ttl=5, attempts=2)
    sent, shown = harvest.sent(), harvest.shown()
    slots = [slot for course in harvest.courses.tolist() for slot in harvest.plan.course_slots(course)]
    assert sent.slot.tolist() == [slot for slot in slots if harvest.ledger.state[slot] != UNSENT]
    told = dict(zip(shown.slot.tolist(), shown.ttl.tolist(), strict=True))
    assert sent.ttl.tolist() == [told.get(slot, 0) for slot in sent.slot.tolist()]


@given(SEEDS)
def test_a_hop_is_inherited_only_where_no_probe_asked(seed: int) -> None:
    harvest = random_harvest(seed, max_ttl=5, attempts=1)
    last = {}
    if harvest.inherited is not None:
        told = zip(harvest.inherited.course.tolist(), harvest.inherited.ttl.tolist(), strict=True)
        last = {key: harvest.inherited_hop(heir) for heir, key in enumerate(told)}
    for course, trace in zip(harvest.courses.tolist(), harvest.traces(), strict=True):
        for hop in trace.hops:
            assert hop.inherited == (None if hop.probes else last.get((course, hop.ttl)))


@pytest.mark.parametrize("seed", range(3))
def test_hops_are_dense(seed: int) -> None:
    for trace in random_harvest(seed, first_ttl=2, max_ttl=6).traces():
        ttls = [1, *(hop.ttl for hop in trace.hops)]
        assert all(after == before + 1 for before, after in pairwise(ttls))
        assert (trace.error is None) == (trace.stop_reason is not StopReason.LOCAL_ERROR)
