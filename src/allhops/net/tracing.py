"""One trace under way: a session, its port lease, its timer, and whoever waits for its rows.

This file knows no stopping rule and no packet: it asks the session what to do next.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from allhops.core.events import HopCertain, ResponderHeard
from allhops.core.measurement import begin
from allhops.core.plan import Plan, size_of_probe
from allhops.wire.probes import COOKIE_SIZE, LAYOUTS, Layout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from allhops.core.lanes.scalar import ReplyRow
    from allhops.core.measurement import Measurement
    from allhops.model import Address, Hop, Trace
    from allhops.net.prober import Prober
    from allhops.options import TraceOptions


class Tracing:
    """A running trace: iterate it for rows as they become certain, await `result` for the whole.

    `size` is that of a whole probe, bytes; `MAX_SIZE` when it is the path MTU that is looked for, as in traceroute(8).
    """

    def __init__(
        self,
        prober: Prober,
        destination: str,
        address: Address,
        options: TraceOptions,
        on_responder: Callable[[Address], None] | None,
    ) -> None:
        layout = LAYOUTS[options.protocol, address.version]
        options.check_flow_label(address.version)
        self.destination = destination
        self.address = address
        self.options = options
        self.size = size_of_probe(layout, options)
        self._prober = prober
        self._on_responder = on_responder
        self._lease = prober.transport.lease(address, options)
        try:
            self._session = self._begin(layout)
            self._lease.expect(self.cookie)
        except BaseException:
            self._lease.close()
            raise
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = inf
        self._stopped_s_before = prober.clock.stopped_s
        self._failure: Exception | None = None
        self._sending = False
        self._hops: deque[Hop] = deque()
        self._news = asyncio.Event()
        self._trace: Trace | None = None

    @property
    def plan(self) -> Plan:
        """What was fixed before the first probe left."""
        return self._session.plan

    @property
    def flow_key(self) -> tuple[int, int, int]:
        """(IP version, protocol number, source port): what the port lease owns."""
        layout = self.plan.layout
        return layout.family.version, layout.protocol, self._lease.source_port

    @property
    def cookie(self) -> bytes:
        """The random bytes that every probe of this trace carries."""
        return self.plan.cookie

    async def __aiter__(self) -> AsyncIterator[Hop]:
        """Each hop as it becomes certain, in order of TTL, until the trace ends. Raises: what `on_responder` raised."""
        while True:
            self._raise_failure()
            while self._hops:
                yield self._hops.popleft()
            if self._trace is not None:
                return
            self._news.clear()
            await self._news.wait()

    async def result(self) -> Trace:
        """The whole trace, once it has ended. Raises: what `on_responder` raised."""
        while self._trace is None:
            self._news.clear()
            await self._news.wait()
        self._raise_failure()
        return self._trace

    def interrupt(self) -> None:
        """End the trace with what is known; nothing happens if it has ended."""
        if self._trace is None:
            self._session.interrupt(self._prober.now())
            self._tell()

    def wake(self) -> None:
        """Send what may leave now, tell what became certain, and set the timer for the next time."""
        if self._trace is not None or self._sending:
            return
        self._sending = True
        try:
            while (block := self._session.probes_to_send(self._prober.now())) is not None:
                self._lease.send(block)
                self._prober.place_sent(block)
                self._session.probes_sent(block, self._prober.now())
                self._prober.look()
        finally:
            self._sending = False
        self._tell()
        if self._trace is None:
            self._set_timer()

    def replies_received(self, rows: Sequence[ReplyRow]) -> None:
        """Replies that this trace's port lease brought here."""
        if self._trace is None:
            self._session.replies_received(rows, self._prober.now())
            self.wake()

    def is_overdue(self, now: float) -> bool:
        """Whether its timer should have come by now: it may be about to give probes up."""
        return now >= self._deadline

    def _begin(self, layout: Layout) -> Measurement[Sequence[ReplyRow]]:
        size = self.size
        if self.options.discover_mtu:
            size = min(size, self._prober.transport.interface_mtu(self.address, self._lease.source, self.options))
        plan = Plan(
            layout=layout,
            options=self.options,
            destinations=(self.address.packed,),
            source=self._lease.source,
            source_ports=(self._lease.source_port,),
            key=int.from_bytes(os.urandom(2)),
            cookie=os.urandom(COOKIE_SIZE),
            size=size,
        )
        return begin(
            plan,
            self._prober.lane,
            self._prober.pacer,
            counters=self._prober.counters,
            names=(self.destination,),
            now=self._prober.now(),
            started_at_ns=time.time_ns(),
        )

    def _tell(self) -> None:
        """Pass the session's events on; the last one gives everything back."""
        while (event := self._session.next_event()) is not None:
            if isinstance(event, ResponderHeard):
                self._call_back(event.address)
            elif isinstance(event, HopCertain):
                self._hops.append(event.hop)
                self._news.set()
            else:
                stopped_s = self._prober.clock.stopped_s - self._stopped_s_before
                self._trace = replace(
                    event.trace,
                    duration_ns=event.trace.duration_ns + round(stopped_s * 1e9),
                    backend=self._prober.transport.backend,
                    flow_constant=self._lease.flow_constant,
                )
                self._news.set()
                self._close()

    def _call_back(self, address: Address) -> None:
        """Tell the caller; what the caller's function raises ends the trace, and is raised where it is awaited."""
        if self._on_responder is None or self._failure is not None:
            return
        try:
            self._on_responder(address)
        except Exception as failure:  # whatever the caller's function raises is the caller's
            self._failure = failure
            self._prober.loop.call_soon(self.interrupt)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._session.next_deadline()
        self._deadline = inf if deadline is None else deadline
        if deadline is not None:
            self._timer = self._prober.clock.call_at(deadline, self._timer_came)

    def _timer_came(self) -> None:
        """A deadline is over: a process that was stopped may find the answer still in the socket."""
        self._prober.catch_up()
        self.wake()

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._deadline = inf
        self._prober.forget(self)
        self._lease.close()

    def __repr__(self) -> str:
        return f"<Tracing {self.destination} {self._session!r}>"
