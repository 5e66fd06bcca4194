"""The scalar lane: one packet at a time, struct to build, dpkt to parse.

For a trace at the shell, where importing an array library would cost more than the trace. dpkt
itself (50 to 80 ms of imports, `python -X importtime -c "import dpkt"`) is imported when the first reply
is read, while probes are in flight; the kernel's receive stamps keep the RTTs right meanwhile. This
file knows no clock and no socket.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

from allhops.core.lanes import Block
from allhops.core.ledger import ADDRESS_BYTES, ANSWERED, IN_FLIGHT, UNSENT
from allhops.wire.classify import ERROR_KINDS, IGNORED
from allhops.wire.codec import balance, encode_mark, mark_attempt, mark_is_ours, mark_ttl
from allhops.wire.probes import COOKIE_SIZE, layout_of, patches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allhops.core.lanes import Ring
    from allhops.core.lanes.dissect import IcmpError
    from allhops.core.ledger import Counters, Ledger
    from allhops.core.plan import Plan

_WORD = struct.Struct("!H")


class ReplyRow(NamedTuple):
    """One ICMP error that quotes a kind of probe that we send: ours or a stranger's."""

    stamp_ns: int
    kind: int
    flow: int
    """Quoted source port (UDP, TCP) or identifier (ICMP)."""
    error: IcmpError


class ScalarLane:
    """Stateless but for `counters`, which count what was not worth a row."""

    def __init__(self, counters: Counters) -> None:
        self.counters = counters

    @property
    def is_warm(self) -> bool:
        """Whether the parser has been imported, so that reading a reply takes microseconds."""
        return "dpkt" in sys.modules

    def launch(self, plan: Plan, slots: Sequence[int]) -> Block:
        """Build the probes of these slots: a copy of the course's template with its words patched."""
        size = plan.size
        packets = bytearray(size * len(slots))
        pack_into = _WORD.pack_into
        destinations = []
        for index, slot in enumerate(slots):
            course = plan.course_of(slot)
            template = plan.template(course)
            ttl = plan.ttl_of(slot)
            start = index * size
            packets[start : start + size] = template.packet
            for offset, word in patches(template, ttl, encode_mark(ttl, plan.attempt_of(slot), plan.key)):
                pack_into(packets, start + offset, word)
            destinations.append(plan.destination_of(course))
        return Block(slots, packets, size, destinations)

    def unpack(self, ring: Ring) -> list[ReplyRow]:
        """Read ICMP errors; everything else is counted and dropped, whatever its bytes."""
        from allhops.core.lanes.dissect import IcmpError, dissect  # 50 to 80 ms: dpkt

        rows = []
        for packet, stamp_ns in ring.packets():
            error = dissect(packet)
            if error is None:
                self.counters.malformed += 1
                continue
            row = _row(error, stamp_ns) if isinstance(error, IcmpError) else None
            if row is None or row.kind == IGNORED:
                self.counters.foreign += 1
            else:
                rows.append(row)
        return rows

    def record(self, plan: Plan, ledger: Ledger, replies: Sequence[ReplyRow]) -> list[int]:
        """Fill the ledger with replies whose flow is leased to this plan; the slots answered now."""
        counters = ledger.counters
        answered = []
        for row in replies:
            slot = _slot_named(plan, counters, row)
            if slot is None:
                continue
            state = ledger.state[slot]
            if state == IN_FLIGHT:
                _fill(ledger, slot, row)
                counters.matched += 1
                answered.append(slot)
            elif state == ANSWERED:
                counters.duplicate += 1
            elif state == UNSENT:
                counters.forged += 1
            else:
                counters.late += 1
        return answered


def _row(error: IcmpError, stamp_ns: int) -> ReplyRow:
    version = error.family.version
    kind = ERROR_KINDS[version][error.icmp_type << 8 | error.icmp_code]
    flow_offset = layout_of(version, error.protocol).flow_offset
    return ReplyRow(stamp_ns, kind, _word(error.quote, flow_offset), error)


def _word(data: bytes, offset: int) -> int:
    (word,) = _WORD.unpack_from(data, offset)
    return int(word)


def _slot_named(plan: Plan, counters: Counters, row: ReplyRow) -> int | None:
    """The slot that a reply names, or None, counted, when it cannot be about a probe of this plan."""
    error, layout = row.error, plan.layout
    destination = plan.destination_index.get(error.destination)
    flow = plan.flow_index.get(row.flow)
    if destination is None or flow is None or error.protocol != layout.protocol:
        counters.foreign += 1
        return None
    course = destination * len(plan.source_ports) + flow
    template = plan.template(course)
    if _word(error.quote, layout.peer_offset) != template.peer:
        counters.foreign += 1
        return None
    mark = _proven_mark(plan, template.checksum, error)
    impossible = error.responder[0] in error.family.never_responds and error.responder[0] != error.destination[0]
    if mark is None or impossible:
        counters.forged += 1
        return None
    return plan.slot(course, mark_ttl(mark), mark_attempt(mark))


def _proven_mark(plan: Plan, checksum: int, error: IcmpError) -> int | None:
    """The mark of a quoted probe, if the quote shows something that only this session and the path know.

    That is the cookie where the quote is long enough to hold it, else the transport checksum, which covers
    the cookie. The mark itself is read from the transport bytes where they are quoted, because a NAT may
    rewrite the IP ID but not those.
    """
    layout, quote = plan.layout, error.quote
    if layout.cookie_offset is not None and len(quote) >= layout.cookie_offset + COOKIE_SIZE:
        proven = quote[layout.cookie_offset : layout.cookie_offset + COOKIE_SIZE] == plan.cookie
    else:
        proven = _word(quote, layout.checksum_offset) == checksum
    if not proven:
        return None
    if len(quote) >= layout.balance_offset + 2:
        mark = _word(quote, layout.mark_offset)
        if _word(quote, layout.balance_offset) != balance(mark, plan.key):
            return None
    elif layout.family.id_offset is not None:
        mark = _word(quote, layout.family.id_offset)
    else:
        return None
    options = plan.options
    sound = (
        mark_is_ours(mark, plan.key)
        and options.first_ttl <= mark_ttl(mark) <= options.max_ttl
        and mark_attempt(mark) < options.attempts
    )
    return mark if sound else None


def _fill(ledger: Ledger, slot: int, row: ReplyRow) -> None:
    """Write one reply into the columns."""
    error = row.error
    ledger.state[slot] = ANSWERED
    ledger.kind[slot] = row.kind
    ledger.icmp_type[slot] = error.icmp_type
    ledger.icmp_code[slot] = error.icmp_code
    ledger.reply_ttl[slot] = error.reply_ttl
    ledger.quoted_ttl[slot] = error.quoted_ttl
    ledger.mtu[slot] = error.mtu
    ledger.received_ns[slot] = row.stamp_ns
    start = slot * ADDRESS_BYTES
    ledger.responder[start : start + len(error.responder)] = error.responder
