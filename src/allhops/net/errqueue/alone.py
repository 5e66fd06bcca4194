"""Which probe a reply is about when it names none.

Over IPv4 the kernel keeps the quoted IP header to itself, and some routers quote nothing beyond the ports, which a
constant flow has in common. Such a reply is given to a probe only if no other can be meant: when every probe
that may still be answered has the same TTL. A burst of many TTLs never does; a row that is asked again alone
does. Everything else stays nameless: a wrong address is worse than a star.

A probe may still be answered until it is older than the quiet time when the row's first probe leaves: `QUIET_FACTOR`
times the slowest reply so far, and `QUIET_NS` at least. A responder that was already told to be at one TTL is not
told to be at another: the network may have repeated its reply.

Time is an argument, wall clock nanoseconds. This file knows no socket and no packet.
"""

from __future__ import annotations

from typing import NamedTuple

QUIET_NS = 200_000_000
"""Shortest time after which an unanswered probe of another row counts as silent."""
QUIET_FACTOR = 3


class Out(NamedTuple):
    """A probe that may still be answered. `packet` is as much of its payload as names it."""

    ttl: int
    sent_ns: int
    packet: bytes


class Outstanding:
    """The probes of one flow that nobody has answered, by the bytes that name them."""

    def __init__(self) -> None:
        self._out: dict[bytes, Out] = {}
        self._slowest_ns = 0
        self._ttl_of: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._out)

    def sent(self, name: bytes, ttl: int, sent_ns: int, packet: bytes) -> None:
        """A probe is about to leave, for the first time or again."""
        self._out.pop(name, None)  # so that the order stays that of leaving
        self._out[name] = Out(ttl, sent_ns, packet)

    def withdraw(self, name: bytes) -> None:
        """It did not leave after all."""
        self._out.pop(name, None)

    def answered(self, name: bytes, received_ns: int) -> None:
        """A reply named this probe."""
        out = self._out.pop(name, None)
        if out is not None:
            self._slowest_ns = max(self._slowest_ns, received_ns - out.sent_ns)

    def only_possible(self, responder: bytes, received_ns: int) -> Out | None:
        """The probe that a nameless reply must be about; None when more than one row's may be, or none."""
        out = self._oldest_of_the_last_row()
        if out is None or out.sent_ns > received_ns or self._ttl_of.get(responder, out.ttl) != out.ttl:
            return None
        self._ttl_of[responder] = out.ttl
        name = next(name for name, candidate in self._out.items() if candidate is out)
        self.answered(name, received_ns)
        return out

    def _oldest_of_the_last_row(self) -> Out | None:
        """The first unanswered probe of the row that left last, if that row was asked alone."""
        quiet = max(QUIET_NS, QUIET_FACTOR * self._slowest_ns)
        oldest: Out | None = None
        for out in reversed(self._out.values()):
            if oldest is None or (out.ttl == oldest.ttl and out.sent_ns > oldest.sent_ns - quiet):
                oldest = out
            elif out.sent_ns > oldest.sent_ns - quiet:
                return None
            else:
                break
        return oldest
