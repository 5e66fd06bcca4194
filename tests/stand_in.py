"""An engine that sends nothing: every destination has a path of two hops, and ends a moment after it was fed.

`python -m tests.stand_in ARGUMENT...` is `allhops batch ARGUMENT...` with this engine, for tests that kill the process.
"""

from __future__ import annotations

import asyncio
import random
import sys
from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Self

from allhops.cli import main
from allhops.cli.batch import run
from allhops.model import Flow, Hop, Probe, ProbeState, Protocol, Reply, ReplyKind, StopReason, Trace
from allhops.net.batch.feed import Refused
from allhops.net.batch.stats import Stats

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

    from allhops.cli.batch.arguments import BatchRequest
    from allhops.core.harvest import Harvest
    from allhops.model import Address
    from allhops.net.batch.feed import Destination

WINDOW = 20
ROUTER = IPv4Address("10.255.255.1")


class StandIn:
    """Ends each trace after up to `longest_s`, out of order; `unreachable` destinations end as `local_error`."""

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

    async def run(self, feed: AsyncIterable[Destination]) -> AsyncGenerator[Harvest | Refused, None]:
        waiting: list[Destination] = []
        async for destination in feed:
            self.fed.append(destination)
            waiting.append(destination)
            if len(waiting) == WINDOW:
                async for trace in self._ended(waiting):
                    yield trace
                waiting = []
        async for trace in self._ended(waiting):
            yield trace

    def stop(self, *, discard: bool) -> None:
        self._discards = discard
        self._stopped.set()

    async def _ended(self, window: list[Destination]) -> AsyncGenerator[Refused, None]:
        for destination in random.sample(window, len(window)):
            if self._longest_s:
                await asyncio.sleep(random.uniform(0, self._longest_s))
            self.stats = replace(self.stats, sent=self.stats.sent + 2)
            if not self._stopped.is_set():
                yield Refused(destination.position, self._trace(destination))
            else:
                self.stats = replace(self.stats, cancelled=self.stats.cancelled + 2)
                if not self._discards:
                    trace = path_to(destination.name, destination.address, StopReason.INTERRUPTED)
                    yield Refused(destination.position, trace)

    def _trace(self, destination: Destination) -> Trace:
        if destination.name in self._unreachable:
            self.stats = replace(self.stats, local_error=self.stats.local_error + 2)
            return path_to(destination.name, destination.address, StopReason.LOCAL_ERROR)
        self.stats = replace(self.stats, answered=self.stats.answered + 2)
        return path_to(destination.name, destination.address)


def path_to(name: str, address: Address, reason: StopReason = StopReason.REACHED) -> Trace:
    """A router and the destination; nothing unless it was reached."""
    hops = (_hop(1, ROUTER, ReplyKind.TIME_EXCEEDED), _hop(2, address, ReplyKind.DESTINATION))
    return Trace(
        destination=name,
        address=address,
        source=IPv4Address("192.0.2.1"),
        protocol=Protocol.UDP,
        flow=Flow(source_port=40_000, destination_port=33_434),
        started_at_ns=0,
        duration_ns=0,
        stop_reason=reason,
        hops=hops if reason is StopReason.REACHED else (),
        error="no route to that network" if reason is StopReason.LOCAL_ERROR else None,
    )


def _hop(ttl: int, address: Address, kind: ReplyKind) -> Hop:
    reply = Reply(address=address, kind=kind, rtt_ns=1_000_000, icmp_type=11, icmp_code=0, reply_ttl=64, quoted_ttl=1)
    return Hop(ttl=ttl, probes=(Probe(attempt=1, probe_ttl=ttl, state=ProbeState.ANSWERED, reply=reply),))


def slow_engine(request: BatchRequest) -> StandIn:
    """A thousand destinations a second, so that there is time to kill it."""
    return StandIn(longest_s=0.002)


if __name__ == "__main__":
    run.open_engine = slow_engine
    sys.exit(main(["batch", *sys.argv[1:]]))
