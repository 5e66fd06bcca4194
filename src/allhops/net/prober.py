"""The prober: one event loop owns the sockets, many traces share them.

It hands blocks to the wire and packets to sessions, keeps one timer a trace, and knows no stopping rule. It
never chooses the event loop: it works on whichever runs it.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Self, Unpack

from allhops.core.lanes import Ring
from allhops.core.lanes.scalar import ReplyRow, ScalarLane
from allhops.core.lanes.sieve import Sieve
from allhops.core.ledger import Counters
from allhops.core.pacer import Pacer
from allhops.errors import PrivilegeError, UsageError
from allhops.net.clock import AwakeClock, WallScale
from allhops.net.many import TraceMany
from allhops.net.raw import RawTransport
from allhops.net.resolve import resolve
from allhops.net.tracing import Tracing
from allhops.options import TraceOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Iterable

    from allhops.core.lanes import Block
    from allhops.model import Address, Trace
    from allhops.net.transport import Transport
    from allhops.options import TraceKeywords

RING_PACKETS = 16
"""Packets read before the loop gets its turn: a trace that is complete is told so before the rest is parsed, and
a flood of other people's ICMP does not starve the caller's program."""
CATCH_UP_RINGS = 256
"""Rings read at most before a probe is given up: what has arrived is read first, but a flood must not hold us up."""
CAUGHT_UP_S = 0.001
"""For how long nobody needs to read everything again: many timers are due together."""

BACKENDS = ("auto", "raw", "errqueue")
"""Ways to the network that a prober can be asked for."""

_FlowKey = tuple[int, int, int]
"""(IP version, protocol number, source port): what a port lease owns."""


def _error_queue() -> Transport:
    """The back end without privilege, imported only where it is used."""
    from allhops.net.errqueue import ErrorQueueTransport

    return ErrorQueueTransport()


class Prober:
    """Traces that share sockets and one pacer; an async context manager.

        async with allhops.Prober(rate_pps=1_000) as prober:
            trace = await prober.trace("example.org")

    `rate_pps` None sends as fast as the machine does. `backend` is how to reach the network: "raw" sockets, which
    need a privilege, "errqueue", which needs none, or "auto": raw sockets where they are allowed. `transport` is
    something else in their place. A prober belongs to the event loop and the process that opened it: elsewhere it
    raises RuntimeError.
    """

    def __init__(
        self, *, rate_pps: float | None = None, backend: str = "auto", transport: Transport | None = None
    ) -> None:
        if rate_pps is not None and not 0 < rate_pps < float("inf"):
            raise UsageError(f"rate_pps must be more than 0, or None for no limit, not {rate_pps!r}")
        self.counters = Counters()
        self.pacer = Pacer(rate_pps)
        if backend not in BACKENDS:
            raise UsageError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
        self._may_fall_back = backend == "auto" and transport is None
        self.transport: Transport = transport or (_error_queue() if backend == "errqueue" else RawTransport())
        self._ring = Ring(RING_PACKETS)
        self._flows: dict[_FlowKey, Tracing] = {}
        self._cookies: dict[bytes, Tracing] = {}
        self.lane = ScalarLane(self.counters, Sieve(self._flows, self._cookies))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock: AwakeClock | None = None
        self._wall = WallScale()
        self._caught_up_at = 0.0
        self._is_open = False
        self._pid = os.getpid()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._clock = AwakeClock(self._loop)
        self._open_transport()
        self._is_open = True
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    def _open_transport(self) -> None:
        """Raw sockets, or what needs no privilege where they are not allowed."""
        try:
            self.transport.open(self._on_readable, self.counters)
        except PrivilegeError:
            if not self._may_fall_back:
                raise
            self.transport = _error_queue()
            self.transport.open(self._on_readable, self.counters)

    async def aclose(self) -> None:
        """End open traces as interrupted and close every socket."""
        for tracing in tuple(self._cookies.values()):
            tracing.interrupt()
        self.clock.stop()
        self.transport.close()
        self._is_open = False

    async def start(
        self,
        destination: str | Address,
        options: TraceOptions,
        *,
        on_responder: Callable[[Address], None] | None = None,
        lookup: Callable[[str, int | None], Awaitable[Address | None]] | None = None,
    ) -> Tracing:
        """Resolve a destination and launch its first probes.

        `on_responder` is called once for each address as soon as it is heard. `lookup` replaces the system's resolver.
        Raises: UsageError, ResolveError, PrivilegeError, SendError, CapacityError.
        """
        self._check_owner()
        address = await resolve(destination, options.ip_version, lookup)
        self._check_owner()  # it may have been closed while the resolver was asked
        tracing = Tracing(self, str(destination), address, options, on_responder)
        self._flows[tracing.flow_key] = tracing
        self._cookies[tracing.cookie] = tracing
        self.clock.start()
        tracing.wake()
        return tracing

    async def trace(self, destination: str | Address, **options: Unpack[TraceKeywords]) -> Trace:
        """Trace one destination.

        Keywords are the fields of `TraceOptions`. Raises: UsageError, ResolveError, PrivilegeError, SendError,
        CapacityError; the network's silence is a result, never an exception.
        """
        return await self.trace_with(destination, TraceOptions(**options))

    async def trace_with(self, destination: str | Address, options: TraceOptions) -> Trace:
        """`trace` with its keywords already checked."""
        tracing = await self.start(destination, options)
        try:
            return await tracing.result()
        finally:
            tracing.interrupt()

    def trace_many(
        self,
        destinations: Iterable[str | Address] | AsyncIterable[str | Address],
        **options: Unpack[TraceKeywords],
    ) -> TraceMany:
        """Trace many destinations: awaitable for a list in input order, async-iterable as they finish.

        A destination that cannot be traced yields a `Trace` with stop reason `local_error`; it stops no other.
        """
        return TraceMany(lambda: nullcontext(self), destinations, TraceOptions(**options))

    # What a trace under way needs

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that opened this prober."""
        assert self._loop is not None
        return self._loop

    @property
    def clock(self) -> AwakeClock:
        """What deadlines are counted in."""
        assert self._clock is not None
        return self._clock

    def now(self) -> float:
        """Seconds on `clock`."""
        return self.clock.now()

    def place_sent(self, block: Block) -> None:
        """Put the stamps of a block that has just been handed over on the scale of the replies' stamps."""
        self._wall.look()
        if self._wall.steps:
            for position in range(block.handed):
                block.sent_ns[position] = self._wall.place(block.sent_ns[position])

    def catch_up(self) -> None:
        """Read everything that has arrived, before somebody gives a probe up."""
        now = self.loop.time()
        if now - self._caught_up_at > CAUGHT_UP_S:
            self._caught_up_at = now
            self._dispatch(self._read(CATCH_UP_RINGS))

    def look(self) -> None:
        """Read what has arrived already, in the middle of a burst, so that the first replies can spare the rest.

        Not before the parser is there: importing it now would hold the burst back for longer than a short path saves.
        """
        if self.lane.is_warm:
            self._on_readable()

    def forget(self, tracing: Tracing) -> None:
        """A trace ended: its flow is nobody's now."""
        self._cookies.pop(tracing.cookie, None)
        if self._flows.get(tracing.flow_key) is tracing:  # a port is leased at one address, so maybe twice
            del self._flows[tracing.flow_key]
        if not self._cookies:
            self.clock.stop()

    def _check_owner(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError("this prober was opened before a fork: open one in each process")
        if not self._is_open:
            raise RuntimeError("this prober is not open: use it as `async with allhops.Prober() as prober`")
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this prober belongs to another event loop: open one in each loop")

    def _on_readable(self) -> None:
        """Read a ring of what waits; the loop calls again while there is more."""
        self._dispatch(self._read(1))

    def _read(self, rings: int) -> list[ReplyRow]:
        """Up to so many rings of what waits."""
        rows: list[ReplyRow] = []
        for _ in range(rings):
            self.transport.receive(self._ring)
            if not self._ring.count:
                break
            self._place_received()
            rows += self.lane.unpack(self._ring)
        return rows

    def _place_received(self) -> None:
        """Put receive stamps where they belong if the clock was set."""
        self._wall.look()
        if self._wall.steps:
            for index in range(self._ring.count):
                self._ring.stamps_ns[index] = self._wall.place(self._ring.stamps_ns[index])

    def _dispatch(self, rows: list[ReplyRow]) -> None:
        """Give each reply to the trace that holds its flow, and let those traces go on."""
        if not rows:
            return
        now = self.now()
        shares = self._shares(rows)
        if any(tracing.is_overdue(now) for tracing in shares):
            # It will give probes up: what answers them may be next in the socket.
            shares = self._shares(self._read(CATCH_UP_RINGS), shares)
        for tracing, share in shares.items():
            tracing.replies_received(share)

    def _shares(
        self, rows: list[ReplyRow], shares: dict[Tracing, list[ReplyRow]] | None = None
    ) -> dict[Tracing, list[ReplyRow]]:
        """Rows by the trace that they are for; added to `shares`.

        By cookie first: behind a NAT a quote may show another port, but it is the same payload.
        """
        shares = {} if shares is None else shares
        for row in rows:
            tracing = self._cookies.get(row.probe.cookie or b"") or self._flows.get(row.flow_key)
            if tracing is None:
                self.lane.disown(row)
            else:
                shares.setdefault(tracing, []).append(row)
        return shares

    def __repr__(self) -> str:
        return f"<Prober [{len(self._cookies)} traces | {self.counters}]>"
