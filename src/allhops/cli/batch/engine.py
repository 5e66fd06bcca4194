"""What a batch needs of its engine: destinations in, courses that have ended out, and counters that add up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

    from allhops.cli.batch.destinations import Destination
    from allhops.core.harvest import Harvest
    from allhops.model import Trace


class Stats(Protocol):
    """Counters; `sent` = `answered` + `timed_out` + `local_error` + `cancelled` once all has ended."""

    sent: int
    answered: int
    timed_out: int
    local_error: int
    cancelled: int
    kernel_drops_rx: int
    kernel_drops_tx: int
    rate_now_pps: float


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

    def run(self, feed: AsyncIterable[Destination]) -> AsyncGenerator[Harvest | Trace, None]:
        """Courses as they end; an interrupted one only if nobody said `discard`."""
        ...

    def stop(self, *, discard: bool) -> None:
        """Send nothing more, wait once for what is under way, end."""
        ...
