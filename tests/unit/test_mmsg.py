"""Many messages in one system call, over pairs of sockets that lead nowhere else."""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from allhops.net.batch.mmsg import Messages

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = struct.Struct("@Nii")
"""struct cmsghdr."""
IP_RECVTTL = 12
"""Linux's; the socket module has no name for it."""


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        yield here, there


def test_messages_cross_in_order_and_land_a_stride_apart(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    packets = bytearray(b"".join(bytes([number]) * 4 for number in range(8)))
    out = Messages(8)
    out.aim(packets, 4, 4, 3, 5)
    assert out.send(here.fileno(), 1, 4) == (4, 0)
    room = bytearray(8 * 16)
    into = Messages(8)
    into.aim(room, 0, 16, 16, 8)
    assert into.receive(there.fileno(), 8) == (4, 0)
    assert into.lengths[:4].tolist() == [3] * 4
    assert [bytes(room[at * 16 : at * 16 + 4]) for at in range(4)] == [bytes([n]) * 3 + b"\0" for n in (2, 3, 4, 5)]


def test_what_is_refused_is_told_by_errno(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    into = Messages(2)
    into.aim(bytearray(32), 0, 16, 16, 2)
    assert into.receive(there.fileno(), 2) == (0, errno.EAGAIN)
    out = Messages(1_000)
    out.aim(bytearray(1_000), 0, 1, 1, 1_000)
    taken, code = out.send(here.fileno(), 0, 1_000)
    assert 0 < taken < 1_000  # max_dgram_qlen
    assert code == 0
    assert out.send(here.fileno(), taken, 1_000 - taken) == (0, errno.EAGAIN)


def test_the_true_length_of_what_did_not_fit(pair: tuple[socket.socket, socket.socket]) -> None:
    here, there = pair
    here.send(bytes(40))
    into = Messages(1)
    into.aim(bytearray(16), 0, 16, 16, 1)
    assert into.receive(there.fileno(), 1, socket.MSG_TRUNC) == (1, 0)
    assert into.lengths[0] == 40
    assert into.flags[0] & socket.MSG_TRUNC


def test_a_buffer_is_held_until_it_is_released() -> None:
    packets = bytearray(64)
    out = Messages(4)
    out.aim(packets, 0, 16, 16, 4)
    with pytest.raises(BufferError):
        packets.append(0)
    out.release()
    packets.append(0)


def test_nothing_outside_the_buffer_is_aimed_at() -> None:
    with pytest.raises(AssertionError):
        Messages(4).aim(bytearray(63), 0, 16, 16, 4)


def test_names_and_control_messages_over_loopback() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
    ):
        here.bind(("127.0.0.1", 0))
        peer.bind(("127.0.0.1", 0))
        peer.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        peer.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        out = Messages(3, name_size=16, control_size=24)
        name = struct.pack("@H", socket.AF_INET) + struct.pack("!H", peer.getsockname()[1]) + bytes((127, 0, 0, 1))
        for at in range(3):
            out.names[at, :8] = np.frombuffer(name, np.uint8)
            control = _HEADER.pack(_HEADER.size + 4, socket.IPPROTO_IP, socket.IP_TTL) + struct.pack("@i", 10 + at)
            out.controls[at, : len(control)] = np.frombuffer(control, np.uint8)
        out.aim(bytearray(30), 0, 10, 10, 3)
        assert out.send(here.fileno(), 0, 3) == (3, 0)
        into = Messages(4, name_size=16, control_size=64)
        into.aim(bytearray(64), 0, 16, 16, 4)
        assert into.receive(peer.fileno(), 4) == (3, 0)
        ttls: dict[int, int] = {}
        kinds = set()
        for controls in into.control_messages(3):
            kinds |= set(controls.kind.tolist())
            messages, data = controls.of(socket.IPPROTO_IP, socket.IP_TTL, 4)
            ttls.update(zip(messages.tolist(), into.controls.view(np.int32)[messages, data // 4].tolist(), strict=True))
        assert ttls == {0: 10, 1: 11, 2: 12}
        assert kinds == {socket.IP_TTL, socket.IP_TOS}
        assert {into.names[at, 2:4].tobytes() for at in range(3)} == {struct.pack("!H", here.getsockname()[1])}


@pytest.mark.parametrize("length", [0, 15, 65, 1 << 40])
def test_a_control_message_of_an_impossible_length_ends_the_walk(length: int) -> None:
    messages = Messages(2, control_size=64)
    sound = _HEADER.pack(20, 0, 2) + bytes(8)
    for at, lengths in enumerate((20, length)):
        messages.controls[at, :24] = np.frombuffer(sound, np.uint8)
        messages.controls[at, 24:40] = np.frombuffer(_HEADER.pack(lengths, 0, 3), np.uint8)
    first, second, *rest = messages.control_messages(2)
    assert first.message.tolist() == [0, 1]
    assert second.message.tolist() == [0]
    assert not any(len(one.message) and 1 in one.message for one in rest)
