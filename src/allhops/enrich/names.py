"""Reverse DNS: a responder's name is asked for when it is first heard, and its row waits for it half a second at most.

The system's resolver blocks, so each question has a daemon thread: a resolver that hangs delays neither a row,
nor Ctrl-C, nor the end of the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from allhops.enrich.clean import clean_name
from allhops.net.blocking import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from allhops.model import Address, Hop, Probe, Trace

PATIENCE_S = 0.5
"""Seconds that a name is waited for, counted from the time it was last asked for."""
MAX_THREADS = 64
"""Questions under way at once."""
CACHE_SIZE = 4_096
"""Addresses remembered, those without a name included; the least recently asked go first."""


def ask_system(address: Address) -> str | None:
    """Name of an address by the system's resolver, as it came; None when there is none. Blocks."""
    try:
        name, _ = socket.getnameinfo((str(address), 0), socket.NI_NAMEREQD | socket.NI_NUMERICSERV)
    except (OSError, UnicodeError):
        return None
    return name


class Names:
    """Names of addresses, cleaned and cached; belongs to the event loop that it is used in.

    `lookup` finds one name and may block: it runs in a thread of its own.
    """

    def __init__(self, lookup: Callable[[Address], str | None] = ask_system) -> None:
        self._lookup = lookup
        self._places = asyncio.Semaphore(MAX_THREADS)
        self._asked: dict[Address, tuple[asyncio.Task[str | None], float]] = {}

    def ask(self, address: Address) -> None:
        """Start looking an address up, unless that was done; its patience begins anew."""
        known = self._asked.pop(address, None)
        task = known[0] if known else asyncio.ensure_future(self._look_up(address))
        self._asked[address] = task, task.get_loop().time() + PATIENCE_S
        if len(self._asked) > CACHE_SIZE:
            del self._asked[next(iter(self._asked))]

    async def wait(self, addresses: Iterable[Address]) -> None:
        """Wait until all of these that were asked for have answered, or their patience is over."""
        asked = [self._asked[address] for address in addresses if address in self._asked]
        pending = {task: deadline for task, deadline in asked if not task.done()}
        if pending:
            patience = max(pending.values()) - asyncio.get_running_loop().time()
            if patience > 0:
                await asyncio.wait(pending, timeout=patience)

    def get(self, address: Address) -> str | None:
        """The name, if it is known by now."""
        task = self._asked[address][0] if address in self._asked else None
        return task.result() if task and task.done() and not task.cancelled() else None

    def close(self) -> None:
        """Give up what is still unanswered; whoever waits for it goes on."""
        for task, _ in self._asked.values():
            task.cancel()

    async def _look_up(self, address: Address) -> str | None:
        raw = None
        async with self._places:
            with contextlib.suppress(OSError, UnicodeError, RuntimeError):  # RuntimeError: no thread can be started
                raw = await in_daemon_thread(self._lookup, address)
        return clean_name(raw) if raw else None


def responders(hop: Hop) -> set[Address]:
    """The addresses that answered at a hop."""
    return {probe.reply.address for probe in hop.probes if probe.reply is not None}


def named(hop: Hop, names: Names) -> Hop:
    """A hop with the names that are known by now."""
    return replace(hop, probes=tuple(_named_probe(probe, names) for probe in hop.probes))


def named_trace(trace: Trace, names: Names) -> Trace:
    """A trace with the names that are known by now."""
    return replace(trace, hops=tuple(named(hop, names) for hop in trace.hops))


def _named_probe(probe: Probe, names: Names) -> Probe:
    if probe.reply is None:
        return probe
    return replace(probe, reply=replace(probe.reply, name=names.get(probe.reply.address)))
