"""kill -9 at random moments, and --resume: nothing is lost, nothing is there twice."""

from __future__ import annotations

import pytest

from benchmarks.kill import READERS, torture

KILLS = 5
DESTINATIONS = 300
LIFE_S = (0.3, 3.0)


@pytest.mark.parametrize("ending", READERS)
def test_a_batch_that_is_killed_again_and_again_is_whole_in_the_end(ending: str) -> None:
    record = torture(ending, KILLS, DESTINATIONS, seed=7, life_s=LIFE_S)
    assert record.kills == KILLS
    assert record.batches >= 1
