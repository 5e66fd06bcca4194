"""An engine that sends nothing: every destination has a path of two hops, and ends a moment after it was fed.

`python -m tests.stand_in ARGUMENT...` is `allhops batch ARGUMENT...` with this engine, for tests that kill the process.
"""

from __future__ import annotations

import asyncio
import random
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Self

from allhops.cli import main
from allhops.cli.batch import run
from allhops.model import Flow, Hop, Probe, ProbeState, Protocol, Reply, ReplyKind, StopReason, Trace

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

    from allhops.cli.batch.arguments import BatchRequest
    from allhops.cli.batch.destinations import Destination
    from allhops.core.harvest import Harvest
    from allhops.model import Address

WINDOW = 20
ROUTER = IPv4Address("10.255.255.1")


@dataclass
class StandInStats:
    sent: int = 0
    answered: int = 0
    timed_out: int = 0
    local_error: int = 0
    cancelled: int = 0
    kernel_drops_rx: int = 0
    kernel_drops_tx: int = 0
    rate_now_pps: float = 0.0


class StandIn:
    """Ends each trace after up to `longest_s`, out of order; `unreachable` destinations end as `local_error`."""

    def __init__(self, longest_s: float = 0.0, unreachable: frozenset[str] = frozenset()) -> None:
        self.stats = StandInStats()
        self.fed: list[Destination] = []
        self._longest_s = longest_s
        self._unreachable = unreachable
        self._stopped = asyncio.Event()
        self._discards = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        pass

    async def run(self, feed: AsyncIterable[Destination]) -> AsyncGenerator[Harvest | Trace, None]:
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

    async def _ended(self, window: list[Destination]) -> AsyncGenerator[Trace, None]:
        for destination in random.sample(window, len(window)):
            if self._longest_s:
                await asyncio.sleep(random.uniform(0, self._longest_s))
            self.stats.sent += 2
            if not self._stopped.is_set():
                yield self._trace(destination)
            else:
                self.stats.cancelled += 2
                if not self._discards:
                    yield path_to(destination.name, destination.address, StopReason.INTERRUPTED)

    def _trace(self, destination: Destination) -> Trace:
        if destination.name in self._unreachable:
            self.stats.local_error += 2
            return path_to(destination.name, destination.address, StopReason.LOCAL_ERROR)
        self.stats.answered += 2
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
