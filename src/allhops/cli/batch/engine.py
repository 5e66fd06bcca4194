"""What a batch needs of its engine: destinations in, courses that have ended out, and counters that add up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

    from allhops.core.harvest import Harvest
    from allhops.net.batch.feed import Refused
    from allhops.net.batch.group import Group
    from allhops.net.batch.stats import Stats


class Engine(Protocol):
    """See `allhops.net.batch.engine.Batch`."""

    @property
    def stats(self) -> Stats:
        """As they are now."""
        ...

    async def __aenter__(self) -> Self:
        """Open the sockets. Raises: PrivilegeError, CapacityError."""
        ...

    async def __aexit__(self, *exception: object) -> None: ...

    def run(self, feed: AsyncIterable[Group]) -> AsyncGenerator[Harvest | Refused, None]:
        """Courses as they end; an interrupted one only if nobody said `discard`."""
        ...

    def stop(self, *, discard: bool) -> None:
        """Send nothing more, wait once for what is under way, end."""
        ...
