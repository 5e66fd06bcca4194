"""A file that grows in parts: each is whole and on the disk before it counts, and all are joined at the end.

    run.parquet.parts/part-000001.arrow ... -> run.parquet

What is written bears another name until it is complete, so a process that is killed leaves whole parts, or the
joined file, or both; where both are there, all parts are in the joined file. This file knows nothing of what the
parts hold.
"""

from __future__ import annotations

import fcntl
import os
from typing import IO, TYPE_CHECKING

from allhops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[[IO[bytes]], None]

PART_SUFFIX = ".arrow"
_PART = f"part-{{:06d}}{PART_SUFFIX}"
_JOINED = "part-000000.parquet"
"""A joined file as a part, the first one."""
_UNFINISHED = ".unfinished"


class Parts:
    """The parts of the file at `path`, in a directory beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = path.with_name(path.name + ".parts")
        self._lock: int | None = None

    def files(self) -> list[Path]:
        """What holds the rows by now, each of them once: the joined file, or the parts in order."""
        return [self.path] if self.path.exists() else self._parts()

    def begin(self, *, anew: bool = False) -> None:
        """Make the directory, keep others out, and drop what does not count; `anew`: drop everything.

        Raises: UsageError while another process writes there, OSError.
        """
        self.directory.mkdir(exist_ok=True)
        self._lock = _locked(self.directory)
        if anew or self.path.exists():
            self._drop_parts()
        if anew:
            self.path.unlink(missing_ok=True)
        for leftover in (_unfinished(self.path), *self.directory.glob(f"*{_UNFINISHED}")):
            leftover.unlink(missing_ok=True)
        _sync_directory(self.directory.parent)

    def add(self, write: Write) -> None:
        """One more part, durable once this returns. Raises: OSError; then there is no such part."""
        if self.path.exists():
            # It becomes the first part: while there is a joined file, the parts beside it do not count.
            self.path.rename(self.directory / _JOINED)
            _sync_directory(self.path.parent)
        known = self._parts()
        number = int(known[-1].stem.rpartition("-")[2]) + 1 if known else 1
        _write_durably(self.directory / _PART.format(number), write)

    def join(self, write: Write) -> None:
        """Make the joined file, durable, then drop the parts. Raises: OSError; then the parts are still there."""
        if not self.path.exists():
            _write_durably(self.path, write)
        self._drop_parts()
        if not any(self.directory.iterdir()):
            self.directory.rmdir()
        self.release()

    def release(self) -> None:
        """Let others in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _drop_parts(self) -> None:
        for file in self._parts():
            file.unlink()

    def _parts(self) -> list[Path]:
        return sorted([*self.directory.glob(_JOINED), *self.directory.glob(f"part-*{PART_SUFFIX}")])


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + _UNFINISHED)


def _locked(directory: Path) -> int:
    """A descriptor of the directory that keeps others out until it is closed, by whatever ends this process."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError(f"{directory}: another process writes there: wait for it, or choose another file") from None
    return descriptor


def _write_durably(path: Path, write: Write) -> None:
    """Write a file that is there in full or not at all, whenever the machine stops."""
    unfinished = _unfinished(path)
    try:
        with unfinished.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """A new name is on the disk only when its directory is."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
