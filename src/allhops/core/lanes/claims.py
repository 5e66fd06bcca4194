"""Which replies show everything exactly as it was sent, and which slots they name: what is easy in matching.py.

A reply that shows less than it could is as sent too, as long as what it shows proves it. What differs in anything,
and be it by what a NAT explains, is for matching.py itself. This file knows no packet and no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allhops.core.evidence import ALT_ADDR, DIRECT, EVIDENCE_BIT, SHORT_QUOTE
from allhops.core.lanes.columns import CODE_OF
from allhops.core.lanes.tables import tables_of
from allhops.core.ledger import UNSENT
from allhops.model import Evidence
from allhops.wire.classify import DESTINATION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.core.lanes.columns import VectorReplies
    from allhops.core.ledger import Ledger
    from allhops.core.plan import Plan


class Claims(NamedTuple):
    """(n,) each. The first three mean something only where a reply is as sent."""

    slot: NDArray[np.int64]
    """0 where it is not."""
    matched: NDArray[np.uint16]
    flags: NDArray[np.uint8]
    is_as_sent: NDArray[np.bool_]
    is_strange: NDArray[np.bool_]
    """Surely about nobody's probe here, and too rich to be a guess."""


def claim(plan: Plan, ledger: Ledger, replies: VectorReplies) -> Claims:
    """Sort replies by what they show."""
    tables, columns, layout = tables_of(plan), replies.columns, plan.layout
    flows = len(plan.source_ports)
    destination, is_strange_destination = tables.find_destination(columns["destination"])
    flow = tables.find_flow(columns["flow"])
    course = np.maximum(destination, 0) * flows + np.maximum(flow, 0)
    shown_mark, ip_id, checksum, balance = (columns[name] for name in ("mark", "ip_id", "checksum", "balance"))
    has_mark, has_checksum = shown_mark >= 0, checksum >= 0
    mark = np.where(has_mark, shown_mark, ip_id)
    position = tables.position[mark]
    has_cookie, is_quote = columns["has_cookie"], columns["is_quote"]
    knows_cookie = has_cookie & (columns["cookie"] == tables.cookie)
    is_layout = columns["layout"] == CODE_OF[layout.family.version, layout.protocol]

    as_sent = is_layout & (has_cookie == knows_cookie) & (destination >= 0) & (flow >= 0) & (position >= 0)
    as_sent &= (columns["hearsay"] == 0) & ~tables.never_responds[columns["responder"].view(np.uint8)[:, 0]]
    as_sent &= (columns["peer"] < 0) | (columns["peer"] == tables.base.peer)
    as_sent &= ~has_checksum | (checksum == tables.checksums[course])
    as_sent &= (ip_id < 0) | (ip_id == mark)
    has_balance = has_mark & (balance >= 0)
    as_sent &= ~has_balance | (balance == tables.balances[position])
    as_sent &= ~is_quote | (columns["source"] == tables.source).all(axis=1)
    is_secret_flow = ~is_quote if plan.options.source_port is None else np.False_
    as_sent &= knows_cookie | has_balance | has_checksum | is_secret_flow
    slot = np.where(as_sent, course * plan.slots_per_course + position, 0)

    is_strange = ~is_layout | ~knows_cookie & (is_strange_destination | (flow < 0))
    is_strange &= ~replies.is_bare
    may_be_guesses = ~as_sent & ~is_strange
    may_be_guesses |= as_sent & (np.frombuffer(ledger.state, np.uint8)[slot] == UNSENT)
    if np.count_nonzero(may_be_guesses) > ledger.guesses_left:
        as_sent &= knows_cookie  # for the rest it depends on how many guesses came before them

    bit = EVIDENCE_BIT
    matched = np.full(len(columns), bit[Evidence.DST] | bit[layout.flow_evidence], np.uint16)
    for evidence, is_shown in (
        (Evidence.COOKIE, knows_cookie),
        (Evidence.CHECKSUM, has_checksum),
        (layout.mark_evidence, has_mark),
        (Evidence.IP_ID, ip_id >= 0),
    ):
        matched |= is_shown * np.uint16(bit[evidence])
    is_elsewhere = (columns["responder"] != columns["destination"]).any(axis=1)
    flags = ((columns["kind"] == DESTINATION) & is_elsewhere) * np.uint8(ALT_ADDR)
    flags |= np.where(is_quote, ~has_cookie * np.uint8(SHORT_QUOTE), np.uint8(DIRECT))
    return Claims(slot, matched, flags, as_sent, is_strange)
