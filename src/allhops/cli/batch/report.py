"""Progress and summary of a batch as text. This file knows no clock and no file."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from allhops.cli.counted import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.cli.batch.sieve import Accounts
    from allhops.cli.batch.tally import Tally
    from allhops.net.batch.stats import Stats


_LOOKS: Final = 10
"""Of the progress, that is two seconds."""


class Pace:
    """How many probes a second, over the last few looks."""

    def __init__(self, now: float) -> None:
        self._looks = deque([(now, 0)], _LOOKS)

    def pps(self, now: float, sent: int) -> float:
        """As of now; `sent` are all so far."""
        since, before = self._looks[0]
        self._looks.append((now, sent))
        return (sent - before) / (now - since) if now > since else 0.0


def progress(accounts: Accounts, done: int, total: int | None, stats: Stats, pace_pps: float, elapsed_s: float) -> str:
    """One line: destinations done of all, pace, replies, time left. `done` counts those settled in this run.

    `total` None is not known.
    """
    settled = accounts.total - accounts.traced + done
    ended = stats.answered + stats.timed_out + stats.local_error + stats.cancelled
    parts = [
        f"{settled:,}/{total:,}" if total is not None else f"{settled:,}/?",
        f"{pace_pps:,.0f} probes/s",
        f"{100 * stats.answered / ended:.0f} % answered" if ended else "nothing answered yet",
    ]
    if total is not None and done and elapsed_s > 0:
        parts.append(f"{_duration(max(0, total - settled) * elapsed_s / done)} left")
    return "  ".join(parts)


def summary(
    accounts: Accounts, done: int, local_errors: int, stats: Stats, tally: Tally, elapsed_s: float
) -> Iterator[str]:
    """Lines; every destination of the list is in exactly one figure of the first, every probe in one of the second.

    Of those that are `done`, `local_errors` could not be traced.
    """
    yield f"{counted(accounts.total, 'destination')}: " + ", ".join(_destinations(accounts, done, local_errors))
    yield (
        f"{counted(stats.sent, 'probe')} = {stats.answered:,} answered + {stats.timed_out:,} timed out + "
        f"{counted(stats.local_error, 'local error')} + {stats.cancelled:,} cancelled"
    )
    if stats.kernel_drops:
        lost = counted(stats.kernel_drops, "reply was", "replies were")
        yield f"{lost} lost in this machine's own buffers: try a lower --rate"
    if stats.full_queues:
        yield f"the send queue was full {counted(stats.full_queues, 'time')}, which delays probes and loses none"
    pace = stats.sent / elapsed_s if elapsed_s > 0 else 0.0
    yield (
        f"{tally.addresses.counted('address', 'addresses')} and {tally.links.counted('link')} found "
        f"in {_duration(elapsed_s)}, {pace:,.0f} probes/s on average"
    )


def _destinations(accounts: Accounts, done: int, local_errors: int) -> Iterator[str]:
    yield f"{done - local_errors:,} traced"
    for count, one, *many in (
        (local_errors, "could not be traced"),
        (accounts.traced - done, "cut short"),
        (accounts.resumed, "finished before"),
        (accounts.duplicates, "duplicate", "duplicates"),
        (accounts.bad, "no destination"),
        (accounts.unresolved, "without an address"),
        (accounts.excluded, "excluded"),
        (accounts.other_shards, "in another shard", "in other shards"),
    ):
        if count:
            yield counted(count, one, *(many or [one]))


def _duration(seconds: float) -> str:
    """Seconds as one reads them.

    >>> _duration(0.25), _duration(75), _duration(7_322)
    ('0.2 s', '1:15 min', '2:02 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"
