"""Where the traces of a batch go: a file that survives, or a stream.

What the bytes are is decided in `allhops.output`; here it is when they are on the disk, and what happens when it is
full. This file knows no list and no network.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, Protocol

from allhops.cli.streams import OutputError
from allhops.errors import UsageError
from allhops.net.blocking import in_daemon_thread
from allhops.output.jsonl import JsonLines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.core.harvest import Harvest
    from allhops.net.batch.feed import Refused
    from allhops.output.parquet import ParquetWriter

SYNC_S: Final = 1.0
"""What a power failure costs at most, seconds."""
WRITE_BYTES: Final = 1 << 16
"""Handed to the kernel at once. At 50,000 probes of 480 bytes a second a write costs 0.28 to 0.51 us a probe by the
megabyte and 0.14 (once 0.40) by 64 KB, sizes taken in turns into one file (Linux 6.18, ext4, virtual machine). It seems
that large writes get large pages, memory that the host has yet to provide, and small ones what was in use just now.
Where all memory is at hand, small writes cost 0.03 us a probe more."""


class FileError(Exception):
    """A file of results takes no more; the cause is the OSError."""

    def __init__(self, path: str, error: OSError) -> None:
        super().__init__(f"cannot write {path}: {error.strerror or error}")


class Output(Protocol):
    """What the run hands traces to."""

    def harvest(self, harvest: Harvest) -> None:
        """Courses that have ended, few enough for the event loop to wait. Raises: FileError, OutputError."""
        ...

    def refused(self, refused: Refused) -> None:
        """What stands for a trace that could not be. Raises: FileError, OutputError."""
        ...

    async def catch_up(self) -> None:
        """Give the disk or the reader what it is due; called after each harvest and a few times a second.

        Raises: FileError, OutputError.
        """
        ...

    async def close(self, *, is_complete: bool) -> None:
        """Everything is where it belongs, or where a resumed run finds it. Raises: FileError, OutputError."""
        ...


class JsonLinesFile:
    """Appends to a file that is ours alone; what does not fit on the disk leaves no half line behind."""

    def __init__(self, descriptor: int, path: str, size: int) -> None:
        """`size`: bytes to keep of what the file holds already. Raises: FileError."""
        self._lines = JsonLines(self._write)
        self._descriptor = descriptor
        self._path = path
        self._size = size
        self._synced_at = time.monotonic()
        self._is_synced = False
        try:
            os.ftruncate(descriptor, size)
            os.lseek(descriptor, size, os.SEEK_SET)
        except OSError as error:
            raise FileError(path, error) from error

    def harvest(self, harvest: Harvest) -> None:
        """Their lines."""
        self._lines.harvest(harvest)

    def refused(self, refused: Refused) -> None:
        """Its line."""
        self._lines.trace(refused.trace)

    async def catch_up(self) -> None:
        """Once a second, see to it that the disk has it."""
        now = time.monotonic()
        if not self._is_synced and now - self._synced_at >= SYNC_S:
            self._synced_at = now
            await self._sync()

    async def close(self, *, is_complete: bool) -> None:
        """See to it that the disk has it all."""
        try:
            await self._sync()
        finally:
            os.close(self._descriptor)

    async def _sync(self) -> None:
        self._is_synced = True
        try:
            await in_daemon_thread(_bring_to_disk, self._descriptor)
        except OSError as error:
            raise FileError(self._path, error) from error

    def _write(self, lines: bytes) -> None:
        self._is_synced = False
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest[:WRITE_BYTES]) :]
        except OSError as error:
            with suppress(OSError):  # a resumed run would drop it all the same
                os.ftruncate(self._descriptor, self._size)  # the part of a line that had room
            raise FileError(self._path, error) from error
        self._size += len(lines)


class JsonLinesStream:
    """Writes to a pipe, a terminal or a device; whoever reads slowly slows the batch down and blocks nothing."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: list[bytes] = []
        self._lines = JsonLines(self._waiting.append)
        self._writing = asyncio.Lock()

    def harvest(self, harvest: Harvest) -> None:
        """Their lines, soon."""
        self._lines.harvest(harvest)

    def refused(self, refused: Refused) -> None:
        """Its line, soon."""
        self._lines.trace(refused.trace)

    async def catch_up(self) -> None:
        """Wait until the reader has taken everything."""
        async with self._writing:
            if self._waiting:
                lines = b"".join(self._waiting)
                self._waiting.clear()
                try:
                    await in_daemon_thread(_write_all, self._descriptor, lines)
                except OSError as error:
                    raise OutputError from error

    async def close(self, *, is_complete: bool) -> None:
        """The same."""
        await self.catch_up()


class ParquetFile:
    """Parts beside a file, which are joined when all is done; they are what a resumed run goes on with."""

    def __init__(self, writer: ParquetWriter, path: str) -> None:
        self._writer = writer
        self._path = path

    def harvest(self, harvest: Harvest) -> None:
        """Their rows, a few seconds later."""
        with self._errors():
            self._writer.harvest(harvest)

    def refused(self, refused: Refused) -> None:
        """Its row, a few seconds later."""
        with self._errors():
            self._writer.trace(refused.trace, position=refused.position)

    async def catch_up(self) -> None:
        """What the writer has to do by now; the most of it is done by its thread."""
        with self._errors():
            self._writer.tick()

    async def close(self, *, is_complete: bool) -> None:
        """Join the parts, or leave them where they are."""
        with self._errors():
            if is_complete:
                await in_daemon_thread(self._writer.close)
                return
            try:
                await in_daemon_thread(self._writer.flush)
            finally:
                self._writer.abandon()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FileError(self._path, error) from error


def open_alone(path: str, *, anew: bool) -> int:
    """Descriptor of a file that no other run writes; `anew` forgets what is in it.

    Raises: UsageError when another run has it, FileError.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if anew:
            os.ftruncate(descriptor, 0)
    except BlockingIOError:
        raise UsageError(f"{path} is being written by another run") from None
    except OSError as error:
        raise FileError(path, error) from error
    return descriptor


def _bring_to_disk(descriptor: int) -> None:
    """See to it that the disk has it, and that memory has not: gigabytes that nobody reads push out what others do.

    The next lines then find memory that is at hand. On a virtual machine that gives free memory back to its host, new
    memory makes a write three times as dear (1.5 us a probe instead of 0.5).
    """
    os.fsync(descriptor)
    if hasattr(os, "posix_fadvise"):  # macOS has it not
        with suppress(OSError):  # a device has nothing to forget
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _write_all(descriptor: int, lines: bytes) -> None:
    rest = memoryview(lines)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
