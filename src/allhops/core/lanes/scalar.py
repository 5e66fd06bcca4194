"""The scalar lane: one packet at a time, struct to build, dpkt to parse.

For a trace at the shell, where importing an array library would cost more than the trace. The parser is
imported when the first reply is read, while probes are in flight; the kernel's receive stamps keep the RTTs right
meanwhile. This file knows no clock and no socket.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING

from allhops.core.lanes import Block
from allhops.core.lanes.entry import enter
from allhops.core.lanes.matching import disown, is_of, match
from allhops.core.lanes.rows import ReplyRow
from allhops.wire.codec import encode_mark
from allhops.wire.probes import patches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allhops.core.lanes import Ring
    from allhops.core.lanes.sieve import Sieve
    from allhops.core.ledger import Counters, Ledger
    from allhops.core.plan import Plan

__all__ = ["ReplyRow", "ScalarLane"]

_WORD = struct.Struct("!H")


class ScalarLane:
    """Stateless but for `counters`, which count what was not worth a row; `sieve` spares reading what is not ours."""

    def __init__(self, counters: Counters, sieve: Sieve | None = None) -> None:
        self.counters = counters
        self._sieve = sieve

    @property
    def is_warm(self) -> bool:
        """Whether the parser has been imported, so that reading a reply takes microseconds."""
        return "allhops.core.lanes.dissect" in sys.modules

    def launch(self, plan: Plan, slots: Sequence[int]) -> Block:
        """Build the probes of these slots: a copy of the course's template with its words patched."""
        size = plan.size
        packets = bytearray(size * len(slots))
        pack_into = _WORD.pack_into
        for index, slot in enumerate(slots):
            course = plan.course_of(slot)
            template = plan.template(course)
            ttl = plan.ttl_of(slot)
            start = index * size
            packets[start : start + size] = template.packet
            for offset, word in patches(template, ttl, encode_mark(ttl, plan.attempt_of(slot), plan.key)):
                pack_into(packets, start + offset, word)
        return Block(slots, packets, size)

    def unpack(self, ring: Ring) -> list[ReplyRow]:
        """Read replies to kinds of probes that we send; everything else is counted and dropped, whatever its bytes."""
        from allhops.core.lanes.dissect import MALFORMED, Refusal, dissect  # 8 ms

        rows = []
        sieve = self._sieve
        for index, (packet, stamp_ns) in enumerate(ring.packets()):
            if sieve is not None and not sieve.passes(packet):
                self.counters.foreign += 1
                continue
            row = dissect(packet, stamp_ns)
            if not isinstance(row, Refusal):
                hearsay = ring.hearsay[index]
                rows.append(row._replace(hearsay=hearsay) if hearsay else row)
            elif row is MALFORMED:
                self.counters.malformed += 1
            else:
                self.counters.foreign += 1
        return rows

    def disown(self, row: ReplyRow) -> None:
        """Count a reply to nobody's probe."""
        disown(self.counters, row)

    def share(self, plans: Sequence[Plan], replies: Sequence[ReplyRow]) -> list[Sequence[ReplyRow]]:
        """Newest plan first: most replies are about what left last."""
        shares: list[list[ReplyRow]] = [[] for _ in plans]
        newest_first = range(len(plans) - 1, -1, -1)
        for row in replies:
            shares[next((index for index in newest_first if is_of(plans[index], row)), -1)].append(row)
        return list(shares)

    def record(self, plan: Plan, ledger: Ledger, replies: Sequence[ReplyRow]) -> list[int]:
        """Fill the ledger with the replies that are this plan's; the slots answered now."""
        answered = []
        for row in replies:
            found = match(plan, ledger, row)
            if found is not None and enter(ledger, found, row):
                answered.append(found.slot)
        return answered
