"""The account of a batch, in words."""

from __future__ import annotations

import numpy as np
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
        (Stats(kernel_drops=1), ["1 reply was lost in this machine's own buffers: try a lower --rate"]),
        (Stats(full_queues=1), ["the send queue was full 1 time, which delays probes and loses none"]),
        (Stats(full_queues=5), ["the send queue was full 5 times, which delays probes and loses none"]),
    ],
)
def test_only_what_was_lost_is_said_to_be(stats: Stats, sentences: list[str]) -> None:
    _, _, *between, _ = summary(Accounts(), 0, 0, stats, Tally(), 1.0)
    assert between == sentences


def test_one_is_one() -> None:
    accounts, tally = Accounts(traced=1, duplicates=1, other_shards=1), Tally()
    for found in (tally.addresses, tally.links):
        found.add(np.ones(1, np.uint64))
    destinations, probes, found_in = summary(accounts, 1, 0, Stats(sent=1, local_error=1), tally, 1.0)
    assert destinations == "3 destinations: 1 traced, 1 duplicate, 1 in another shard"
    assert probes == "1 probe = 0 answered + 0 timed out + 1 local error + 0 cancelled"
    assert found_in == "1 address and 1 link found in 1.0 s, 1 probes/s on average"
    assert next(summary(Accounts(traced=1), 1, 0, Stats(), Tally(), 1.0)) == "1 destination: 1 traced"
