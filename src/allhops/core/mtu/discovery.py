"""What to ask next on the way to the path MTU: rounds of one size, or of several at once.

The whole path is asked with the interface's MTU, all TTLs in parallel. A router that passes no packet of that size on
names the size that its next link takes (RFC 1191, RFC 8201), and what lies beyond it is asked again with that one,
again all at once: each change of size costs one round trip, not one for each hop.

Where nobody names a size, whether because the path goes silent (a black hole), because the router is older than RFC
1191, names what cannot be, or because it is this machine that refuses, what lies beyond is asked with a small size.
If that is answered, several sizes at once are sent to the first rows that answered it, common ones first (RFC 4821 7):
what is answered got through. Routers limit their answers, Linux's to six at once and one a second: so larger sizes
leave before smaller ones, a round trip apart if there is time, and none leaves that is known to get through.

This file knows no packet and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from errno import EMSGSIZE
from typing import TYPE_CHECKING, NamedTuple

from allhops.core.mtu.found import Found
from allhops.core.mtu.sizes import common_sizes, spread_sizes
from allhops.model import StopReason

if TYPE_CHECKING:
    from collections.abc import Generator

    from allhops.core.plan import Plan
    from allhops.model import Trace
    from allhops.options import TraceOptions

MAX_SIZES = 16
"""How often the rest of a path may be asked again: more changes than any path has, and an end to one that lies."""
MAX_SEARCH_ROUNDS = 8
"""Eight sizes at once tell 65,535 of them apart in six rounds."""
WITNESS_ROWS = 3
"""Rows that a size of a search is sent to: any of their routers may answer, one may be out of answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One session for each size, largest first, all at once.

    `options` and `strategy` are those of every session. `tells`: its rows are the path's own. `until_heard`: a size is
    of no use once it, or a larger one, is known to have got through. Sizes leave `spacing_s` seconds apart.
    """

    sizes: tuple[int, ...]
    options: TraceOptions
    strategy: str = "parallel"
    tells: bool = False
    until_heard: bool = False
    spacing_s: float = 0.0


class Ending(NamedTuple):
    """How one session of a round ended. `errno` is that of its last probe that could not be sent, 0 for none."""

    trace: Trace
    errno: int = 0


if TYPE_CHECKING:
    Endings = dict[int, Ending]
    """By size. A size that was of no use any more has none."""
    Rounds = Generator[Round, Endings, Trace]
    """Yields what to ask, is sent what came of it, returns the trace that says how the path ends."""


class Discovery:
    """The path MTU of one course; `plan.size` is the size to begin with.

    Whoever runs the rounds tells `found` what is heard, but for `take_known`, and keeps two numbers up to date,
    seconds: `near_wait` is how long a row is waited for that is known to be there, `slowest_rtt` the slowest RTT so
    far, 0 for none.
    """

    def __init__(self, plan: Plan) -> None:
        self.found = Found(plan.layout.family, plan.options.first_ttl)
        self.near_wait = plan.options.timeout
        self.slowest_rtt = 0.0
        self._plan = plan
        self._small = min(plan.layout.family.default_size, plan.size)

    def rounds(self) -> Rounds:
        """Every round there is; see the module."""
        found, size = self.found, self._plan.size
        asked = set()
        for _ in range(MAX_SIZES):
            ending = (yield self._rest_of_path(size, tells=True))[size]
            if size <= self._small or not self._may_be_too_large(ending):
                return ending.trace
            named = found.named_mtu(ending.trace)
            if named is not None and self._plan.layout.family.least_mtu <= named < size:
                size = named
                continue
            small = (yield self._rest_of_path(self._small))[self._small].trace
            found.take_known(small, self._small)
            if found.lowest_known is None:
                return small if named is not None or ending.errno else ending.trace
            if (size, found.next_ttl) in asked:
                return small
            asked.add((size, found.next_ttl))
            is_refused = named is not None or ending.errno == EMSGSIZE
            size = yield from self._search(size if is_refused else size + 1, found.lowest_known)
        return ending.trace

    def _search(self, high: int, witness: int) -> Generator[Round, Endings, int]:
        """The largest size below `high` that is known to reach the witness row."""
        low = self._small
        sizes = ((high - 1), *common_sizes(low, high - 1))
        for _ in range(MAX_SEARCH_ROUNDS):
            if not sizes:
                break
            endings = yield self._question(sizes, witness)
            passed = (size for size, ending in endings.items() if self.found.is_proof(ending.trace))
            low = max(passed, default=low)
            high = min([high, *(size for size in sizes if size > low)])
            sizes = spread_sizes(low, high)
        return low

    def _rest_of_path(self, size: int, *, tells: bool = False) -> Round:
        """Everything that is not settled yet, with one size."""
        options = self._plan.options
        first = min(self.found.next_ttl, options.max_ttl)
        last = max(first, self.found.known_end or options.max_ttl)
        attempts = options.attempts if tells else 1
        return Round(
            sizes=(size,), options=replace(options, first_ttl=first, max_ttl=last, attempts=attempts), tells=tells
        )

    def _question(self, sizes: tuple[int, ...], witness: int) -> Round:
        """Sizes to some rows that are known to answer; silence is waited for no longer than such a row needs."""
        options = self._plan.options
        last = min(witness + WITNESS_ROWS - 1, options.max_ttl)
        narrow = replace(options, first_ttl=witness, max_ttl=last, attempts=1, timeout=self.near_wait)
        spacing_s = min(self.slowest_rtt, self.near_wait / len(sizes))
        return Round(sizes=sizes, options=narrow, strategy="question", until_heard=True, spacing_s=spacing_s)

    def _may_be_too_large(self, ending: Ending) -> bool:
        """Whether a smaller size might get further."""
        if self.found.next_ttl > self._plan.options.max_ttl or self.found.is_reached:
            return False
        reason = ending.trace.stop_reason
        if reason is StopReason.UNREACHABLE:
            return self.found.named_mtu(ending.trace) is not None
        if reason is StopReason.LOCAL_ERROR:
            return ending.errno == EMSGSIZE
        return reason in (StopReason.GAP_LIMIT, StopReason.MAX_TTL)
