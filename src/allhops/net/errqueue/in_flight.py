"""Which probe of a window a reply is about when it names none.

As alone.py has it for one trace: a reply without a name is given to a probe only if no other can be meant, when all
probes of its destination that may still be answered have the same TTL. A probe may be answered until it is older than
the caller's patience, which is as long as the window waits for it.

Names are kept in two generations by age, so that forgetting the old ones costs nothing. Time is an argument, wall
clock nanoseconds. This file knows no socket and no packet.
"""

from __future__ import annotations

from allhops.wire.codec import mark_ttl
from allhops.wire.probes import COOKIE_SIZE

_MARK = slice(COOKIE_SIZE, COOKIE_SIZE + 2)


class InFlight:
    """The probes that nobody has answered, by packed destination and name (cookie, mark, balance)."""

    def __init__(self, patience_ns: int) -> None:
        self._patience_ns = patience_ns
        self._young: dict[bytes, dict[bytes, int]] = {}
        self._old: dict[bytes, dict[bytes, int]] = {}
        self._young_since_ns = 0
        self._ttl_of: dict[tuple[bytes, bytes], int] = {}

    def __len__(self) -> int:
        return sum(len(names) for generation in (self._young, self._old) for names in generation.values())

    def age(self, now_ns: int) -> None:
        """Forget what is older than twice the patience."""
        if not 0 <= now_ns - self._young_since_ns <= self._patience_ns:  # the clock may have been set back
            self._old = self._young
            self._young = {}
            self._young_since_ns = now_ns

    def sent(self, destination: bytes, name: bytes, sent_ns: int) -> None:
        """A probe is about to leave, for the first time or again."""
        names = self._young.get(destination)
        if names is None:
            names = self._young[destination] = {}
        names[name] = sent_ns

    def answered(self, destination: bytes, name: bytes) -> None:
        """A reply named this probe; or it did not leave after all."""
        for generation in (self._young, self._old):
            names = generation.get(destination)
            if names is not None:
                names.pop(name, None)

    def only_possible(self, destination: bytes, responder: bytes, received_ns: int) -> bytes | None:
        """The name of the probe that a nameless reply must be about, of several at one TTL the oldest; None for none.

        A responder that was already told to be at one TTL is not told to be at another.
        """
        since_ns = received_ns - self._patience_ns
        possible = {
            name: sent_ns
            for generation in (self._old, self._young)
            for name, sent_ns in generation.get(destination, {}).items()
            if since_ns <= sent_ns <= received_ns
        }
        ttls = {mark_ttl(int.from_bytes(name[_MARK])) for name in possible}
        if len(ttls) != 1:
            return None
        (ttl,) = ttls
        if self._ttl_of.setdefault((destination, responder), ttl) != ttl:
            return None
        name = min(possible, key=possible.__getitem__)
        self.answered(destination, name)
        return name
