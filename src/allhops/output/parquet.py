"""Parquet of a batch: one row for each probe, in parts that survive whatever ends the process.

Harvests are held for a moment, so that those of one window become rows together; rows are gathered, and become a part
when there are enough of them or some seconds have gone by. A thread does both. `close` joins the parts (parts.py). All
rows of a destination are in one part; what is there is finished. How files are written and read: table_files.py; what
the columns hold: columns.py, docs/formats.md.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from allhops.errors import UsageError
from allhops.output.begun import check_same
from allhops.output.columns import SCHEMA, stack
from allhops.output.parts import Parts
from allhops.output.sheets import Told, rows_of, sheet_of
from allhops.output.table_files import TableFiles
from allhops.output.tables import StoredWords, integers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future
    from os import PathLike

    from allhops.core.harvest import Harvest
    from allhops.model import Trace
    from allhops.output.columns import Sheet

ROWS_PER_PART = 1 << 16
"""Written in 60 ms; what this takes of memory grows with it, and so does what is gathered meanwhile."""
MOST_ROWS = 4 * ROWS_PER_PART
"""That wait for a slow disk."""
HELD_ROWS = 1 << 15
HELD_S = 0.5
"""Harvests are held until they have rows or are old enough: the more come together the less each costs, but a ledger of
which one course is held takes 66 bytes a slot."""
SECONDS_PER_PART = 2.0
"""What a process that is killed may lose."""


class Finished(NamedTuple):
    """A trace that is on the disk."""

    destination: str
    """As asked for."""
    address: str | None
    stop_reason: str | None
    error: str | None


class ParquetWriter:
    """Rows to a file at `path`; nothing of it is there before the first part is.

    `resume` goes on with what an earlier process wrote, joined or not; `force` writes over it; with neither it is
    refused. `fingerprint` says what the batch is (options, list): what is not the same cannot be gone on with. `clock`
    is monotonic, seconds.

    Raises: UsageError, OSError.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        resume: bool = False,
        force: bool = False,
        fingerprint: Mapping[str, str],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._path = Path(path)
        self._parts = Parts(self._path)
        self._fingerprint = {"schema": SCHEMA, **fingerprint}
        self._files = TableFiles(self._fingerprint)
        self._held: list[Harvest | Told] = []
        self._held_rows = 0
        self._gathered: list[Future[Sheet]] = []
        self._rows = 0
        self._clock = clock
        self._held_since = self._gathered_since = clock()
        self._writing: Future[None] | None = None
        self._being_written: list[Future[Sheet]] = []
        self._thread = ThreadPoolExecutor(1, "allhops-parquet")
        if not force:
            self._check(resume)
        self._parts.begin(anew=force)

    def harvest(self, harvest: Harvest) -> None:
        """The rows of each course. Raises: OSError, of an earlier part as well; the rows are gathered all the same."""
        if len(harvest):
            self._gather(harvest)

    def trace(self, trace: Trace, *, position: int | None = None) -> None:
        """The rows of one trace; `position` is that of its destination in the caller's list. Raises: OSError."""
        self._gather(Told(trace, position))

    def tick(self) -> None:
        """Do what is due by now; to be called a few times a second. Raises: OSError, of an earlier part.

        It waits for the disk only where so much waits for it already that memory would not hold it.
        """
        now = self._clock()
        if self._held and (self._held_rows >= HELD_ROWS or now - self._held_since >= HELD_S):
            self._let_go()
        if self._writing is not None and self._writing.done():
            self._settle()
        is_due = self._rows >= ROWS_PER_PART or now - self._gathered_since >= SECONDS_PER_PART
        if self._rows and is_due and (self._writing is None or self._rows >= MOST_ROWS):
            self._settle()
            self._start_part()

    def flush(self) -> None:
        """Make a part of what has been gathered, and wait until it is durable. Raises: OSError; it stays gathered."""
        with suppress(OSError):  # an earlier part's: its rows are gathered again, and tried now
            self._settle()
        self._let_go()
        if self._gathered:
            self._start_part()
            self._settle()

    def close(self) -> None:
        """Join all parts to the file, a second or two for a million rows.

        Raises: OSError; then what was written is in the parts. It may be tried again.
        """
        self.flush()
        self._parts.join(lambda file: self._files.join(self._parts.files(), file))
        self._thread.shutdown()

    def abandon(self) -> None:
        """Stop, and leave the parts as they are, for `resume`: when `close` cannot do its work."""
        self._thread.shutdown()
        self._parts.release()

    def finished(self) -> Iterator[Finished]:
        """Each trace that is on the disk. To be read before anything is written."""
        last: tuple[Any, ...] | None = None
        wanted = (*Finished._fields, "position")
        for table in self._files.read(self._parts.files(), wanted):
            positions = integers(table["position"].combine_chunks())
            destination, *words = (StoredWords(table[name].combine_chunks()) for name in Finished._fields)
            changes = np.flatnonzero((np.diff(destination.codes) != 0) | (np.diff(positions) != 0)) + 1
            for at in (0, *changes.tolist()):
                trace = Finished(destination.at(at) or "", *(word.at(at) for word in words))
                if (positions[at], trace) != last:  # the rows of one trace may go on in the next group
                    last = positions[at], trace
                    yield trace

    def _check(self, resume: bool) -> None:
        """Whether this file may be written. Raises: UsageError."""
        files = self._parts.files()
        if not files:
            return
        if not resume:
            raise UsageError(
                f"{self._path} is there already, or parts of it: resume goes on with it, force writes over it"
            )
        check_same(self._path, self._files.fingerprint(files[0]), self._fingerprint)

    def _gather(self, told: Harvest | Told) -> None:
        now, rows = self._clock(), rows_of(told)
        if not self._held:
            self._held_since = now
            if not self._gathered:
                self._gathered_since = now
        self._held.append(told)
        self._held_rows += rows
        self._rows += rows
        self.tick()

    def _let_go(self) -> None:
        """Let the thread make rows of what is held."""
        if self._held:
            self._gathered.append(self._thread.submit(sheet_of, self._held))
            self._held, self._held_rows = [], 0

    def _start_part(self) -> None:
        """Let the thread make a part of what has been gathered; nothing is under way there."""
        self._let_go()
        self._being_written, self._gathered, self._rows = self._gathered, [], 0
        self._writing = self._thread.submit(self._add_part, self._being_written)

    def _settle(self) -> None:
        """Wait for the part that is being written. Raises: OSError; then its rows are gathered again."""
        if self._writing is None:
            return
        wait([self._writing])  # an interrupt here changes nothing: the part is still being written
        error = self._writing.exception()
        self._writing = None
        if error is not None:
            self._gathered = self._being_written + self._gathered
            self._rows = self._held_rows + sum(len(sheet.result()) for sheet in self._gathered)
            raise error
        self._being_written = []

    def _add_part(self, sheets: list[Future[Sheet]]) -> None:
        """In the thread: most of it is numpy's and pyarrow's, which let the event loop run meanwhile."""
        whole = stack([sheet.result() for sheet in sheets])
        self._parts.add(lambda file: self._files.write_part(file, whole))
