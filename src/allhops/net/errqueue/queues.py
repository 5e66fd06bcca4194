"""Both queues of a socket, answers and errors, read into its hearing."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

from allhops.net.errqueue.numbers import ORIGIN_LOCAL
from allhops.net.errqueue.queue import read_answer, read_error

if TYPE_CHECKING:
    from allhops.net.errqueue.hearing import Hearing
    from allhops.net.errqueue.numbers import Numbers


class Queues:
    """Whoever has the socket says when to read."""

    def __init__(self, sock: socket.socket, numbers: Numbers, hearing: Hearing) -> None:
        self._sock = sock
        self._numbers = numbers
        self._hearing = hearing

    def drain(self, room: int, events: int) -> None:
        """Read up to `room` packets of the queues that have some, as the EPOLL* bits say."""
        if events & ~select.EPOLLIN:
            errors = self.drain_errors(room)
            room -= errors
            if not errors:
                # The error is still to be told, but its entry had no room in the queue: this makes an end of it.
                self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if events & select.EPOLLIN:
            self._drain_answers(room)

    def drain_errors(self, room: int = 1 << 16) -> int:
        """Read the error queue; how many entries there were that came from the network."""
        from_network = 0
        for _ in range(room):
            try:
                told = read_error(self._sock, self._numbers)
            except OSError:
                break
            # An entry of this machine's own making, such as EMSGSIZE, is about the packet that was refused just now.
            from_network += told.icmp is None or told.icmp.origin != ORIGIN_LOCAL
            self._hearing.take_error(told)
        return from_network

    def _drain_answers(self, room: int) -> None:
        for _ in range(room):
            try:
                told = read_answer(self._sock, self._numbers)
            except OSError:
                # Empty; or an error that came meanwhile, which the error queue tells as well.
                return
            self._hearing.take_answer(told)
