"""Bytes in pieces to numbered lines, none of them longer than a bound. This file knows no file and no destination."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Final, NamedTuple

from allhops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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


class Block(NamedTuple):
    """Some lines in a row, maybe none."""

    number: int
    """Of the first line."""
    content: bytes
    """Each line with its newline; of one that is too long, as much as shows that it is."""

    def lines(self, places: Iterable[int] | None = None) -> Iterator[Line]:
        """All of them, or those at these places, from 0."""
        contents = self.content.split(b"\n")
        for place in range(len(contents) - 1) if places is None else places:
            content = contents[place]
            yield Line(self.number + place, content[:MAX_LINE_BYTES], len(content) > MAX_LINE_BYTES)


class LineReader:
    """Feed it pieces of a list in order, then `end` it; lines come out as soon as they are whole."""

    def __init__(self) -> None:
        self._begun = b""
        self._number = 1
        self._head: bytes | None = b""
        """What there is of the first bytes; None once they have been looked at."""

    def feed(self, piece: bytes) -> Block:
        """Lines that end in this piece. Raises: UsageError for a list in another encoding."""
        first, newline, others = self._without_mark(piece).partition(b"\n")
        self._begun += first[: MAX_LINE_BYTES + 1 - len(self._begun)]
        if not newline:
            return self._block(b"")
        whole, newline, begun = others.rpartition(b"\n")
        content = self._begun + b"\n" + whole + newline
        self._begun = begun[: MAX_LINE_BYTES + 1]
        return self._block(content)

    def end(self) -> Block:
        """The last line, if no newline ended it."""
        begun = self._begun if self._head is None else self._head
        self._begun, self._head = b"", None
        return self._block(begun + b"\n" if begun else b"")

    def _block(self, content: bytes) -> Block:
        block = Block(self._number, content)
        self._number += content.count(b"\n")
        return block

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
