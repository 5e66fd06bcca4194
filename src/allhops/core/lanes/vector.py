"""The vector lane: thousands of probes built, and replies read, in a handful of array operations.

What is ordinary is done side by side; whatever is odd about a packet or a reply, the scalar lane's own functions decide
one by one. So both lanes agree on every byte, and this one knows no rule of its own. This file knows no clock and no
socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.answers import OPAQUE, as_records
from allhops.core.lanes import Block
from allhops.core.lanes.claims import Claims, claim
from allhops.core.lanes.columns import VectorReplies, columns_of
from allhops.core.lanes.dissect import MALFORMED, Refusal, dissect
from allhops.core.lanes.entry import enter
from allhops.core.lanes.matching import Match, is_of, match
from allhops.core.lanes.skim import skim
from allhops.core.lanes.tables import tables_of
from allhops.core.ledger import ANSWERED, IN_FLIGHT, UNSENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from allhops.core.lanes import Ring
    from allhops.core.lanes.rows import ReplyRow
    from allhops.core.ledger import Counters, Ledger
    from allhops.core.plan import Plan

__all__ = ["VectorLane", "VectorReplies"]


class VectorLane:
    """Stateless but for `counters`, which count what was not worth a row; `headroom` is that of its blocks."""

    def __init__(self, counters: Counters, headroom: int = 0) -> None:
        self.counters = counters
        self._headroom = headroom

    def launch(self, plan: Plan, slots: Sequence[int] | NDArray[np.int64]) -> Block:
        """Build the probes of these slots: copies of templates, in all of which destination and port are patched."""
        tables, layout, headroom = tables_of(plan), plan.layout, self._headroom
        family, wanted = layout.family, np.asarray(slots, np.int64)
        count, stride = len(wanted), headroom + plan.size
        packets = bytearray(count * stride)
        block = Block(slots, packets, plan.size, headroom)  # type: ignore[arg-type]  # an array is as good a sequence
        if not count:
            return block
        courses = wanted // plan.slots_per_course
        destinations = courses // len(plan.source_ports)
        positions = wanted - courses * plan.slots_per_course
        templates = tables.templates(headroom)
        templates.take(positions, out=np.frombuffer(packets, templates.dtype), mode="clip")  # others are buffered

        def put(offset: int, values: NDArray[Any], kind: str = ">u2") -> None:
            np.ndarray((count,), kind, packets, headroom + offset, (stride,))[:] = values

        put(family.destination_offset, tables.addresses[destinations], f"V{family.address_size}")
        put(layout.flow_offset, tables.ports[courses])
        put(layout.checksum_offset, tables.checksums[courses])
        if family.checksum_offset is not None:
            total = tables.header_sums[positions] + tables.address_sums[destinations]
            put(family.checksum_offset, ~(total + (total >> 16)))  # of two words folding once is enough
        return block

    def unpack(self, ring: Ring) -> VectorReplies:
        """Read replies to kinds of probes that we send; everything else is counted and dropped, whatever its bytes."""
        skimmed = skim(ring)
        self.counters.foreign += skimmed.foreign
        if not skimmed.is_read.all():
            places, rows = self._dissect(ring, np.flatnonzero(~skimmed.is_read))
            skimmed.enter(np.array(places, np.intp), columns_of(rows, skimmed.extensions))
        replies = VectorReplies(skimmed.columns, skimmed.extensions)
        return replies if skimmed.is_reply.all() else replies.select(skimmed.is_reply)

    def _dissect(self, ring: Ring, unread: NDArray[Any]) -> tuple[list[int], list[ReplyRow]]:
        """The scalar lane's rows of some packets, and their places."""
        places, rows = [], []
        view = memoryview(ring.octets)
        for place in unread.tolist():
            start = ring.starts[place]
            row = dissect(view[start : start + ring.lengths[place]], ring.stamps_ns[place])
            if not isinstance(row, Refusal):
                places.append(place)
                rows.append(row._replace(hearsay=ring.hearsay[place]))
            elif row is MALFORMED:
                self.counters.malformed += 1
            else:
                self.counters.foreign += 1
        return places, rows

    def disown(self, replies: VectorReplies) -> None:
        """Count replies to nobody's probes."""
        self.counters.foreign += len(replies)
        self.counters.bare += int(np.count_nonzero(replies.is_bare))

    def share(self, plans: Sequence[Plan], replies: VectorReplies) -> list[VectorReplies]:
        """Newest plan first: most replies are about what left last."""
        newest_first = range(len(plans) - 1, -1, -1)
        owner = np.array(
            [next((at for at in newest_first if is_of(plans[at], row)), len(plans) - 1) for row in replies.rows()],
            np.int64,
        )
        return [replies.select(owner == at) for at in range(len(plans))]

    def record(self, plan: Plan, ledger: Ledger, replies: VectorReplies) -> NDArray[np.int64]:
        """Fill the ledger with the replies that are this plan's; the slots answered now, in order of arrival."""
        if not len(replies):
            return np.zeros(0, np.int64)
        claims = claim(plan, ledger, replies)
        ledger.counters.foreign += int(np.count_nonzero(claims.is_strange))
        state = claims.state
        is_clear = claims.is_clear & (state != UNSENT)
        odd = np.flatnonzero(~(is_clear | claims.is_strange))
        named = _match_rows(plan, ledger, odd, replies.select(odd).rows()) if len(odd) else {}
        is_alone = is_clear
        if named:
            is_alone = is_clear & ~np.isin(claims.slot, [found.slot for found, _ in named.values()])
        first = _first_of_slots(claims.slot, np.flatnonzero(is_alone & (state == IN_FLIGHT)))
        late = np.flatnonzero(is_alone & (state > ANSWERED))
        _fill(ledger, claims, replies, first)
        _note_late(ledger, claims.slot, replies, late)
        if len(first) + len(late) == np.count_nonzero(is_clear) and not named:
            answered_now: NDArray[np.int64] = claims.slot[first]
            return answered_now
        is_clear[first] = is_clear[late] = False
        rest = np.flatnonzero(is_clear)
        for position, row in zip(rest.tolist(), replies.select(rest).rows(), strict=True):
            named[position] = Match(*(int(column[position]) for column in claims[:3])), row
        answered = dict(zip(first.tolist(), claims.slot[first].tolist(), strict=True))
        for position in sorted(named):
            found, row = named[position]
            if enter(ledger, found, row):
                answered[position] = found.slot
        return np.array([answered[position] for position in sorted(answered)], np.int64)


def _match_rows(
    plan: Plan, ledger: Ledger, positions: NDArray[Any], rows: list[ReplyRow]
) -> dict[int, tuple[Match, ReplyRow]]:
    """What each of these rows names, by its position.

    A slot's state changes nothing about what a reply names. But a probe that was never sent counts as a guess, so
    those are entered at once; the others wait for their turn among all that name a slot.
    """
    named: dict[int, tuple[Match, ReplyRow]] = {}
    for position, row in zip(positions.tolist(), rows, strict=True):
        found = match(plan, ledger, row)
        if found is None:
            continue
        if ledger.state[found.slot] == UNSENT:
            enter(ledger, found, row)
        else:
            named[position] = found, row
    return named


def _first_of_slots(slot: NDArray[np.int64], positions: NDArray[Any]) -> NDArray[Any]:
    """Those of these positions, which ascend, whose reply is the first of them that names its slot."""
    chosen = slot[positions]
    ordered = np.sort(chosen)
    if (ordered[1:] == ordered[:-1]).any():
        _, firsts = np.unique(chosen, return_index=True)
        return positions[np.sort(firsts)]
    return positions


def _note_late(ledger: Ledger, slot: NDArray[np.int64], replies: VectorReplies, late: NDArray[Any]) -> None:
    """Replies to probes that had been given up: the first stamp is kept."""
    if len(late):
        backwards = late[::-1]  # the last of them to be written came first
        late_ns = np.frombuffer(ledger.late_ns, np.int64)
        new = backwards[late_ns[slot[backwards]] == 0]
        late_ns[slot[new]] = replies.columns["stamp_ns"][new]
        ledger.counters.late += len(late)


def _fill(ledger: Ledger, claims: Claims, replies: VectorReplies, first: NDArray[Any]) -> None:
    """Write first replies into the ledger."""
    if not len(first):
        return
    slot, matched, flags, columns = claims.slot, claims.matched, claims.flags, replies.columns
    if len(first) < len(slot):
        slot, matched, flags, columns = slot[first], matched[first], flags[first], columns.take(first)
    answers = columns["answer"]
    as_records(answers)["matched"], as_records(answers)["flags"] = matched, flags
    np.frombuffer(ledger.answers, OPAQUE)[slot] = answers
    np.frombuffer(ledger.state, np.uint8)[slot] = ANSWERED
    ledger.counters.matched += len(first)
    numbers = columns["extensions"]
    for position in np.flatnonzero(numbers).tolist():
        extensions = replies.extensions[numbers[position]]
        if extensions:
            ledger.extensions[int(slot[position])] = extensions
        else:
            ledger.counters.extension_error += 1
