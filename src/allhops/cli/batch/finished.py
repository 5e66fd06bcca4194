"""What a file of JSON Lines holds already: which destinations are finished, and where its last whole line ends.

A line is written in one call, so what a killed process leaves is whole lines and perhaps the beginning of one. What a
machine that lost its power leaves may end in zeros. This file knows no list and no network.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from allhops.cli.batch.keys import address_keys, name_keys
from allhops.cli.batch.sieve import Known
from allhops.errors import UsageError
from allhops.model import StopReason
from allhops.net.resolve import read_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.model import Address

MAX_HEAD_BYTES: Final = 16_384
"""Of a line: more than a record without hops has, and far more than stands in front of the first hop."""
_READ_BYTES: Final = 1 << 20
_AT_ONCE: Final = 4_096
"""Keys that are added together."""
_HEAD = re.compile(rb'\{"schema":"allhops\.trace/1","destination":("(?:[^"\\]|\\.)*"),"address":(null|"([^"]*)"),')
_LINE = re.compile(r"line (\d+): ")


class Finished:
    """Reads a file from its start; see `known` and `size` then.

    Raises: UsageError for a line in the middle that is none of ours: what was meant with it would be lost.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self.known = Known()
        self.size = 0
        """Bytes of the whole lines."""
        self.lines = 0
        self.failures = 0
        """Lines that tell why something could not be traced."""
        self._addresses: dict[int, list[Address]] = {4: [], 6: []}
        self._names: list[str] = []
        self._numbers: list[int] = []
        for head, length in _whole_lines(descriptor):
            if not self._take(head):
                raise UsageError(f"{path}: line {self.lines + 1} is damaged or not ours: take it out, or use --force")
            self.lines += 1
            self.size += length
            if self.lines % _AT_ONCE == 0:
                self._settle()
        self._settle()

    def _take(self, head: bytes) -> bool:
        """Note whose line this is; False for nobody's."""
        match = _HEAD.match(head)
        if match is None:
            return False
        name = _text(match[1])
        if match[3] is None:
            return name is not None and self._take_untraced(head, name)
        address = _address(match[3].decode("ascii", "replace"))
        if address is None or name is None:
            return False
        self._addresses[address.version].append(address)
        if match[1] != match[2]:
            self._names.append(name)
        return True

    def _take_untraced(self, head: bytes, name: str) -> bool:
        """A record without address: a line that is no destination, a name, an address that nothing was sent to."""
        try:
            record: dict[str, Any] = json.loads(head)
            reason, error = record["stop_reason"], record["error"] or ""
        except (ValueError, KeyError):
            return False
        if reason == StopReason.BAD_DESTINATION:
            number = _LINE.match(error)
            if number is not None:
                self.failures += 1
                self._numbers.append(int(number[1]))
            return number is not None
        address = _address(name)
        self.failures += 1
        if address is not None:
            self._addresses[address.version].append(address)
        else:
            self._names.append(name)
        return True

    def _settle(self) -> None:
        """Add what was noted to the sets."""
        for version, addresses in self._addresses.items():
            if addresses:
                self.known.addresses[version].admit(address_keys(version, addresses))
                addresses.clear()
        if self._names:
            self.known.names.admit(name_keys(self._names))
            self._names.clear()
        if self._numbers:
            self.known.lines.admit(np.array(self._numbers, np.uint64))
            self._numbers.clear()


def _whole_lines(descriptor: int) -> Iterator[tuple[bytes, int]]:
    """(beginning, length) of each line up to the first that was not written to its end; b"" begins a broken one."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    head, length, last = b"", 0, b""
    while piece := os.read(descriptor, _READ_BYTES):
        if b"\0" in piece:  # no line of ours has one: from here on the disk had only promised
            piece = piece[: piece.index(b"\0")]
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            head += piece[start : min(end, start + MAX_HEAD_BYTES - len(head))]
            last = piece[end - 1 : end] if end > start else last
            yield head if last == b"}" else b"", length + end + 1 - start
            head, length, last, start = b"", 0, b"", end + 1
        head += piece[start : start + MAX_HEAD_BYTES - len(head)]
        length += len(piece) - start
        last = piece[-1:]


def _text(literal: bytes) -> str | None:
    try:
        text: str = json.loads(literal)
    except ValueError:
        return None
    return text


def _address(text: str) -> Address | None:
    try:
        return read_address(text)
    except UsageError:
        return None
