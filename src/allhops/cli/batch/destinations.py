"""The list as destinations to trace: read as they are needed, names resolved on the way, every line accounted for.

What is no destination, and what does not resolve, becomes a record here; what is left out is counted by the sieve.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from allhops.cli.batch.entries import Name, Run, Single, read_entry, shown
from allhops.cli.batch.keys import addresses_of, range_keys
from allhops.cli.batch.lines import MAX_LINE_BYTES, LineReader
from allhops.errors import ResolveError, UsageError
from allhops.model import StopReason
from allhops.net.batch.feed import LOOKUPS, Destination, Refused
from allhops.net.many import untraced
from allhops.net.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from allhops.cli.batch.entries import Entry
    from allhops.cli.batch.lines import Line
    from allhops.cli.batch.sieve import Sieve
    from allhops.model import Address
    from allhops.options import TraceOptions

CHUNK: Final = 4_096
"""Addresses of a prefix that are sieved at once: what numpy needs to cost less than naming them one by one."""
_Result = TypeVar("_Result")


class _Asked(NamedTuple):
    """A name of the list."""

    position: int
    line: int
    """Number of its line."""
    name: str


_Answer = tuple[_Asked, "Address | str"]
"""A name, and its address or why there is none."""


class Destinations:
    """An async iterator over what is to be traced; `stop` ends it wherever it waits.

    Each has its place among all that the list asks for, whatever is left out: the same in every run. `reject` gets the
    records of lines for which nothing can be sent.
    """

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        options: TraceOptions,
        sieve: Sieve,
        reject: Callable[[Refused], None],
        lookup: Callable[[str, int | None], Awaitable[Address | None]] | None = None,
    ) -> None:
        self.is_exhausted = False
        """Whether the whole list has been read and told."""
        self._pieces = pieces
        self._options = options
        self._sieve = sieve
        self._reject = reject
        self._lookup = lookup
        self._position = 0
        """Of the next destination of the list."""
        self._stopped = asyncio.Event()
        self._asked: set[asyncio.Task[_Answer]] = set()
        self._answered: asyncio.Queue[asyncio.Task[_Answer]] = asyncio.Queue()

    def stop(self) -> None:
        """Nothing more comes."""
        self._stopped.set()

    async def __aiter__(self) -> AsyncIterator[Destination]:
        try:
            async for found in self._found():
                for destination in found:
                    if self._stopped.is_set():
                        return
                    self._sieve.accounts.traced += 1
                    yield destination
            self.is_exhausted = not self._stopped.is_set()
        finally:
            for task in self._asked:
                task.cancel()
            await asyncio.gather(*self._asked, return_exceptions=True)

    async def _found(self) -> AsyncIterator[list[Destination]]:
        reader = LineReader()
        while (piece := await self._or_stopped(anext(self._pieces, None))) is not None:
            async for found in self._told(reader.feed(piece)):
                yield found
        if not self._stopped.is_set():
            async for found in self._told(reader.end()):
                yield found
        while self._asked and not self._stopped.is_set():
            yield await self._next_answer()

    async def _told(self, lines: Iterable[Line]) -> AsyncIterator[list[Destination]]:
        """What lines ask for: prefixes in their place, the rest of a few lines together."""
        singles: dict[int, list[Destination]] = {4: [], 6: []}
        names: list[_Asked] = []
        for line in lines:
            position = self._position
            match entry := self._read(line):
                case Single():
                    singles[entry.address.version].append(Destination(position, *entry))
                case Name():
                    names.append(_Asked(position, line.number, entry.text))
                case Run():
                    for found in self._of_run(position, entry):
                        yield found
                        await asyncio.sleep(0)  # all of it may be finished or excluded: the loop has other work
        for version, of_version in singles.items():
            yield self._of_singles(version, of_version)
        await asyncio.sleep(0)
        async for found in self._of_names(names):
            yield found

    def _read(self, line: Line) -> Entry | None:
        """What a line asks for; what is no destination is rejected here."""
        position = self._position
        try:
            if line.is_cut:
                raise UsageError(f"longer than {MAX_LINE_BYTES} bytes")
            entry = read_entry(line.content, self._options.ip_version)
        except (UsageError, ResolveError) as error:
            self._position += 1
            if self._sieve.line(line.number):
                self._sieve.accounts.bad += 1
                text, reason = shown(line.content), str(error)
                sentence = reason if text in reason else f"{text!r}: {reason}"
                self._tell(_Asked(position, line.number, text), sentence, StopReason.BAD_DESTINATION)
            return None
        if entry is not None:
            self._position += entry.size if isinstance(entry, Run) else 1
        return entry

    def _of_run(self, position: int, run: Run) -> Iterator[list[Destination]]:
        for start in range(0, run.size, CHUNK):
            keys = range_keys(run.version, run.first + start, min(CHUNK, run.size - start))
            places = self._sieve.run(run.version, keys)
            addresses = addresses_of(run.version, keys[places])
            yield [
                Destination(place, str(address), address)
                for place, address in zip((position + start + places).tolist(), addresses, strict=True)
            ]

    def _of_singles(self, version: int, singles: list[Destination]) -> list[Destination]:
        chosen = self._sieve.addresses(version, [single.address for single in singles])
        return [singles[place] for place in chosen]

    async def _of_names(self, names: list[_Asked]) -> AsyncIterator[list[Destination]]:
        """Ask for each as soon as there is room; meanwhile those that were answered."""
        for place in self._sieve.names([asked.name for asked in names]):
            while len(self._asked) >= LOOKUPS:
                yield await self._next_answer()
                if self._stopped.is_set():
                    return
            task = asyncio.ensure_future(self._resolve(names[place]))
            task.add_done_callback(self._answered.put_nowait)
            self._asked.add(task)
        while not self._answered.empty():
            yield await self._next_answer()

    async def _resolve(self, asked: _Asked) -> _Answer:
        try:
            return asked, await resolve(asked.name, self._options.ip_version, self._lookup)
        except (ResolveError, UsageError) as error:
            return asked, str(error)

    async def _next_answer(self) -> list[Destination]:
        task = await self._or_stopped(self._answered.get())
        if task is None:
            return []
        self._asked.discard(task)
        asked, answer = task.result()
        if isinstance(answer, str):
            self._sieve.accounts.unresolved += 1
            self._tell(asked, answer, StopReason.LOCAL_ERROR)
            return []
        if not self._sieve.addresses(answer.version, [answer], resolved=True):
            return []
        return [Destination(asked.position, asked.name, answer)]

    def _tell(self, asked: _Asked, reason: str, stop: StopReason) -> None:
        record = untraced(asked.name, self._options, f"line {asked.line}: {reason}", stop)
        self._reject(Refused(asked.position, record))

    async def _or_stopped(self, awaited: Awaitable[_Result | None]) -> _Result | None:
        """The result, or None as soon as `stop` is called."""
        result = asyncio.ensure_future(awaited)
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait((result, stopped), return_when=asyncio.FIRST_COMPLETED)
            return None if self._stopped.is_set() else result.result()
        finally:
            for task in (result, stopped):
                task.cancel()
