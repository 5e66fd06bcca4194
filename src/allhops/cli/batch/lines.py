"""Bytes in pieces to numbered lines, none of them longer than a bound. This file knows no file and no destination."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Final, NamedTuple

from allhops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINE_BYTES: Final = 4_096
"""A name has 253 characters at most; the rest is for a comment. What is longer is kept up to here and marked."""
_OTHER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Line(NamedTuple):
    """One line without its end."""

    number: int
    """From 1."""
    content: bytes
    is_cut: bool
    """Whether it was longer than `MAX_LINE_BYTES`."""


class LineReader:
    """Feed it pieces of a list in order, then `end` it; lines come out as soon as they are whole."""

    def __init__(self) -> None:
        self._begun = b""
        self._number = 0
        self._head: bytes | None = b""
        """What there is of the first bytes; None once they have been looked at."""

    def feed(self, piece: bytes) -> Iterator[Line]:
        """Lines that end in this piece. Raises: UsageError for a list in another encoding."""
        first, *others = self._without_mark(piece).split(b"\n")
        self._begun += first[: MAX_LINE_BYTES + 1 - len(self._begun)]
        for other in others:
            yield self._line()
            self._begun = other[: MAX_LINE_BYTES + 1]

    def end(self) -> Iterator[Line]:
        """The last line, if no newline ended it."""
        if self._head is not None:
            self._begun, self._head = self._head, None
        if self._begun:
            yield self._line()

    def _line(self) -> Line:
        self._number += 1
        content, self._begun = self._begun, b""
        return Line(self._number, content[:MAX_LINE_BYTES], len(content) > MAX_LINE_BYTES)

    def _without_mark(self, piece: bytes) -> bytes:
        """Take a byte order mark off the beginning, however it is cut into pieces."""
        if self._head is None:
            return piece
        head = self._head + piece
        if head.startswith(_OTHER_MARKS):
            raise UsageError("the list is UTF-16: save it as UTF-8")
        if len(head) < len(codecs.BOM_UTF8) and codecs.BOM_UTF8.startswith(head):
            self._head = head
            return b""
        self._head = None
        return head.removeprefix(codecs.BOM_UTF8)
