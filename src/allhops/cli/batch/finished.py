"""What an earlier run has finished, from its records; of JSON Lines also where the last whole line ends.

Lines are written in their order, so what a killed process leaves is whole lines and perhaps the beginning of one. What
a machine that lost its power leaves may end in zeros. This file knows no list and no network.
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
    """What records say, as sets; see `known`."""

    def __init__(self) -> None:
        self.known = Known()
        self.failures = 0
        """Records that tell why something could not be traced."""
        self._noted = 0
        self._addresses: dict[int, list[Address]] = {4: [], 6: []}
        self._names: list[str] = []
        self._numbers: list[int] = []

    def take(self, name: str, address: str | None, stop_reason: str | None = None, error: str | None = None) -> bool:
        """Note one record; False for one that is none of ours. The last two are asked for where there is no address."""
        self._noted += 1
        if self._noted % _AT_ONCE == 0:
            self.settle()
        if address is None and stop_reason == StopReason.BAD_DESTINATION:
            return self._take_line(error or "")
        literal = _address(name if address is None else address)
        if address is not None and literal is None:
            return False
        if literal is not None:
            self._addresses[literal.version].append(literal)
        if name != address:
            self._names.append(name)
        self.failures += address is None
        return True

    def _take_line(self, error: str) -> bool:
        """A line that is no destination: its number is who it is, for the same junk may stand on many lines."""
        number = _LINE.match(error)
        if number is not None:
            self._numbers.append(int(number[1]))
            self.failures += 1
        return number is not None

    def settle(self) -> None:
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


def read_json_lines(descriptor: int, path: str) -> tuple[Finished, int]:
    """What a file holds, and the bytes of its whole lines.

    Raises: UsageError for a line in the middle that is none of ours: what was meant with it would be lost.
    """
    finished, size = Finished(), 0
    for number, (head, length) in enumerate(_whole_lines(descriptor), 1):
        if not _take_line(finished, head):
            raise UsageError(f"{path}: line {number} is damaged or not ours: take it out, or use --force")
        size += length
    finished.settle()
    return finished, size


def _take_line(finished: Finished, head: bytes) -> bool:
    match = _HEAD.match(head)
    if match is None:
        return False
    try:
        name: str = json.loads(match[1])
        if match[3] is not None:
            return finished.take(name, match[3].decode("ascii"))
        record: dict[str, Any] = json.loads(head)  # without hops it is short
        return finished.take(name, None, record["stop_reason"], record["error"])
    except (ValueError, KeyError):
        return False


def _whole_lines(descriptor: int) -> Iterator[tuple[bytes, int]]:
    """(beginning, length) of each line up to the first that was not written to its end; b"" begins a broken one."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    head, length, last = b"", 0, b""
    zero = b""
    while not zero and (read := os.read(descriptor, _READ_BYTES)):
        piece, zero, _ = read.partition(b"\0")  # no line of ours has one: from here on the disk had only promised
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            head += piece[start : min(end, start + MAX_HEAD_BYTES - len(head))]
            last = piece[end - 1 : end] if end > start else last
            yield head if last == b"}" else b"", length + end + 1 - start
            head, length, last, start = b"", 0, b"", end + 1
        head += piece[start : start + MAX_HEAD_BYTES - len(head)]
        length += len(piece) - start
        last = piece[-1:]


def _address(text: str) -> Address | None:
    try:
        return read_address(text)
    except UsageError:
        return None
