"""The list as destinations to trace: read as they are needed, names resolved on the way, every line accounted for.

What is no destination, and what does not resolve, becomes a record here; what is left out is counted by the sieve.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from allhops.cli.batch.entries import Name, Run, Single, read_entry, shown
from allhops.cli.batch.keys import group_of, range_keys
from allhops.cli.batch.lines import MAX_LINE_BYTES, LineReader
from allhops.cli.batch.quads import read_quads
from allhops.errors import ResolveError, UsageError
from allhops.model import StopReason
from allhops.net.batch.feed import LOOKUPS, Refused
from allhops.net.batch.group import Group, scope_of
from allhops.net.many import untraced
from allhops.net.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from allhops.cli.batch.entries import Entry
    from allhops.cli.batch.lines import Block, Line
    from allhops.cli.batch.quads import Quads
    from allhops.cli.batch.sieve import Sieve
    from allhops.model import Address
    from allhops.net.batch.group import Kind
    from allhops.options import TraceOptions

CHUNK: Final = 4_096
"""Addresses of a prefix that are sieved at once: what numpy needs to cost less than naming them one by one."""
TURN: Final = 64
"""Lines read one by one before the loop gets its turn: some 2 ms if all of them are complained of."""


class _Asked(NamedTuple):
    """A name of the list."""

    position: int
    line: int
    """Number of its line."""
    name: str


_Answer = tuple[_Asked, "Address | str"]
"""A name, and its address or why there is none."""


class _Gathered:
    """What a block of n lines asks for that is sieved together: dotted quads, and what the other lines add to them."""

    def __init__(self, quads: Quads, first: int) -> None:
        self._quads = quads
        self._first = first
        """Position of what the first line asks for."""
        self.steps = np.ones(len(quads.which), np.int64)
        """(n,): positions that each line takes up."""
        self.singles: defaultdict[Kind, list[tuple[Address, str, int]]] = defaultdict(list)
        """Addresses, as they are written, with their positions."""
        self.names: list[_Asked] = []

    @property
    def end(self) -> int:
        """Position behind the last line."""
        return self._first + int(self.steps.sum())

    def groups(self) -> Iterator[Group]:
        """The addresses, each kind of them in the order of the list."""
        positions = self._first + np.cumsum(self.steps)[self._quads.which] - 1
        quads = Group(packed=self._quads.packed, positions=positions, names=self._quads.names)
        for kind, singles in self.singles.items():
            group = Group.of(*zip(*singles, strict=True))
            if kind == quads.kind:
                both = Group.joined([quads, group])
                quads = both.select(np.argsort(both.positions))
            else:
                yield group
        if quads:
            yield quads


class Destinations:
    """An async iterator over groups of what is to be traced; `stop` ends it wherever it waits.

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
        self._asked: set[asyncio.Future[_Answer]] = set()
        self._arrived: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()
        """Answers to what was asked, and the next piece of the list."""

    def stop(self) -> None:
        """Nothing more comes."""
        self._stopped.set()

    async def __aiter__(self) -> AsyncIterator[Group]:
        try:
            async for group in self._found():
                if self._stopped.is_set():
                    return
                if group:
                    self._sieve.accounts.traced += len(group)
                    yield group
            self.is_exhausted = not self._stopped.is_set()
        finally:
            for task in self._asked:
                task.cancel()
            await asyncio.gather(*self._asked, return_exceptions=True)

    async def _found(self) -> AsyncIterator[Group | None]:
        reader, coming = LineReader(), self._next_piece()
        try:
            while (arrived := await self._next_arrival()) is not None:
                if arrived is not coming:  # a name is known before there is more of the list
                    yield self._answered(arrived)
                    continue
                piece = coming.result()
                if piece is None:
                    break
                async for group in self._told(reader.feed(piece)):
                    yield group
                coming = self._next_piece()
        finally:
            coming.cancel()
        if not self._stopped.is_set():
            async for group in self._told(reader.end()):
                yield group
        while self._asked and not self._stopped.is_set():
            yield self._answered(await self._next_arrival())

    def _next_piece(self) -> asyncio.Future[bytes | None]:
        coming: asyncio.Future[bytes | None] = asyncio.ensure_future(anext(self._pieces, None))
        coming.add_done_callback(self._arrived.put_nowait)
        return coming

    async def _told(self, block: Block) -> AsyncIterator[Group | None]:
        """What lines ask for: prefixes in their place, the rest of a block together."""
        quads = read_quads(block.content, self._options.ip_version)
        gathered = _Gathered(quads, self._position)
        async for group in self._one_by_one(block, np.flatnonzero(~quads.which).tolist(), gathered):
            yield group
        self._position = gathered.end
        for group in gathered.groups():
            yield self._sieved(group)
        await asyncio.sleep(0)
        async for answered in self._of_names(gathered.names):
            yield answered

    async def _one_by_one(self, block: Block, places: list[int], gathered: _Gathered) -> AsyncIterator[Group]:
        """Read the lines at these places; those that ask for prefixes are told at once."""
        passed = 0
        for count, line in enumerate(block.lines(places), 1):
            place = line.number - block.number
            self._position += place - passed  # dotted quads in between
            passed = place + 1
            position = self._position
            match entry := self._read(line):
                case Single():
                    kind = entry.address.version, scope_of(entry.address)
                    gathered.singles[kind].append((entry.address, entry.text, position))
                case Name():
                    gathered.names.append(_Asked(position, line.number, entry.text))
                case Run():
                    for group in self._of_run(position, entry):
                        yield group
                        await asyncio.sleep(0)  # all of it may be finished or excluded: the loop has other work
            gathered.steps[place] = self._position - position
            if count % TURN == 0:
                await asyncio.sleep(0)
                if self._stopped.is_set():
                    return

    def _read(self, line: Line) -> Entry | None:
        """What a line asks for; what is no destination is rejected here."""
        position = self._position
        try:
            if line.is_cut and b"#" not in line.content:  # what is cut of the others is comment
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

    def _of_run(self, position: int, run: Run) -> Iterator[Group]:
        for start in range(0, run.size, CHUNK):
            keys = range_keys(run.version, run.first + start, min(CHUNK, run.size - start))
            places = self._sieve.addresses(run.version, keys)
            yield group_of(run.version, keys[places], position + start + places)

    def _sieved(self, group: Group, *, resolved: bool = False) -> Group:
        places = self._sieve.addresses(group.version, group.keys, scope=group.scope, resolved=resolved)
        return group if len(places) == len(group) else group.select(places)

    async def _of_names(self, names: list[_Asked]) -> AsyncIterator[Group | None]:
        """Ask for each as soon as there is room; meanwhile those that were answered."""
        for place in self._sieve.names([asked.name for asked in names]) if names else ():
            while len(self._asked) >= LOOKUPS:
                yield self._answered(await self._next_arrival())
                if self._stopped.is_set():
                    return
            task = asyncio.ensure_future(self._resolve(names[place]))
            task.add_done_callback(self._arrived.put_nowait)
            self._asked.add(task)
        while not self._arrived.empty():
            yield self._answered(self._arrived.get_nowait())

    async def _resolve(self, asked: _Asked) -> _Answer:
        try:
            return asked, await resolve(asked.name, self._options.ip_version, self._lookup)
        except (ResolveError, UsageError) as error:
            return asked, str(error)

    def _answered(self, task: asyncio.Future[Any] | None) -> Group | None:
        """The destination behind a name, if it is one and is to be traced; nothing once `stop` was called."""
        if task is None:
            return None
        self._asked.discard(task)
        asked, answer = task.result()
        if isinstance(answer, str):
            self._sieve.accounts.unresolved += 1
            self._tell(asked, answer, StopReason.LOCAL_ERROR)
            return None
        return self._sieved(Group.of([answer], [asked.name], [asked.position]), resolved=True)

    def _tell(self, asked: _Asked, reason: str, stop: StopReason) -> None:
        record = untraced(asked.name, self._options, f"line {asked.line}: {reason}", stop)
        self._reject(Refused(asked.position, record))

    async def _next_arrival(self) -> asyncio.Future[Any] | None:
        """What comes next, or None as soon as `stop` is called."""
        arriving = asyncio.ensure_future(self._arrived.get())
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait((arriving, stopped), return_when=asyncio.FIRST_COMPLETED)
            return None if self._stopped.is_set() else arriving.result()
        finally:
            for task in (arriving, stopped):
                task.cancel()
