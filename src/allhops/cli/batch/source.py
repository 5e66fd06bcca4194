"""Where a destination list comes from: a regular file, which can be read twice, or something that flows by once.

This file knows no destination.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from allhops.cli.batch.entries import MAX_PREFIX_ADDRESSES
from allhops.cli.streams import descriptor_of
from allhops.errors import UsageError
from allhops.net.blocking import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

STANDARD_INPUT: Final = "-"
PIECE_BYTES: Final = 32_768
"""Read at once: some two thousand destinations, 2 ms of the loop's time."""
_HASHED_BYTES: Final = 1 << 20
_DESTINATION = re.compile(rb"^[ \t]*[^#\s]", re.MULTILINE)
_PREFIX = re.compile(rb"^[ \t]*([0-9A-Fa-f.:]+)/([0-9]{1,3})(?=[\s#])", re.MULTILINE)


class Reading(NamedTuple):
    """What a look through a whole list found."""

    sha256: str
    destinations: int
    """About: a line that is none counts as one."""


class Source:
    """An open list. Close it at the end."""

    def __init__(self, path: str) -> None:
        """Raises: UsageError when it cannot be read."""
        self.path = path
        try:
            self._descriptor = (
                os.dup(descriptor_of(sys.stdin)) if path == STANDARD_INPUT else os.open(path, os.O_RDONLY)
            )
            self._start = self._position()
            os.read(self._descriptor, 0)  # a directory can be opened
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from None

    @property
    def is_repeatable(self) -> bool:
        """Whether it can be read again from where it started."""
        return self._start is not None

    def is_file(self, path: str) -> bool:
        """Whether a file that is there is the one it reads."""
        return os.path.samestat(os.fstat(self._descriptor), os.stat(path))

    def look_through(self) -> Reading:
        """Read all of it, and go back to the start. Only where `is_repeatable`."""
        digest, destinations = hashlib.sha256(), 0
        for lines in self._whole_lines():
            digest.update(lines)
            destinations += len(_DESTINATION.findall(lines))
            if b"/" in lines:
                destinations += sum(_further(address, length) for address, length in _PREFIX.findall(lines))
        assert self._start is not None
        os.lseek(self._descriptor, self._start, os.SEEK_SET)
        return Reading(digest.hexdigest(), destinations)

    async def pieces(self) -> AsyncIterator[bytes]:
        """All of it, as it comes. Raises: UsageError when reading fails."""
        try:
            if self.is_repeatable:
                while piece := os.read(self._descriptor, PIECE_BYTES):
                    yield piece
            else:  # whoever writes it may take his time
                while piece := await in_daemon_thread(os.read, self._descriptor, PIECE_BYTES):
                    yield piece
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)

    def _position(self) -> int | None:
        """Where it starts; None for what is no regular file."""
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            return None
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def _whole_lines(self) -> Iterator[bytes]:
        """Pieces that end where a line does, but for lines longer than a piece."""
        rest = b""
        while piece := os.read(self._descriptor, _HASHED_BYTES):
            lines, newline, rest = (rest + piece).rpartition(b"\n") if b"\n" in piece else (rest + piece, b"", b"")
            yield lines + newline
        yield rest


def _further(address: bytes, length: bytes) -> int:
    """Addresses of a prefix beyond the first."""
    size = 1 << max(0, (128 if b":" in address else 32) - int(length))
    return size - 1 if size <= MAX_PREFIX_ADDRESSES else 0


def _unreadable(path: str, error: Exception) -> UsageError:
    name = "standard input" if path == STANDARD_INPUT else path
    return UsageError(f"cannot read the list {name}: {getattr(error, 'strerror', None) or error}")
