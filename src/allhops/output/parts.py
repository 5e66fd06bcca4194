"""A file that grows in parts: each is whole and on the disk before it counts, and all are joined at the end.

    run.parquet.parts/part-000001.parquet ... -> run.parquet

What is written bears another name until it is complete, so a process that is killed leaves whole parts, or the
joined file, or both; where both are there, all parts are in the joined file. This file knows nothing of what the
parts hold.
"""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[[IO[bytes]], None]

_PART = "part-{:06d}.parquet"
_UNFINISHED = ".unfinished"


class Parts:
    """The parts of the file at `path`, in a directory beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = path.with_name(path.name + ".parts")

    @property
    def exists(self) -> bool:
        """Whether there is anything: the joined file, or parts of it."""
        return self.path.exists() or self.directory.exists()

    def files(self) -> list[Path]:
        """What holds the rows by now, each of them once: the joined file, or the parts in order."""
        return [self.path] if self.path.exists() else self._parts()

    def begin(self) -> None:
        """Make the directory, and drop what an earlier process left behind that does not count."""
        if self.path.exists():
            self.drop()
        else:
            self.directory.mkdir(exist_ok=True)
            for leftover in self.directory.glob(f"*{_UNFINISHED}"):
                leftover.unlink()
            _sync_directory(self.directory.parent)
        _unfinished(self.path).unlink(missing_ok=True)

    def reset(self) -> None:
        """Drop everything, and begin."""
        self.path.unlink(missing_ok=True)
        self.drop()
        self.begin()

    def add(self, write: Write) -> None:
        """One more part, durable once this returns. Raises: OSError; then there is no such part."""
        if self.path.exists():
            # It becomes the first part: while there is a joined file, the parts beside it do not count.
            self.directory.mkdir(exist_ok=True)
            self.path.rename(self.directory / _PART.format(0))
            _sync_directory(self.path.parent)
        known = self._parts()
        number = int(known[-1].stem.rpartition("-")[2]) + 1 if known else 1
        _write_durably(self.directory / _PART.format(number), write)

    def join(self, write: Write) -> None:
        """Make the joined file, durable, then drop the parts. Raises: OSError; then the parts are still there."""
        if not self.path.exists():
            _write_durably(self.path, write)
        self.drop()

    def drop(self) -> None:
        """Remove the parts, and the directory if nothing else is in it."""
        if not self.directory.exists():
            return
        for file in (*self._parts(), *self.directory.glob(f"*{_UNFINISHED}")):
            file.unlink()
        if not any(self.directory.iterdir()):
            self.directory.rmdir()

    def _parts(self) -> list[Path]:
        return sorted(self.directory.glob(_PART.format(0).replace("000000", "*")))


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + _UNFINISHED)


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
