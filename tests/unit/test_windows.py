"""Whose probes leave: of the block that is leaving, until there is a reason to choose anew."""

from __future__ import annotations

from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import numpy as np

from allhops.core.batch.strategies import batch_strategy
from allhops.core.batch.window import FULL_QUEUE_PAUSE_S, Tally
from allhops.core.ledger import Counters
from allhops.core.pacer import Pacer
from allhops.net.batch.group import Group
from allhops.net.batch.windows import Windows
from allhops.net.batch.wire import Way
from allhops.options import TraceOptions
from allhops.testing import FakeWire, SyntheticInternet
from allhops.testing.fakewire import FakeWireLease

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from allhops.core.batch.waiting import Turn
    from allhops.core.lanes import Block

RATE_PPS = 1_000.0
OPTIONS = TraceOptions()


class Beats:
    """Windows of 100 destinations each on a clock that is set; `senders` says whose probes left, source ports."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, windows: int, rate_pps: float | None = RATE_PPS) -> None:
        self.now = 1.0
        self.room: int | None = None
        """What the kernel's queue has room for; None for no end of it."""
        self.senders: list[int] = []
        send = FakeWireLease.send

        def watched(lease: FakeWireLease, block: Block, most: int) -> None:
            before = block.handed
            send(lease, block, most if self.room is None else min(most, self.room))
            handed = block.handed - before
            self.senders += [lease.source_port] * handed
            if self.room is not None:
                self.room -= handed

        monkeypatch.setattr(FakeWireLease, "send", watched)
        counters = Counters()
        wire = FakeWire(SyntheticInternet(4), clock=lambda: self.now)
        wire.open(counters)
        self.pacer = Pacer(rate_pps)
        self.windows = Windows(wire, OPTIONS, counters=counters, tally=Tally(), random=np.random.default_rng(1))
        for number in range(windows):
            first = IPv4Address("16.0.0.1") + 256 * number
            members = Group.of([first + place for place in range(100)])
            (way,) = wire.ways(members, OPTIONS).kinds
            assert isinstance(way, Way)
            assert self.windows.open(way, members, batch_strategy("parallel"), self.now)

    def beat(self, pause_s: float = 0.005) -> list[int]:
        """Whose probes leave in one beat."""
        self.now += pause_s
        before = len(self.senders)
        sent = self.windows.send(self.now, self.pacer)
        assert sent == len(self.senders) - before
        return self.senders[before:]


def test_a_block_leaves_in_several_beats_and_then_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    beats = Beats(monkeypatch, 2)
    handed = [len(beats.beat(0.009)) for _ in range(20)]
    assert max(handed) == 10, "what the pacer's bucket holds"
    first, second = set(beats.senders[:100]), set(beats.senders[100:])
    assert len(first) == len(second) == 1
    assert first != second


def test_when_windows_were_moved_on_the_turn_is_asked_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    beats = Beats(monkeypatch, 2)
    asked: list[float] = []

    def watched(turn: Callable[[float], Turn], now: float) -> Turn:
        asked.append(now)
        return turn(now)

    for live in beats.windows._live:
        monkeypatch.setattr(live.window, "turn", partial(watched, live.window.turn))
    beats.beat()
    chosen = len(asked)
    beats.beat()
    assert len(asked) == chosen, "a block that has begun goes on"
    list(beats.windows.advance(lambda: beats.now))
    beats.beat()
    assert len(asked) > chosen


def test_a_full_queue_is_left_alone_for_a_moment_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    beats = Beats(monkeypatch, 1)
    waiting = beats.windows.waiting
    beats.room = 3
    assert len(beats.beat()) == 3
    assert beats.windows.full_queues == 1
    beats.room = None
    assert not beats.beat(FULL_QUEUE_PAUSE_S / 2)
    assert beats.beat(FULL_QUEUE_PAUSE_S)
    assert beats.windows.waiting == waiting - len(beats.senders)


def test_where_one_queue_is_full_another_window_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    beats = Beats(monkeypatch, 2)
    beats.room = 0
    assert beats.beat() == []
    assert beats.windows.full_queues == 2


def test_what_is_stopped_sends_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    beats = Beats(monkeypatch, 2)
    assert beats.beat()
    beats.windows.stop_sending(beats.now)
    assert beats.beat() == []
    assert beats.windows.waiting == 0
