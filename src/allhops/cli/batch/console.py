"""What a batch says on stderr while it runs: complaints, of which there may be a million, and a line of progress.

This file knows no packet and no file.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from allhops.cli.counted import counted
from allhops.cli.streams import complain

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_COMPLAINTS: Final = 20
"""Lines of the list that are told one by one; the rest are counted."""
_CLEAR = "\r\x1b[K"
_NARROW = 80
"""Columns of a terminal that does not say."""


class Console:
    """Lines, and below them one that is written over."""

    def __init__(self, *, shows_progress: bool | None = None) -> None:
        """`shows_progress` None: if stderr is a terminal."""
        self.shows_progress = _is_terminal() if shows_progress is None else shows_progress
        self._is_dirty = False
        self._complaints = 0

    def say(self, sentence: str) -> None:
        """A line of its own."""
        self.clear()
        complain(sentence)

    def complain_of_line(self, sentence: str) -> None:
        """About a line of the list: the first few are told, the rest are counted."""
        self._complaints += 1
        if self._complaints <= MAX_COMPLAINTS:
            self.say(sentence)

    def sum_complaints(self) -> None:
        """Own up to those that were not told."""
        if self._complaints > MAX_COMPLAINTS:
            self.say(counted(self._complaints - MAX_COMPLAINTS, "more line like these", "more lines like these"))

    def progress(self, text: Callable[[], str]) -> None:
        """Write over the last line."""
        if self.shows_progress:
            self._write(_CLEAR + text()[: _columns() - 1])
            self._is_dirty = True

    def clear(self) -> None:
        """Take the progress away."""
        if self._is_dirty:
            self._write(_CLEAR)
            self._is_dirty = False

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            self.shows_progress = False


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _NARROW
    except (OSError, ValueError):
        return _NARROW
