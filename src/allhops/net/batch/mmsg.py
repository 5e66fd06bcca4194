"""Many messages in one system call: sendmmsg and recvmmsg, on headers that are laid out once and used again.

The headers are numpy columns, so that aiming thousands of messages is a few array operations, and control messages of
all of them are read side by side. ctypes lets other threads run while the kernel works. This file knows no packet.

Source: sendmmsg(2), recvmmsg(2), cmsg(3).
"""

from __future__ import annotations

import ctypes
import socket
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MOST_MESSAGES = 1_024
"""The kernel takes no more at once (UIO_MAXIOV)."""

_VECTOR = np.dtype([("base", np.uintp), ("length", np.uintp)], align=True)
"""struct iovec."""
_HEADER = np.dtype(
    [
        ("name", np.uintp),
        ("name_length", np.uint32),
        ("vector", np.uintp),
        ("vectors", np.uintp),
        ("control", np.uintp),
        ("control_length", np.uintp),
        ("flags", np.int32),
    ],
    align=True,
)
"""struct msghdr."""
_MESSAGE = np.dtype([("header", _HEADER), ("length", np.uint32)], align=True)
"""struct mmsghdr."""
_MESSAGE_SIZE = _MESSAGE.itemsize
_WORD = np.dtype(np.uintp).itemsize
_CONTROL_HEADER = _WORD + 8
"""struct cmsghdr: length with header, level, type; data follows, aligned to a word."""

_DONT_WAIT = int(socket.MSG_DONTWAIT)
"""A plain number: arithmetic with an enumeration's takes a microsecond."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sendmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]
_libc.recvmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]


class Controls(NamedTuple):
    """The nth control message of every message that has so many; k of them."""

    message: NDArray[np.int64]
    """(k,): index of the message."""
    level: NDArray[np.int32]
    kind: NDArray[np.int32]
    data: NDArray[np.int64]
    """(k,): where its data begins in the message's row of `Messages.controls`."""
    size: NDArray[np.int64]
    """(k,): bytes of data."""

    def of(self, level: int, kind: int, least: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(messages, where their data begin) of those of one kind with at least so many bytes of data."""
        wanted = (self.level == level) & (self.kind == kind) & (self.size >= least)
        return self.message[wanted], self.data[wanted]


class Messages:
    """Headers of `most` messages, and room for an address and for control messages with each.

    Fill `names` and `controls` before a send, read them after a receive. `lengths` says how much of each message was
    sent or received, `flags` what the kernel says about one that was received (MSG_TRUNC, say).
    """

    def __init__(self, most: int, *, name_size: int = 0, control_size: int = 0) -> None:
        assert control_size % 8 == 0  # so that whole columns of it can be read as numbers
        self.most = min(most, MOST_MESSAGES)
        self._vectors = np.zeros(self.most, _VECTOR)
        self._messages = np.zeros(self.most, _MESSAGE)
        self._address = _address(self._messages)
        self._buffer: NDArray[np.uint8] | None = None
        self._name_size, self._control_size = name_size, control_size
        self.names: NDArray[np.uint8] = np.zeros((self.most, name_size), np.uint8)
        """(most, name_size): struct sockaddr_in, _in6, _ll ..."""
        self.controls: NDArray[np.uint8] = np.zeros((self.most, control_size), np.uint8)
        """(most, control_size)"""
        self.lengths: NDArray[np.uint32] = self._messages["length"]
        headers = self._messages["header"]
        self.flags: NDArray[np.int32] = headers["flags"]
        self.control_lengths: NDArray[np.uintp] = headers["control_length"]
        """What of each row of `controls` is in use."""
        self._name_lengths: NDArray[np.uint32] = headers["name_length"]
        places = np.arange(self.most, dtype=np.uintp)
        headers["vector"] = _address(self._vectors) + places * _VECTOR.itemsize
        headers["vectors"] = 1
        if name_size:
            headers["name"] = _address(self.names) + places * name_size
            self._name_lengths[:] = name_size
        if control_size:
            headers["control"] = _address(self.controls) + places * control_size
            self.control_lengths[:] = control_size

    def aim(self, buffer: bytearray | memoryview, start: int, stride: int, size: int, count: int) -> None:
        """Have the first `count` messages be `size` bytes each of a buffer, `stride` bytes apart from `start` on.

        The buffer is held, and cannot change its length, until the next call of this or `release`.
        """
        view = np.frombuffer(buffer, np.uint8)
        assert count <= self.most
        assert count == 0 or start + (count - 1) * stride + size <= len(view)  # else the kernel would write elsewhere
        self._buffer = view
        first = _address(view) + start
        self._vectors["base"][:count] = np.arange(first, first + count * stride, stride, dtype=np.uintp)
        self._vectors["length"][:count] = size

    def release(self) -> None:
        """Let go of the buffer."""
        self._vectors["length"] = 0
        self._buffer = None

    def send(self, descriptor: int, first: int, count: int) -> tuple[int, int]:
        """Send messages `first` to `first + count` without waiting: (how many the kernel took, 0).

        (0, errno) when it refused the first of them. Why it refused a later one, a call that begins with that one says.
        """
        assert first + count <= self.most
        sent = _libc.sendmmsg(descriptor, self._address + first * _MESSAGE_SIZE, count, _DONT_WAIT)
        return (sent, 0) if sent >= 0 else (0, ctypes.get_errno())

    def receive(self, descriptor: int, count: int, flags: int = 0) -> tuple[int, int]:
        """Receive up to `count` messages that wait already: (how many, 0), or (0, errno).

        `flags` are further MSG_* bits: MSG_TRUNC for true lengths in `lengths`, MSG_ERRQUEUE.
        """
        assert count <= self.most
        self._name_lengths[:count] = self._name_size
        self.control_lengths[:count] = self._control_size
        received = _libc.recvmmsg(descriptor, self._address, count, _DONT_WAIT | flags, None)
        return (received, 0) if received >= 0 else (0, ctypes.get_errno())

    def control_messages(self, count: int) -> Iterator[Controls]:
        """Those of the first `count` messages: the first of each, then the second of each, and so on."""
        if not self._control_size:
            return
        words, halves = self.controls.view(np.uintp), self.controls.view(np.int32)
        message = np.arange(count)
        at = np.zeros(count, np.int64)
        end = np.minimum(self.control_lengths[:count], self._control_size).astype(np.int64)
        while True:
            more = at + _CONTROL_HEADER <= end
            message, at, end = message[more], at[more], end[more]
            if not len(message):
                return
            length = words[message, at // _WORD].astype(np.int64)
            sound = (length >= _CONTROL_HEADER) & (at + length <= end)
            if not sound.all():
                message, at, end, length = message[sound], at[sound], end[sound], length[sound]
            level, kind = halves[message, (at + _WORD) // 4], halves[message, (at + _WORD) // 4 + 1]
            yield Controls(message, level, kind, at + _CONTROL_HEADER, length - _CONTROL_HEADER)
            at = at + (length + _WORD - 1) // _WORD * _WORD


def _address(array: NDArray[np.void] | NDArray[np.uint8]) -> int:
    """Where it begins in memory."""
    return int(array.__array_interface__["data"][0])
