"""Which slot a reply names, on what evidence, and what is odd about it; or that it is none of this plan's.

What proves a reply is something that only this session and the path know. First the cookie: 32 random bits, with
which everything else may differ, because a NAT may rewrite addresses, ports, IP ID and checksum but not the payload.
Without it (28-byte quotes, RSTs, echo replies without payload) every address and port must be the ones that were sent,
and the checksum, which covers the cookie, or the sequence number, which has a keyed half, must be right. A quote
whose source address alone was rewritten has a checksum that differs by exactly that, and is right too.

Those have 16 to 20 secret bits beside the random source port, an echo reply without payload has 4 beside the random
identifier; so nobody may guess for long (`Ledger.is_under_attack`), and an identifier that the user chose proves
nothing.
This file knows no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from allhops.core.evidence import ALT_ADDR, DIRECT, EVIDENCE_BIT, NAT, SHORT_QUOTE
from allhops.core.lanes.hearsay import NAMED_ALONE, NAMED_BY_SOCKET, NAMELESS
from allhops.model import Evidence
from allhops.wire.checksum import MASK, word_sum
from allhops.wire.classify import DESTINATION
from allhops.wire.codec import balance, mark_attempt, mark_is_ours, mark_ttl

if TYPE_CHECKING:
    from allhops.core.lanes.rows import ReplyRow, Sighting
    from allhops.core.ledger import Counters, Ledger
    from allhops.core.plan import Plan
    from allhops.wire.probes import Template

_DST = EVIDENCE_BIT[Evidence.DST]
_IP_ID = EVIDENCE_BIT[Evidence.IP_ID]
_COOKIE = EVIDENCE_BIT[Evidence.COOKIE]
_CHECKSUM = EVIDENCE_BIT[Evidence.CHECKSUM]


class Match(NamedTuple):
    """A slot, and the bits of `allhops.core.evidence` about its reply."""

    slot: int
    matched: int
    flags: int


def disown(counters: Counters, row: ReplyRow) -> None:
    """Count a reply that is nobody's here."""
    counters.foreign += 1
    counters.bare += row.probe.is_bare


def is_of(plan: Plan, row: ReplyRow) -> bool:
    """Whether a reply is about a probe of this plan, of one course, and not of another with the same flow and cookie.

    Mark and balance add up to the key; where they are not shown the checksum, which covers them, tells.
    """
    probe = row.probe
    if probe.layout is not plan.layout:
        return False
    if probe.mark is not None and probe.balance is not None:
        return probe.balance == balance(probe.mark, plan.key)
    if probe.checksum is not None:
        return _checksum_is_explained(plan, plan.template(0), 0, probe)
    mark = probe.mark if probe.mark is not None else probe.ip_id
    return mark is not None and mark_is_ours(mark, plan.key)


def match(plan: Plan, ledger: Ledger, row: ReplyRow) -> Match | None:
    """The slot that a reply names; None, counted, when it is not believed to be about a probe of this plan."""
    probe, counters = row.probe, ledger.counters
    knows_cookie = probe.cookie == plan.cookie
    course = _course(plan, probe, knows_cookie=knows_cookie)
    if course is None or (probe.cookie is not None and not knows_cookie and not probe.is_quote):
        disown(counters, row)
        return None
    template = plan.template(course)
    matched = _shared_evidence(plan, template, course, probe)
    if not knows_cookie and not matched & EVIDENCE_BIT[plan.layout.flow_evidence]:
        disown(counters, row)
        return None
    if row.hearsay & NAMELESS:
        counters.unnamed += 1
        ledger.nameless.add(course)
        return None
    if _cannot_respond(plan, row):
        counters.forged += 1
        return None
    mark = probe.mark if probe.mark is not None else probe.ip_id
    if not _is_proven(plan, ledger, probe, matched) or (mark is not None and not _is_sound(plan, mark)):
        counters.forged += 1
        ledger.guesses += 1
        return None
    if mark is None:
        counters.unnamed += 1
        return None
    matched |= EVIDENCE_BIT[plan.layout.mark_evidence] if probe.mark is not None else 0
    matched |= _IP_ID if probe.ip_id == mark else 0
    if row.hearsay & (NAMED_BY_SOCKET | NAMED_ALONE):
        matched = _told_evidence(row.hearsay)
    slot = plan.slot(course, mark_ttl(mark), mark_attempt(mark))
    return Match(slot, matched, _flags(plan, template, course, row, mark))


def _course(plan: Plan, probe: Sighting, *, knows_cookie: bool) -> int | None:
    """The course that destination and flow name; what a NAT may have changed is not missed where there is but one."""
    if probe.layout is not plan.layout:
        return None
    destination = plan.destination_index.get(probe.destination)
    flow = plan.flow_index.get(probe.flow)
    if knows_cookie:
        destination = 0 if destination is None and len(plan.destinations) == 1 else destination
        flow = 0 if flow is None and len(plan.source_ports) == 1 else flow
    if destination is None or flow is None:
        return None
    return destination * len(plan.source_ports) + flow


def _shared_evidence(plan: Plan, template: Template, course: int, probe: Sighting) -> int:
    """Bits for what is the same in every probe of a course."""
    layout = plan.layout
    has_flow = probe.flow == plan.source_port_of(course) and probe.peer in (None, template.peer)
    return (
        _DST * (probe.destination == plan.destination_of(course))
        | EVIDENCE_BIT[layout.flow_evidence] * has_flow
        | _COOKIE * (probe.cookie == plan.cookie)
        | _CHECKSUM * _checksum_is_explained(plan, template, course, probe)
    )


def _checksum_is_explained(plan: Plan, template: Template, course: int, probe: Sighting) -> bool:
    """Whether a quoted checksum is the probe's own, or differs from it by just what the quoted addresses and ports do.

    A checksum and what it covers add up to the same, modulo 0xFFFF, whatever a NAT rewrites (RFC 1624).
    """
    if probe.checksum is None:
        return False
    if probe.checksum == template.checksum and probe.source == plan.source:
        return True
    peer = template.peer if probe.peer is None else probe.peer
    change = probe.checksum - template.checksum + probe.flow - plan.source_port_of(course) + peer - template.peer
    if plan.layout.has_pseudo_header:
        change += word_sum(probe.source) - word_sum(plan.source)
        change += word_sum(probe.destination) - word_sum(plan.destination_of(course))
    return change % MASK == 0


def _is_proven(plan: Plan, ledger: Ledger, probe: Sighting, matched: int) -> bool:
    """Whether a reply shows what only this session and the path know, and nothing that contradicts it."""
    has_balance = probe.mark is not None and probe.balance is not None
    if has_balance and probe.balance != balance(probe.mark or 0, plan.key):
        return False
    if probe.cookie is not None:
        return probe.cookie == plan.cookie
    if probe.checksum is not None and not matched & _CHECKSUM:
        return False
    # A bare echo reply shows the identifier, which is a secret unless the user chose it.
    is_secret_flow = not probe.is_quote and plan.options.source_port is None
    has_secret = has_balance or probe.checksum is not None or is_secret_flow
    return has_secret and not ledger.is_under_attack


def _told_evidence(hearsay: int) -> int:
    """Bits for a reply that shows a copy of its probe: what the kernel checked, and what named it instead."""
    if hearsay & NAMED_BY_SOCKET:
        return _DST | EVIDENCE_BIT[Evidence.SOCKET]
    return _DST | EVIDENCE_BIT[Evidence.PORTS] | EVIDENCE_BIT[Evidence.ALONE]


def _is_sound(plan: Plan, mark: int) -> bool:
    """Whether a mark's check bits are this session's and it names a probe of this plan."""
    options = plan.options
    return (
        mark_is_ours(mark, plan.key)
        and options.first_ttl <= mark_ttl(mark) <= options.max_ttl
        and mark_attempt(mark) < plan.slots_per_row
    )


def _cannot_respond(plan: Plan, row: ReplyRow) -> bool:
    """Whether no honest responder has this address, unless the destination is one of that sort itself."""
    first = row.responder[0]
    return first in plan.layout.family.never_responds and first not in plan.first_bytes


def _flags(plan: Plan, template: Template, course: int, row: ReplyRow, mark: int) -> int:
    probe = row.probe
    destination = plan.destination_of(course)
    flags = ALT_ADDR if row.kind == DESTINATION and row.responder != destination else 0
    if not probe.is_quote:
        return flags | DIRECT
    sent = (plan.source, destination, plan.source_port_of(course), template.peer, template.checksum, mark)
    shown = (probe.source, probe.destination, probe.flow, probe.peer, probe.checksum, probe.ip_id)
    if row.hearsay & (NAMED_BY_SOCKET | NAMED_ALONE):
        return flags | SHORT_QUOTE * bool(row.hearsay & NAMED_ALONE)
    changed = any(one is not None and one != other for one, other in zip(shown, sent, strict=True))
    return flags | NAT * changed | SHORT_QUOTE * (probe.cookie is None)
