"""One batch: the list through the engine into the output, and an account of it all at the end.

Destinations go to the engine, and what has ended comes back; the records of what is no destination go straight to the
output.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from contextlib import AsyncExitStack, aclosing, suppress
from typing import TYPE_CHECKING, Final

from allhops.cli.arguments import in_letters
from allhops.cli.batch.arguments import PARQUET
from allhops.cli.batch.console import Console
from allhops.cli.batch.destinations import Destinations
from allhops.cli.batch.exclude import Exclusions, read_exclusions
from allhops.cli.batch.opening import open_output
from allhops.cli.batch.outputs import FileError
from allhops.cli.batch.report import Pace, progress, summary
from allhops.cli.batch.sieve import Sieve
from allhops.cli.batch.source import Source
from allhops.cli.batch.tally import Tally
from allhops.cli.counted import counted
from allhops.cli.loop import Signals, run_in_loop
from allhops.cli.status import Status
from allhops.cli.streams import OutputError
from allhops.cli.sudo import leave_root
from allhops.core.harvest import STOP_REASONS
from allhops.errors import AllhopsError, UsageError
from allhops.model import StopReason
from allhops.net.batch.engine import Batch
from allhops.net.batch.feed import Refused
from allhops.output.jsonl import parts

if TYPE_CHECKING:
    from allhops.cli.batch.arguments import BatchRequest
    from allhops.cli.batch.engine import Engine
    from allhops.cli.batch.opening import Opened
    from allhops.cli.batch.source import Reading
    from allhops.core.harvest import Harvest
    from allhops.net.batch.wire import Wire

TICK_S: Final = 0.2
"""Between two looks at the progress, seconds."""
_SEED_BITS: Final = 32
_LOCAL_ERROR = STOP_REASONS.index(StopReason.LOCAL_ERROR)
_INTERRUPTED = STOP_REASONS.index(StopReason.INTERRUPTED)


def open_engine(request: BatchRequest) -> Engine:
    """The real one, not open yet. Raises: UsageError."""
    try:
        return Batch(
            request.options,
            strategy=request.strategy,
            rate_pps=request.rate_pps,
            seed=secrets.randbits(_SEED_BITS) if request.seed is None else request.seed,
            wire=None if request.simulate is None else _simulated(request.simulate),
            backend=request.backend,
        )
    except UsageError as error:
        raise UsageError(in_letters(str(error))) from None


def _simulated(seed: int) -> Wire:
    from allhops.testing import FakeWire, SyntheticInternet  # 10 ms that no real network need pay

    return FakeWire(SyntheticInternet(seed))


async def _knows_no_names(name: str, ip_version: int | None) -> None:
    """The resolver of a computed internet."""


def run(request: BatchRequest) -> int:
    """Do what was asked; the exit status.

    Raises: UsageError, PrivilegeError, CapacityError, OutputError.
    """
    if request.output is not None and request.output.endswith(PARQUET):
        from allhops.output.table_files import import_pyarrow  # 10 ms that JSON Lines need not pay

        import_pyarrow()  # now: a user may not read where it is, once root is left
    console = Console()
    try:
        return run_in_loop(_run(request, open_engine(request), console), console.say)
    except FileError as failure:
        console.say(str(failure))
        return Status.OUTPUT_FAILED


async def _run(request: BatchRequest, engine: Engine, console: Console) -> int:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(engine)
        leave_root()
        excluded = _excluded(request.exclude_path)
        exclusions = _exclusions(request.exclude_path, excluded)
        source = Source(request.list_path)
        stack.callback(source.close)
        _check_output(request, source)
        must_look = request.output is not None or console.shows_progress
        reading = source.look_through() if source.is_repeatable and must_look else None
        opened = open_output(request, None if reading is None else reading.sha256, excluded)
        sieve = Sieve(exclusions=exclusions, shard=request.shard, finished=opened.finished)
        return await BatchRun(request, engine, source, sieve, opened, reading, console).to_the_end()


def _check_output(request: BatchRequest, source: Source) -> None:
    """Refuse to write over what is read, which --force would."""
    path = request.output
    if path is None or not os.path.isfile(path):
        return
    if source.is_file(path):
        raise UsageError(f"-o {path} is the list itself: choose another file")
    if request.exclude_path is not None and os.path.samefile(path, request.exclude_path):
        raise UsageError(f"-o {path} is what --exclude reads: choose another file")


def _excluded(path: str | None) -> bytes | None:
    """What is in the file of exclusions."""
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"--exclude {path} cannot be read: {error.strerror}") from None


def _exclusions(path: str | None, content: bytes | None) -> Exclusions:
    try:
        return Exclusions() if content is None else read_exclusions(content)
    except UsageError as error:
        raise UsageError(f"--exclude {path}: {error}") from None


class BatchRun:
    """One run, inside its event loop."""

    def __init__(
        self,
        request: BatchRequest,
        engine: Engine,
        source: Source,
        sieve: Sieve,
        opened: Opened,
        reading: Reading | None,
        console: Console,
    ) -> None:
        self._engine = engine
        self._accounts = sieve.accounts
        self._opened = opened
        self._output = opened.output
        self._total = None if reading is None else reading.destinations
        self._console = console
        self._tally = Tally()
        self._signals = Signals(self._stop)
        lookup = None if request.simulate is None else _knows_no_names
        self._destinations = Destinations(source.pieces(), request.options, sieve, self._reject, lookup)
        self._began_at = time.monotonic()
        self._pace = Pace(self._began_at)
        self._failure: FileError | OutputError | None = None
        self._done = 0
        self._local_errors = 0
        self._is_refused = False
        """Whether nothing could be sent at all, for a reason that is told anyway."""

    async def to_the_end(self) -> int:
        """Trace everything; the exit status.

        Raises: FileError, OutputError; what the engine raises.
        """
        self._signals.listen()
        over = asyncio.Event()
        ticker = asyncio.ensure_future(self._tick(over))
        try:
            await self._take_all()
        except AllhopsError:
            self._is_refused = not self._engine.stats.sent
            raise
        finally:
            over.set()
            await ticker  # cancelled it would leave a thread in the middle of a write
            self._console.clear()
            await self._close()
            if self._is_in_vain:
                self._opened.take_back()
            self._report()
        if self._failure is not None:
            raise self._failure
        return self._status()

    async def _take_all(self) -> None:
        async with aclosing(self._engine.run(self._destinations)) as ended:
            async for item in ended:
                try:
                    await (self._take_refused(item) if isinstance(item, Refused) else self._take(item))
                except (FileError, OutputError) as failure:
                    self._fail(failure)
                if self._failure is not None:
                    return

    async def _take(self, harvest: Harvest) -> None:
        """Write courses that have ended, then count them; those that a resumed run traces again are left out."""
        is_cut_short = harvest.stop == _INTERRUPTED
        if self._opened.is_resumable and is_cut_short.any():
            harvest = harvest.only(~is_cut_short)
        for part in parts(harvest):
            self._output.harvest(part)
            self._tally.harvest(part)
            await self._output.catch_up()
            self._done += int((part.stop != _INTERRUPTED).sum())
            self._local_errors += int((part.stop == _LOCAL_ERROR).sum())
            await asyncio.sleep(0)  # probes wait to be sent

    async def _take_refused(self, refused: Refused) -> None:
        """A destination to which there is no way."""
        self._console.complain_of_line(str(refused.trace.error))
        self._output.refused(refused)
        await self._output.catch_up()
        self._done += 1
        self._local_errors += 1

    def _reject(self, refused: Refused) -> None:
        """A line for which nothing is sent."""
        self._console.complain_of_line(str(refused.trace.error))
        if self._failure is None:
            try:
                self._output.refused(refused)
            except (FileError, OutputError) as failure:
                self._fail(failure)

    async def _tick(self, over: asyncio.Event) -> None:
        """What is due a few times a second."""
        while not over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), TICK_S)
            self._console.progress(self._progress)
            try:
                await self._output.catch_up()
            except (FileError, OutputError) as failure:
                self._fail(failure)
                return

    def _progress(self) -> str:
        now, stats = time.monotonic(), self._engine.stats
        pace_pps = self._pace.pps(now, stats.sent)
        return progress(self._accounts, self._done, self._total, stats, pace_pps, now - self._began_at)

    def _fail(self, failure: FileError | OutputError) -> None:
        """Nothing can be written any more, so nothing more is sent."""
        self._failure = self._failure or failure
        self._engine.stop(discard=True)
        self._destinations.stop()

    def _stop(self) -> None:
        """A signal."""
        self._engine.stop(discard=False)
        self._destinations.stop()

    async def _close(self) -> None:
        is_complete = self._is_done() or not (self._opened.is_resumable or self._is_in_vain)
        try:
            await self._output.close(is_complete=is_complete)
        except (FileError, OutputError) as failure:
            self._failure = self._failure or failure

    def _report(self) -> None:
        """The account, unless nobody listens any more."""
        self._console.sum_complaints()
        if isinstance(self._failure, OutputError) and isinstance(self._failure.__cause__, BrokenPipeError):
            return
        if self._is_refused:
            return
        elapsed_s = time.monotonic() - self._began_at
        stats = self._engine.stats
        for sentence in summary(self._accounts, self._done, self._local_errors, stats, self._tally, elapsed_s):
            self._console.say(sentence)
        if not self._destinations.is_exhausted and (unread := (self._total or 0) - self._accounts.total) > 0:
            rest = counted(unread, "more destination of the list was", "more destinations of the list were")
            self._console.say(f"{rest} not begun")
        if self._opened.is_resumable and not self._is_done():
            self._console.say("the same command with --resume does the rest")

    @property
    def _is_in_vain(self) -> bool:
        """Whether it was refused before there was any result, so that the next try need not be told from this one."""
        return self._is_refused and not (self._done or self._accounts.bad or self._accounts.unresolved)

    def _is_done(self) -> bool:
        return self._failure is None and self._destinations.is_exhausted and self._done == self._accounts.traced

    def _status(self) -> int:
        if self._signals.number:
            return Status.SIGNALLED + self._signals.number
        failures = self._accounts.bad + self._accounts.unresolved + self._local_errors + self._opened.failures
        if self._local_errors and self._local_errors == self._done:
            return Status.LOCAL_ERROR
        return Status.NOT_REACHED if failures else Status.REACHED
