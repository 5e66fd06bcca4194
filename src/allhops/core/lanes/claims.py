"""Which replies are clear, and which slots they name: what is easy in matching.py, side by side.

Clear is a reply that shows everything as it was sent, whether that is all or just enough to prove it; and one that
shows the cookie, whatever a NAT made of source address, checksum and IP ID. All others are for matching.py itself.
This file knows no packet and no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from allhops.core.evidence import ALT_ADDR, DIRECT, EVIDENCE_BIT, NAT, SHORT_QUOTE
from allhops.core.lanes.tables import is_same_address, tables_of
from allhops.core.ledger import UNSENT
from allhops.model import Evidence
from allhops.wire.checksum import MASK, word_sum
from allhops.wire.classify import DESTINATION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.core.lanes.columns import VectorReplies
    from allhops.core.ledger import Ledger
    from allhops.core.plan import Plan


class Claims(NamedTuple):
    """(n,) each. The first three mean something only where a reply is clear."""

    slot: NDArray[np.int64]
    """0 where it is not."""
    matched: NDArray[np.uint16]
    flags: NDArray[np.uint8]
    is_clear: NDArray[np.bool_]
    state: NDArray[np.uint8]
    """Of the slot."""
    is_strange: NDArray[np.bool_]
    """Surely about nobody's probe here, and too rich to be a guess."""


def claim(plan: Plan, ledger: Ledger, replies: VectorReplies) -> Claims:
    """Sort replies by what they show."""
    tables, columns, layout = tables_of(plan), replies.columns, plan.layout
    flows = len(plan.source_ports)
    destination, is_strange_destination = tables.find_destination(columns["destination"])
    flow = tables.find_flow(columns["flow"])
    course = np.maximum(destination * flows + flow, 0)
    # Read more than once, and side by side twice as fast.
    has_cookie, is_quote, shown_mark, ip_id, checksum, balance = (
        np.ascontiguousarray(columns[name])
        for name in ("has_cookie", "is_quote", "mark", "ip_id", "checksum", "balance")
    )
    has_mark, has_id, has_checksum = shown_mark >= 0, ip_id != 0, checksum != 0
    mark = np.where(has_mark, shown_mark, ip_id)
    position = tables.position[mark]
    knows_cookie = has_cookie & (columns["cookie"] == tables.cookie)
    is_layout = replies.is_about(layout)

    clear = is_layout & (has_cookie == knows_cookie) & (destination >= 0) & (flow >= 0) & (position >= 0)
    clear &= (columns["hearsay"] == 0) & tables.may_respond[columns["responder"].view(np.uint8)[:, 0]]
    clear &= (columns["peer"] < 0) | (columns["peer"] == tables.base.peer)
    has_balance = has_mark & (balance >= 0)
    clear &= ~has_balance | (balance == tables.balances[position])
    sent_checksum = tables.checksums[course]
    is_changed = is_quote & ~is_same_address(columns["source"], tables.source)
    is_changed |= has_checksum & (checksum != sent_checksum)
    is_named = has_id & (ip_id == mark)
    is_changed |= has_id & ~is_named
    clear &= ~is_changed | (knows_cookie & has_mark)
    is_secret_flow = ~is_quote if plan.options.source_port is None else np.False_
    clear &= knows_cookie | has_balance | has_checksum | is_secret_flow
    slot = np.where(clear, course * plan.slots_per_course + position, 0)

    is_strange = ~clear
    if is_strange.any():
        is_strange &= ~is_layout | ~knows_cookie & (is_strange_destination | (flow < 0))
        is_strange &= ~replies.is_bare
    state = np.frombuffer(ledger.state, np.uint8)[slot]
    may_be_guesses = np.where(clear, state == UNSENT, ~is_strange)
    if np.count_nonzero(may_be_guesses) > ledger.guesses_left:
        clear &= knows_cookie  # for the rest it depends on how many guesses came before them

    bit = EVIDENCE_BIT
    matched = np.full(len(columns), bit[Evidence.DST] | bit[layout.flow_evidence], np.uint16)
    for evidence, is_shown in (
        (Evidence.COOKIE, knows_cookie),
        (Evidence.CHECKSUM, has_checksum & _is_explained(plan, columns, sent_checksum, is_changed)),
        (layout.mark_evidence, has_mark),
        (Evidence.IP_ID, is_named),
    ):
        matched |= is_shown * np.uint16(bit[evidence])
    is_elsewhere = ~is_same_address(columns["responder"], columns["destination"])
    flags = ((columns["kind"] == DESTINATION) & is_elsewhere) * np.uint8(ALT_ADDR)
    flags |= np.where(is_quote, ~has_cookie * np.uint8(SHORT_QUOTE), np.uint8(DIRECT))
    flags |= is_changed * np.uint8(NAT)
    return Claims(slot, matched, flags, clear, state, is_strange)


def _is_explained(
    plan: Plan, columns: NDArray[Any], sent_checksum: NDArray[Any], is_changed: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """(n,): whether a checksum is as it was sent but for what the source address does to it: see matching.py."""
    explained = ~is_changed
    changed = np.flatnonzero(is_changed)
    if len(changed):
        change = columns["checksum"][changed].astype(np.int64) - sent_checksum[changed]
        if plan.layout.has_pseudo_header:
            # Behind an address there are zeros.
            source = np.ascontiguousarray(columns["source"][changed]).view(">u2")
            change += source.sum(axis=1, dtype=np.int64) - word_sum(plan.source)
        explained[changed] = change % MASK == 0
    return explained
