"""An engine that sends nothing: every destination has a path of two hops, and ends a moment after it was fed.

`python -m tests.stand_in ARGUMENT...` is `allhops batch ARGUMENT...` with this engine, for tests that kill the process.
"""

from __future__ import annotations

import asyncio
import random
import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Self

import numpy as np

from allhops.cli import main
from allhops.cli.batch import run
from allhops.core.harvest import STOP_REASONS, Harvest
from allhops.core.ledger import ANSWERED, CANCELLED, LOCAL_ERROR, Ledger
from allhops.core.plan import Plan
from allhops.model import StopReason
from allhops.net.batch.stats import Stats
from allhops.options import TraceOptions
from allhops.wire.classify import DESTINATION, TIME_EXCEEDED
from allhops.wire.probes import LAYOUTS
from tests.groups import each

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Sequence

    from allhops.cli.batch.arguments import BatchRequest
    from allhops.model import Address
    from allhops.net.batch.feed import Refused
    from allhops.net.batch.group import Group
    from tests.groups import Destination

WINDOW = 20
ROUTERS: dict[int, Address] = {4: IPv4Address("10.255.255.1"), 6: IPv6Address("2001:db8::1:1")}
ENETUNREACH = 101

Path = list[list["Address"]]
"""Who answered at each TTL."""


class StandIn:
    """Ends each course after up to `longest_s`, out of order; `unreachable` destinations end as `local_error`."""

    def __init__(self, longest_s: float = 0.0, unreachable: frozenset[str] = frozenset()) -> None:
        self.stats = Stats()
        self.fed: list[Destination] = []
        self._longest_s = longest_s
        self._unreachable = unreachable
        self._stopped = asyncio.Event()
        self._discards = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        pass

    async def run(self, feed: AsyncIterable[Group]) -> AsyncGenerator[Harvest | Refused, None]:
        waiting: list[Destination] = []
        async for group in feed:
            for destination in each(group):
                self.fed.append(destination)
                waiting.append(destination)
                if len(waiting) == WINDOW:
                    async for harvest in self._ended(waiting):
                        yield harvest
                    waiting = []
        async for harvest in self._ended(waiting):
            yield harvest

    def stop(self, *, discard: bool) -> None:
        self._discards = discard
        self._stopped.set()

    async def _ended(self, window: list[Destination]) -> AsyncGenerator[Harvest, None]:
        for destination in random.sample(window, len(window)):
            if self._longest_s:
                await asyncio.sleep(random.uniform(0, self._longest_s))
            reason = self._reason(destination)
            self._count(reason)
            if not (self._discards and reason is StopReason.INTERRUPTED):
                path: Path = [[ROUTERS[destination.address.version]], [destination.address]]
                yield harvest_of([destination], [path], reason)

    def _reason(self, destination: Destination) -> StopReason:
        if self._stopped.is_set():
            return StopReason.INTERRUPTED
        return StopReason.LOCAL_ERROR if destination.name in self._unreachable else StopReason.REACHED

    def _count(self, reason: StopReason) -> None:
        end = {StopReason.REACHED: "answered", StopReason.LOCAL_ERROR: "local_error"}.get(reason, "cancelled")
        self.stats = replace(self.stats, sent=self.stats.sent + 2, **{end: getattr(self.stats, end) + 2})


def harvest_of(
    destinations: Sequence[Destination], paths: Sequence[Path], reason: StopReason = StopReason.REACHED
) -> Harvest:
    """Courses of one IP version that ended in the same way; their paths are shown if they were reached."""
    count, options = len(destinations), TraceOptions(max_ttl=max(map(len, paths)))
    layout = LAYOUTS[options.protocol, destinations[0].address.version]
    plan = Plan(
        layout=layout,
        options=options,
        destinations=tuple(destination.address.packed for destination in destinations),
        source=bytes(layout.family.address_size),
        source_ports=(40_000,),
        key=1,
        cookie=b"abcd",
        size=layout.family.default_size,
        spare_attempts=0,
    )
    ledger = Ledger(plan.slots)
    for course, path in enumerate(paths):
        for ttl, responders in enumerate(path, 1):
            for slot, responder in zip(plan.row(course, ttl), responders, strict=False):
                is_heard = reason is StopReason.REACHED
                ledger.state[slot] = ANSWERED if is_heard else _STATES[reason]
                if is_heard:
                    ledger.kind[slot] = DESTINATION if ttl == len(path) else TIME_EXCEEDED
                    ledger.note_responder(slot, responder.packed)
    lengths = np.array([len(path) if reason is StopReason.REACHED else 0 for path in paths], np.int16)
    return Harvest(
        plan=plan,
        ledger=ledger,
        names=[destination.name for destination in destinations],
        positions=np.array([destination.position for destination in destinations]),
        courses=np.arange(count),
        stop=np.full(count, STOP_REASONS.index(reason), np.uint8),
        end_ttl=lengths,
        last_ttl=lengths,
        started_ns=np.zeros(count, np.int64),
        duration_ns=np.zeros(count, np.int64),
        errors=np.full(count, ENETUNREACH if reason is StopReason.LOCAL_ERROR else 0, np.uint16),
        inherited=None,
        backend="simulated",
    )


_STATES = {StopReason.LOCAL_ERROR: LOCAL_ERROR, StopReason.INTERRUPTED: CANCELLED}


def slow_engine(request: BatchRequest) -> StandIn:
    """A thousand destinations a second, so that there is time to kill it."""
    return StandIn(longest_s=0.002)


if __name__ == "__main__":
    run.open_engine = slow_engine
    sys.exit(main(["batch", *sys.argv[1:]]))
