"""The account of a batch, in words."""

from __future__ import annotations

import pytest

from allhops.cli.batch.report import summary
from allhops.cli.batch.sieve import Accounts
from allhops.cli.batch.tally import Tally
from allhops.net.batch.stats import Stats


@pytest.mark.parametrize(
    ("stats", "sentences"),
    [
        (Stats(), []),
        (Stats(kernel_drops=1_234), ["1,234 replies were lost in this machine's own buffers: try a lower --rate"]),
        (Stats(full_queues=5), ["the send queue was full 5 times, which delays probes and loses none"]),
    ],
)
def test_only_what_was_lost_is_said_to_be(stats: Stats, sentences: list[str]) -> None:
    _, _, *between, _ = summary(Accounts(), 0, 0, stats, Tally(), 1.0)
    assert between == sentences
