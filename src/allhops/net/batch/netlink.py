"""Many questions to the kernel's routing tables at once, and their answers side by side. Nothing leaves this machine.

Source: netlink(7), rtnetlink(7).
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allhops.net.batch.mmsg import Messages
from allhops.net.raw_sockets import grow_buffer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MESSAGE = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
ATTRIBUTE = struct.Struct("=HH")
"""struct rtattr: length with this header, type."""
REQUEST, ACKNOWLEDGE, INTERRUPTED, DUMP, CREATE = 0x001, 0x004, 0x010, 0x300, 0x400
"""NLM_F_*: the third says that what is listed has changed meanwhile."""
ERROR, DONE = 2, 3
"""NLMSG_*: an answer that consists of an errno, negative; the end of a list."""
MOST_QUESTIONS = 1_024
_SLICE = 128
"""Questions in one send: their answers wait in the receive buffer, where each takes up to 1,280 bytes, and the default
holds 212,992."""
_ANSWER_SIZE = 512
"""Bytes. A route has some 100; one that is longer counts as not answered."""
_BUFFER = 1 << 20
_LIST_BYTES = 1 << 16
"""Of a list, read at once: the kernel hands over 32 KiB at most."""
_SEQUENCE = 2
"""Of the sequence among a header's 32-bit words."""


class Answers(NamedTuple):
    """What came back for n questions, in their order."""

    rows: NDArray[np.uint8]
    """(n, bytes): whole messages."""
    ends: NDArray[np.int64]
    """(n,): bytes of each; 0 for a question that was not answered."""
    kinds: NDArray[np.int64]
    """(n,): message types."""

    def words(self) -> NDArray[np.int32]:
        """The rows as 32-bit numbers."""
        return self.rows.view(np.int32)

    def errors(self) -> NDArray[np.int64]:
        """(n,): errno of those that say one, else 0."""
        said = (self.kinds == ERROR) & (self.ends >= MESSAGE.size + 4)
        return np.where(said, -self.words()[:, MESSAGE.size // 4], 0).astype(np.int64)


class Attributes(NamedTuple):
    """The nth attribute of every answer that has so many; k of them."""

    answer: NDArray[np.int64]
    """(k,): index of the answer."""
    kind: NDArray[np.int64]
    data: NDArray[np.int64]
    """(k,): where its value begins in the answer's row."""
    size: NDArray[np.int64]
    """(k,): bytes of the value."""

    def of(self, kind: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(answers, where their values begin) of those of one kind and size."""
        wanted = (self.kind == kind) & (self.size == size)
        return self.answer[wanted], self.data[wanted]


class Entry(NamedTuple):
    """A line of a list."""

    kind: int
    """Its message type."""
    body: bytes
    attributes: dict[int, bytes]


class Netlink:
    """A socket to ask on. Raises: OSError where there is no netlink."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            self._sock.connect((0, 0))  # from then on nobody but the kernel is heard
            grow_buffer(self._sock, _BUFFER)
        except BaseException:
            self._sock.close()
            raise
        self._inbox = Messages(_SLICE)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def ask(self, kind: int, flags: int, bodies: NDArray[np.uint8]) -> Answers:
        """Ask one kind of question with each of these bodies ((n, bytes), at most `MOST_QUESTIONS`).

        The kernel answers while it is asked. Raises: OSError.
        """
        count, size = bodies.shape
        assert count <= MOST_QUESTIONS
        questions = np.empty((count, MESSAGE.size + size), np.uint8)
        header = MESSAGE.pack(MESSAGE.size + size, kind, flags | REQUEST, 0, 0)
        questions[:, : MESSAGE.size] = np.frombuffer(header, np.uint8)
        questions[:, MESSAGE.size :] = bodies
        first = self._sequence
        self._sequence = (self._sequence + count) % (1 << 31)
        questions.view(np.uint32)[:, _SEQUENCE] = np.arange(first, first + count)
        rows = bytearray(count * _ANSWER_SIZE)
        lengths = np.zeros(count, np.int64)
        for start in range(0, count, _SLICE):
            end = min(start + _SLICE, count)
            self._sock.send(questions[start:end].tobytes())
            self._collect(rows, lengths, start, end)
        return _sorted(np.frombuffer(rows, np.uint8).reshape(count, _ANSWER_SIZE), lengths, first)

    def dump(self, kind: int, body: bytes, most: int) -> list[Entry] | None:
        """A whole list; None, and then the socket is of no more use, if it is longer than `most` or has changed.

        Raises: OSError.
        """
        question = MESSAGE.pack(MESSAGE.size + len(body), kind, REQUEST | DUMP, self._sequence, 0) + body
        self._sequence += 1
        self._sock.send(question)
        entries: list[Entry] = []
        while len(entries) <= most:
            piece, at = self._sock.recv(_LIST_BYTES, socket.MSG_DONTWAIT), 0
            while at + MESSAGE.size <= len(piece):
                length, answer, flags, _, _ = MESSAGE.unpack_from(piece, at)
                if answer == DONE:
                    return entries
                if answer == ERROR or flags & INTERRUPTED or length < MESSAGE.size:
                    return None
                start, end = at + MESSAGE.size + len(body), at + length
                entries.append(Entry(answer, piece[start - len(body) : start], _attributes(piece, start, end)))
                at += (length + 3) // 4 * 4
        return None

    def _collect(self, rows: bytearray, lengths: NDArray[np.int64], start: int, end: int) -> None:
        """Receive what waits into rows `start` to `end`."""
        while start < end:
            self._inbox.aim(rows, start * _ANSWER_SIZE, _ANSWER_SIZE, _ANSWER_SIZE, end - start)
            taken, code = self._inbox.receive(self._sock.fileno(), end - start, socket.MSG_TRUNC)
            self._inbox.release()
            if code == errno.EINTR or code == errno.ENOBUFS:  # the latter says that answers were lost, once
                continue
            if not taken:
                return
            lengths[start : start + taken] = self._inbox.lengths[:taken]
            start += taken


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, whose value is a multiple of four bytes."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value


def attributes(answers: Answers, start: int) -> Iterator[Attributes]:
    """Those of all answers, which begin at byte `start`: the first of each, then the second of each, and so on."""
    halves = answers.rows.view(np.uint16)
    answer = np.arange(len(answers.rows))
    at, end = np.full(len(answer), start), answers.ends
    while True:
        more = at + ATTRIBUTE.size <= end
        answer, at, end = answer[more], at[more], end[more]
        if not len(answer):
            return
        length, kind = halves[answer, at // 2].astype(np.int64), halves[answer, at // 2 + 1].astype(np.int64)
        sound = (length >= ATTRIBUTE.size) & (at + length <= end)
        if not sound.all():
            answer, at, end, length, kind = answer[sound], at[sound], end[sound], length[sound], kind[sound]
        yield Attributes(answer, kind, at + ATTRIBUTE.size, length - ATTRIBUTE.size)
        at = at + (length + 3) // 4 * 4


def _attributes(piece: bytes, at: int, end: int) -> dict[int, bytes]:
    """Those of one message, by their kinds."""
    found = {}
    while at + ATTRIBUTE.size <= end:
        length, kind = ATTRIBUTE.unpack_from(piece, at)
        if length < ATTRIBUTE.size:
            break
        found[kind] = piece[at + ATTRIBUTE.size : at + length]
        at += (length + 3) // 4 * 4
    return found


def _sorted(rows: NDArray[np.uint8], lengths: NDArray[np.int64], first: int) -> Answers:
    """Answers by the sequence that they show; what is cut, too short or names no question is left out."""
    count = len(rows)
    words = rows.view(np.uint32)
    place = words[:, _SEQUENCE].astype(np.int64) - first
    said = words[:, 0].astype(np.int64)
    sound = (lengths >= MESSAGE.size) & (lengths <= rows.shape[1]) & (said >= MESSAGE.size) & (said <= lengths)
    sound &= (place >= 0) & (place < count)
    order = np.full(count, -1)
    order[place[sound]] = np.flatnonzero(sound)
    ends = np.where(order >= 0, said[order], 0)
    return Answers(rows[order], ends, rows.view(np.uint16)[order, 2].astype(np.int64))
