"""How many sockets may be open at once, where every probe needs one. This file knows no socket."""

from __future__ import annotations

import resource

SHARE = 2
"""One in so many descriptors: the rest is the caller's program's."""


class Places:
    """Half of the descriptors that this process may have, fewer when they turn out to be in use elsewhere."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = max(1, (_soft_limit() // SHARE) if limit is None else limit)
        self.taken = 0

    def take(self) -> bool:
        """Take a place, if there is one."""
        if self.taken >= self.limit:
            return False
        self.taken += 1
        return True

    def give_back(self) -> None:
        """A socket was closed, or could not be made."""
        self.taken -= 1

    def shrink(self) -> None:
        """The process has no more descriptors: those that are out now are all that we get."""
        self.limit = max(1, self.taken)


def _soft_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 20
