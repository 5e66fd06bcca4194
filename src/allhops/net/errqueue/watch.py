"""Many sockets behind one descriptor.

The event loop is given the epoll's own descriptor, never a socket: after the first EPOLLERR uvloop (0.23, and libuv
beneath it) stops watching a socket for good, and probing sockets live on errors. Level-triggered epolls nest, so this
works alike on every loop. This file knows no loop.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket

    from allhops.net.errqueue.arrivals import Arrivals

EVENTS_PER_LOOK = 64
"""Sockets served in one look, so that a busy one does not starve the others: epoll hands them out in turn."""


class Owner(Protocol):
    """Whose socket it is."""

    def drain(self, room: int, events: int) -> None:
        """Read up to `room` packets into the arrivals; `events` are epoll's."""
        ...


class Watch:
    """The sockets, and who reads them. EPOLLERR is always watched for."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._owners: dict[int, Owner] = {}
        self.looked_ns = 0
        """Wall clock of the last look: what it found had happened by then. For what the kernel does not stamp."""

    def fileno(self) -> int:
        """What the event loop waits for."""
        return self._epoll.fileno()

    def __len__(self) -> int:
        return len(self._owners)

    def add(self, sock: socket.socket, owner: Owner, *, writable: bool = False) -> None:
        """Watch a socket until `remove`: for something to read or, if `writable`, for the end of its connect()."""
        self._epoll.register(sock.fileno(), select.EPOLLOUT if writable else select.EPOLLIN)
        self._owners[sock.fileno()] = owner

    def remove(self, sock: socket.socket) -> None:
        """Before the socket is closed."""
        if self._owners.pop(sock.fileno(), None) is not None and not self._epoll.closed:
            self._epoll.unregister(sock.fileno())

    def drain(self, arrivals: Arrivals, capacity: int) -> None:
        """Let the owners of ready sockets read until `capacity` packets have arrived."""
        events = self._epoll.poll(0, EVENTS_PER_LOOK)
        self.looked_ns = time.time_ns()
        for descriptor, happened in events:
            room = capacity - len(arrivals)
            if room <= 0:
                return
            owner = self._owners.get(descriptor)  # None: closed by an owner before it in this very look
            if owner is not None:
                owner.drain(room, happened)

    def close(self) -> None:
        """Watch nothing any more."""
        self._epoll.close()
