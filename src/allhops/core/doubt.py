"""Which rows look wrong after the burst, and what they turned out to be.

A row is in doubt when it is silent although something beyond it answered, when two routers answered at it, or when its
router answered at another TTL too. So is the tail, until something shows how far away the destination is. A row
in doubt is asked again, alone and spaced, while there is time; what comes of it is the row's verdict. This file
reads no clock and knows no packet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allhops.core.ledger import ANSWERED, UNSENT
from allhops.model import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allhops.core.course import Course


def doubtful_rows(course: Course) -> list[int]:
    """A probe for each row in doubt below the last answer, nearest first."""
    return _next_spares(course, [ttl for ttl in _rows(course) if _is_doubtful(course, ttl)])


def is_overlooked(course: Course) -> bool:
    """Whether the wait for a silent row is over and it was not asked again: it left long before the wave's end."""
    silent = filter(course.is_silent, _rows(course))
    return any(course.row_is_complete(ttl) and not course.was_asked_again(ttl) for ttl in silent)


def doubtful_tail(course: Course) -> list[int]:
    """One probe right beyond the last answer and one with the largest TTL; none when the path's end is known.

    The largest TTL reaches the destination however far it is, and what is left of it there says how far.
    """
    options = course.plan.options
    if course.end_ttl is not None or course.highest_heard >= options.max_ttl:
        return []
    return _next_spares(course, sorted({course.highest_heard + 1, options.max_ttl}))


def limited_rows(course: Course) -> list[int]:
    """A probe for each row without an answer, if some row shows that its responder limits its answers."""
    if not any(_is_limited(course, ttl) for ttl in _rows(course)):
        return []
    return _next_spares(course, silent_ttls(course)) + doubtful_tail(course)


def silent_ttls(course: Course, last: int | None = None) -> list[int]:
    """TTLs without an answer, below the last answer or up to `last`."""
    ttls = _rows(course) if last is None else range(course.plan.options.first_ttl, last + 1)
    return [ttl for ttl in ttls if course.is_silent(ttl)]


def spare_slots(course: Course, ttl: int) -> list[int]:
    """What is left to ask one row again with."""
    state, plan = course.ledger.state, course.plan
    return [slot for slot in plan.row(course.index, ttl) if plan.is_spare(slot) and state[slot] == UNSENT]


def verdict(course: Course, ttl: int) -> Verdict | None:
    """What is wrong with a row, if anything is."""
    routers = course.routers_at(ttl)
    if course.loop_ttl is not None and course.end_ttl == course.loop_ttl and routers & course.looping:
        return Verdict.LOOP
    if len(routers) > 1:
        return Verdict.LOAD_BALANCED
    if ttl == course.end_ttl:
        return None
    if course.is_silent(ttl):
        return Verdict.SILENT
    if _answers_only_again(course, ttl):
        return Verdict.RATE_LIMITED
    limited = _is_limited(course, ttl) and ttl < course.highest_heard and _all_answer_beyond(course, ttl)
    return Verdict.RATE_LIMITED if limited else None


def _rows(course: Course) -> range:
    """TTLs below the path's end, or below the last answer while the end is not known."""
    return range(course.plan.options.first_ttl, course.end_ttl or course.highest_heard + 1)


def _is_doubtful(course: Course, ttl: int) -> bool:
    routers = course.routers_at(ttl)
    return course.is_silent(ttl) or len(routers) > 1 or any(course.visits(router) > 1 for router in routers)


def _answers(course: Course, ttl: int) -> list[int]:
    """Slots of a row that were answered."""
    return [slot for slot in course.plan.row(course.index, ttl) if course.ledger.state[slot] == ANSWERED]


def _answers_only_again(course: Course, ttl: int) -> bool:
    """Whether a row was silent until it was asked again, and not for want of a name in its replies."""
    answers = [] if course.has_nameless_replies else _answers(course, ttl)
    return bool(answers) and all(map(course.plan.is_spare, answers))


def _is_limited(course: Course, ttl: int) -> bool:
    """Whether a row has fewer answers than were asked for, or has one only because it was asked again."""
    at_first = sum(not course.plan.is_spare(slot) for slot in _answers(course, ttl))
    return 0 < at_first < course.plan.options.attempts or _answers_only_again(course, ttl)


def _all_answer_beyond(course: Course, ttl: int) -> bool:
    """Whether every router beyond a row that answers at all answered all: then nothing is lost on the way."""
    beyond = range(ttl + 1, (course.end_ttl or course.highest_heard + 1))
    return not any(_is_limited(course, further) for further in beyond)


def _next_spares(course: Course, ttls: Sequence[int]) -> list[int]:
    """The next spare slot of each row that has one left; two of the row right below the path's end.

    That row may be the end's own, whose answers were all lost: at 30 % loss once in 1,400 destinations if it is asked
    six times in all, once in 50,000 if nine times.
    """
    slots: list[int] = []
    for ttl in ttls:
        slots += spare_slots(course, ttl)[: 2 if ttl + 1 == course.end_ttl else 1]
    return slots
