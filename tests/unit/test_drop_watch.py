"""Replies that our own kernel dropped lower the rate, once a look and only for what is new."""

from __future__ import annotations

from allhops.core.batch.window import Tally
from allhops.core.ledger import Counters
from allhops.core.pacer import SLOW_DOWN, Pacer
from allhops.net.batch.drop_watch import WATCH_S, DropWatch


class Watched:
    """A batch that sends at a pace of its own."""

    def __init__(self, rate_pps: float | None) -> None:
        self.counters, self.tally, self.pacer = Counters(), Tally(), Pacer(rate_pps)
        self.watch = DropWatch(self.counters, self.tally, self.pacer)
        self.now = 100.0
        self.watch.look(self.now)

    def pass_on(self, *, sent: int, dropped: int = 0) -> None:
        """One interval, then a look."""
        self.now += WATCH_S
        self.tally.sent += sent
        self.counters.kernel_drops += dropped
        self.watch.look(self.now)


def test_without_drops_the_rate_stays() -> None:
    batch = Watched(10_000)
    batch.pass_on(sent=5_000)
    batch.pass_on(sent=5_000)
    assert batch.pacer.rate_pps == 10_000


def test_drops_lower_what_was_asked_for() -> None:
    batch = Watched(10_000)
    batch.pass_on(sent=5_000, dropped=1)
    assert batch.pacer.rate_pps == SLOW_DOWN * 10_000


def test_drops_lower_what_was_really_sent_where_the_rate_is_out_of_reach() -> None:
    batch = Watched(None)
    batch.pass_on(sent=50_000)
    batch.pass_on(sent=10_000, dropped=7)  # the second in which it choked says little of what it can do
    assert batch.pacer.rate_pps == SLOW_DOWN * 50_000 / WATCH_S


def test_the_same_drops_count_once() -> None:
    batch = Watched(10_000)
    batch.pass_on(sent=5_000, dropped=100)
    batch.pass_on(sent=3_500)
    batch.pass_on(sent=3_500)
    assert batch.pacer.rate_pps == SLOW_DOWN * 10_000


def test_nothing_happens_between_two_looks() -> None:
    batch = Watched(10_000)
    batch.counters.kernel_drops += 5
    batch.watch.look(batch.now + WATCH_S / 2)
    assert batch.pacer.rate_pps == 10_000
