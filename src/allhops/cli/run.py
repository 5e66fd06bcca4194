"""Trace every host at once, print them in the order given.

A trace keeps its certain rows until somebody iterates it, so the printer just goes from host to host: the first
unfinished one streams, later ones wait in their traces.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from allhops.cli.arguments import in_letters
from allhops.cli.endings import what_was_dropped, what_was_not_sent, which_flow_was_not, why_it_ended
from allhops.cli.loop import Signals, run_in_loop
from allhops.cli.status import Status, status_of_error, status_of_trace
from allhops.cli.streams import complain, say
from allhops.cli.sudo import leave_root
from allhops.enrich.names import Names, ask_system, named, named_trace, responders
from allhops.errors import AllhopsError
from allhops.model import StopReason
from allhops.net.many import untraced
from allhops.net.prober import Prober
from allhops.options import BATCH_RATE_PPS
from allhops.output import writer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from allhops.cli.arguments import Request
    from allhops.model import Trace
    from allhops.net.tracing import Tracing
    from allhops.testing.fakenet import FakeNet

WINDOW = 100
"""Hosts under way at once."""


def run(request: Request) -> int:
    """Do what was asked; the exit status.

    Raises: PrivilegeError, UsageError for a scenario or an interface that cannot be, OutputError.
    """
    return run_in_loop(_run(request))


async def _run(request: Request) -> int:
    net = None
    if request.simulate is not None:
        leave_root()
        net = _simulated(request.simulate)
    rate_pps = request.rate_pps or (BATCH_RATE_PPS if len(request.hosts) > 1 else None)
    async with Prober(rate_pps=rate_pps, backend=request.backend, transport=net) as prober:
        if net is None:
            leave_root(lambda: prober.transport.open_all(request.options.interface))
        status = await Run(request, prober, net).print_all()
    if (sentence := what_was_dropped(prober.counters.kernel_drops)) is not None:
        complain(sentence)
    return status


def _simulated(scenario: str) -> FakeNet:
    from allhops.testing.fakenet import FakeNet  # tomllib and the simulation: 20 ms

    return FakeNet.load(scenario)


class Job:
    """One host under way. `begun` is set once there is a trace to iterate, or never will be."""

    def __init__(self, host: str, trace: Callable[[Job], Coroutine[None, None, Trace]]) -> None:
        self.host = host
        self.tracing: Tracing | None = None
        self.begun = asyncio.Event()
        self.task = asyncio.ensure_future(trace(self))


class Run:
    """One run of the command, inside its event loop."""

    def __init__(self, request: Request, prober: Prober, net: FakeNet | None = None) -> None:
        self._request = request
        self._prober = prober
        self._lookup = net.lookup if net is not None else None
        self._names = Names(net.internet.name_of if net is not None else ask_system)
        self._writer = writer(request.output, say, numeric=request.numeric, extensions=request.extensions)
        self._places = asyncio.Semaphore(WINDOW)
        self._signals = Signals(self._stop)
        self._jobs = [Job(host, self._trace) for host in request.hosts]

    async def print_all(self) -> int:
        """Print every host; the exit status."""
        self._signals.listen()
        status = max([await self._print(job) for job in self._jobs])
        return Status.SIGNALLED + self._signals.number if self._signals.number else status

    async def _trace(self, job: Job) -> Trace:
        ask = None if self._request.numeric else self._names.ask
        async with self._places:
            try:
                job.tracing = await self._prober.start(
                    job.host, self._request.options, on_responder=ask, lookup=self._lookup
                )
            finally:
                job.begun.set()
            if ask is not None:
                ask(job.tracing.address)
            return await job.tracing.result()

    async def _print(self, job: Job) -> int:
        """Rows as they become certain, then the end; the exit status of this host."""
        await job.begun.wait()
        if job.tracing is not None:
            self._writer.begin(job.host, job.tracing.address, job.tracing.options, job.tracing.size)
            async for hop in job.tracing:
                await self._names.wait(responders(hop))
                self._writer.hop(named(hop, self._names))
        trace, status = await self._outcome(job)
        self._writer.end(named_trace(trace, self._names))
        return status

    async def _outcome(self, job: Job) -> tuple[Trace, int]:
        """The trace of a host, or what stands for it when none was started, and its exit status."""
        await asyncio.wait([job.task])
        if job.task.cancelled():
            return untraced(job.host, self._request.options, reason=StopReason.INTERRUPTED), Status.NOT_REACHED
        try:
            trace = job.task.result()
        except AllhopsError as error:
            sentence = str(error)
            if job.host not in sentence:
                sentence = f"{job.host}: {in_letters(sentence)}"
            complain(sentence)
            return untraced(job.host, self._request.options, sentence), status_of_error(error)
        self._remark(trace)
        return trace, status_of_trace(trace)

    def _remark(self, trace: Trace) -> None:
        """Say on stderr what the text has no place for; the JSON has it all."""
        if self._request.output == "text":
            for sentence in (what_was_not_sent(trace), which_flow_was_not(trace), why_it_ended(trace)):
                if sentence is not None:
                    complain(sentence)

    def _stop(self) -> None:
        """End everything with what is known."""
        for job in self._jobs:
            if job.tracing is not None:
                job.tracing.interrupt()
            else:
                job.task.cancel()
                job.begun.set()
        self._names.close()
