"""A reply that names its slot is written into the ledger: the first one fills it, later ones leave a note.

This file knows no packet and no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allhops.core.evidence import DUPLICATE, SPOOF_SUSPECT
from allhops.core.ledger import ANSWERED, IN_FLIGHT, MAX_DUPLICATES, UNSENT

if TYPE_CHECKING:
    from allhops.core.lanes.matching import Match
    from allhops.core.lanes.rows import ReplyRow
    from allhops.core.ledger import Ledger


def enter(ledger: Ledger, found: Match, row: ReplyRow) -> bool:
    """Write one reply where its slot's state says; whether the slot is answered by it."""
    slot, counters = found.slot, ledger.counters
    state = ledger.state[slot]
    if state == IN_FLIGHT:
        _fill(ledger, found, row)
        counters.matched += 1
        return True
    if state == ANSWERED:
        _note_duplicate(ledger, slot, row)
        counters.duplicate += 1
    elif state == UNSENT:
        counters.forged += 1
        ledger.guesses += 1
    else:
        ledger.late_ns[slot] = ledger.late_ns[slot] or row.stamp_ns
        counters.late += 1
    return False


def _fill(ledger: Ledger, found: Match, row: ReplyRow) -> None:
    """Write the first reply into the columns."""
    slot = found.slot
    ledger.state[slot] = ANSWERED
    ledger.kind[slot] = row.kind
    ledger.icmp_type[slot] = row.icmp_type
    ledger.icmp_code[slot] = row.icmp_code
    ledger.reply_ttl[slot] = row.reply_ttl
    ledger.quoted_ttl[slot] = row.quoted_ttl
    ledger.quoted_tos[slot] = row.quoted_tos
    ledger.mtu[slot] = row.mtu
    ledger.port_state[slot] = row.port_state
    ledger.matched[slot] = found.matched
    ledger.flags[slot] = found.flags
    ledger.hearsay[slot] = row.hearsay
    ledger.received_ns[slot] = row.stamp_ns
    ledger.note_responder(slot, row.responder)
    if row.extensions:
        ledger.extensions[slot] = row.extensions
    elif row.extensions is None:
        ledger.counters.extension_error += 1


def _note_duplicate(ledger: Ledger, slot: int, row: ReplyRow) -> None:
    """The first reply stays; that others came, and whether they agree on who replied, is noted beside it."""
    ledger.duplicates[slot] = min(ledger.duplicates[slot] + 1, MAX_DUPLICATES)
    agrees = ledger.responder_of(slot, len(row.responder)) == row.responder
    ledger.flags[slot] |= DUPLICATE if agrees else DUPLICATE | SPOOF_SUSPECT
