from __future__ import annotations

import itertools

import pytest

from allhops.wire.checksum import fold
from allhops.wire.codec import (
    MAX_ATTEMPTS,
    MAX_TTL,
    balance,
    encode_mark,
    mark_attempt,
    mark_is_ours,
    mark_ttl,
)

KEYS = (0, 1, 0xBEEF, 0xFFFF)
EVERY_PROBE = list(itertools.product(range(1, MAX_TTL + 1), range(MAX_ATTEMPTS)))


@pytest.mark.parametrize("key", KEYS)
def test_every_probe_has_its_own_mark_and_none_is_zero(key: int) -> None:
    marks = {encode_mark(ttl, attempt, key) for ttl, attempt in EVERY_PROBE}
    assert len(marks) == len(EVERY_PROBE)
    assert min(marks) > 0
    assert max(marks) <= 0xFFFF


@pytest.mark.parametrize("key", KEYS)
def test_a_mark_names_its_probe(key: int) -> None:
    for ttl, attempt in EVERY_PROBE:
        mark = encode_mark(ttl, attempt, key)
        assert (mark_ttl(mark), mark_attempt(mark)) == (ttl, attempt)
        assert mark_is_ours(mark, key)


@pytest.mark.parametrize("key", KEYS)
def test_one_mark_in_sixteen_is_ours(key: int) -> None:
    assert sum(mark_is_ours(mark, key) for mark in range(1 << 16)) == 1 << 12


@pytest.mark.parametrize("key", KEYS)
def test_mark_and_balance_always_sum_the_same(key: int) -> None:
    sums = {fold(mark + balance(mark, key)) % 0xFFFF for mark in range(1 << 16)}
    assert sums == {key % 0xFFFF}
