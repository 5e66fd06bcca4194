"""Which size is known to have reached which row, and which rows are settled.

A probe that is answered at some TTL has passed every row below, so a row's MTU is the largest size that was answered
there or beyond. A row is settled once the size that is being asked has passed it: nothing larger can, or it would
have been asked first. This file knows no packet and no clock.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from allhops.model import Evidence, Hop, ReplyKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.model import Reply, Trace
    from allhops.wire.family import Family


class Found:
    """Rows and sizes of one path. `next_ttl` is that of the first row that is not settled."""

    def __init__(self, family: Family, first_ttl: int) -> None:
        self.next_ttl = first_ttl
        self._too_big = family.too_big
        self._settled: dict[int, Hop] = {}
        self._rows: dict[int, Hop] = {}
        self._known: dict[int, Hop] = {}
        self._reach: dict[int, int] = {}

    # What a reply says

    def is_refusal(self, reply: Reply) -> bool:
        """Whether it says that the probe was too big to go on."""
        return (reply.icmp_type, reply.icmp_code) == self._too_big

    def is_passed(self, hop: Hop) -> bool:
        """Whether a probe got as far as this row."""
        return any(probe.reply is not None and not self.is_refusal(probe.reply) for probe in hop.probes)

    def is_proof(self, trace: Trace) -> bool:
        """Whether a size of several that were asked together got through.

        Not by a reply that shows no name and was taken for this one because no other row was out: other sizes were.
        """
        replies = (probe.reply for hop in trace.hops for probe in hop.probes)
        return any(
            reply is not None and not self.is_refusal(reply) and Evidence.ALONE not in reply.matched
            for reply in replies
        )

    def named_mtu(self, trace: Trace) -> int | None:
        """What the router at a path's end says that the next link takes, bytes; 0 if it does not say how much.

        None when it says no such thing.
        """
        replies = [probe.reply for probe in trace.hops[-1].probes] if trace.hops else []
        named = [reply.mtu or 0 for reply in replies if reply is not None and self.is_refusal(reply)]
        return max(named, default=None)

    # What was heard

    def begin_round(self) -> None:
        """Rows are about to be asked with another size."""
        self._rows.clear()

    def take_row(self, hop: Hop, size: int) -> Iterator[Hop]:
        """A row is certain; those that are settled by it, in order."""
        self._rows[hop.ttl] = hop
        self._note(hop, size)
        top = self._top(size)
        while self.next_ttl <= top and self.next_ttl in self._rows:
            yield self._settle(self._best(self.next_ttl))

    def take_round(self, trace: Trace, size: int) -> Iterator[Hop]:
        """A round that tells rows has ended; the rest of those that are settled now, in order."""
        for hop in trace.hops:
            self._rows[hop.ttl] = hop
            self._note(hop, size)
            if hop.ttl in self._settled:
                self._settled[hop.ttl] = self._best(hop.ttl)
        for ttl in range(self.next_ttl, self._top(size) + 1):
            yield self._settle(self._best(ttl))

    def take_evidence(self, trace: Trace, size: int) -> bool:
        """What is heard of a size that is asked together with others; whether it got through."""
        if not self.is_proof(trace):
            return False
        for hop in trace.hops:
            self._note(hop, size)
        return True

    def take_known(self, trace: Trace, size: int) -> None:
        """What a small size shows: these rows stand where the larger ones stay silent."""
        for hop in trace.hops:
            self._note(hop, size)
        self._known = {hop.ttl: hop for hop in trace.hops if self.is_passed(hop)}

    # What it means

    def mtu(self, ttl: int) -> int | None:
        """Largest size, bytes, known to reach this row."""
        return max((size for at, size in self._reach.items() if at >= ttl), default=None)

    @property
    def is_reached(self) -> bool:
        """Whether the last settled row is the destination."""
        return _is_destination(self._settled.get(self.next_ttl - 1))

    @property
    def known_end(self) -> int | None:
        """TTL of the destination, if the small size got there."""
        return next((ttl for ttl, hop in self._known.items() if _is_destination(hop)), None)

    @property
    def lowest_known(self) -> int | None:
        """TTL of the first row, not yet settled, at which the small size was answered."""
        return min((ttl for ttl in self._known if ttl >= self.next_ttl), default=None)

    def rest(self, trace: Trace) -> Iterator[Hop]:
        """The rows beyond the settled ones, as the last round and those before it know them; they are settled now."""
        self._rows = {hop.ttl: hop for hop in trace.hops}
        for ttl in range(self.next_ttl, max([*self._rows, *self._known], default=0) + 1):
            if not self.is_reached:
                yield self._settle(self._best(ttl))

    def hops(self) -> tuple[Hop, ...]:
        """Every settled row."""
        return tuple(self._settled.values())

    # How

    def _top(self, size: int) -> int:
        """The furthest row that a size is known to have reached."""
        return max((ttl for ttl, reached in self._reach.items() if reached >= size), default=0)

    def _note(self, hop: Hop, size: int) -> None:
        if self.is_passed(hop):
            self._reach[hop.ttl] = max(self._reach.get(hop.ttl, 0), size)

    def _best(self, ttl: int) -> Hop:
        """What this round shows of a row, unless only an earlier one heard it."""
        row, known = self._rows.get(ttl), self._known.get(ttl)
        hop = known if known is not None and (row is None or not self.is_passed(row)) else row
        return replace(hop or Hop(ttl=ttl, probes=()), mtu=self.mtu(ttl))

    def _settle(self, hop: Hop) -> Hop:
        self._settled[hop.ttl] = hop
        self.next_ttl = hop.ttl + 1
        return hop


def _is_destination(hop: Hop | None) -> bool:
    replies = [probe.reply for probe in hop.probes] if hop is not None else []
    return any(reply is not None and reply.kind is ReplyKind.DESTINATION for reply in replies)
