"""Lines made from columns: to the byte those made from the traces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.core.ledger import ANSWER, ANSWER_SIZE
from allhops.core.paths import address_text
from allhops.model import Protocol
from allhops.output import remembered
from allhops.output.fragments import cut
from allhops.output.json import line
from allhops.output.jsonl import MOST_AT_ONCE, JsonLines, parts
from allhops.output.records import PROBE
from allhops.output.remembered import Remembered, remembered_address_texts
from tests.harvests import likely_harvest, random_harvest

if TYPE_CHECKING:
    from allhops.core.harvest import Harvest

SEEDS = st.integers(0, 2**32 - 1)


def written(harvest: Harvest) -> bytes:
    blocks: list[bytes] = []
    JsonLines(blocks.append).harvest(harvest)
    return b"".join(blocks)


@given(SEEDS, st.sampled_from([4, 6]), st.sampled_from(Protocol), st.integers(1, 3), st.integers(1, 3))
def test_lines_are_those_of_the_traces(
    seed: int, version: int, protocol: Protocol, attempts: int, first_ttl: int
) -> None:
    harvest = random_harvest(
        seed, version=version, protocol=protocol, attempts=attempts, first_ttl=first_ttl, max_ttl=6
    )
    assert written(harvest).decode() == "".join(map(line, harvest.traces()))


@given(SEEDS)
def test_hops_of_which_none_was_asked(seed: int) -> None:
    harvest = random_harvest(seed, max_ttl=6)
    harvest.ledger.state[:] = bytes(harvest.plan.slots)
    assert written(harvest).decode() == "".join(map(line, harvest.traces()))


RTTS_NS = [
    *(
        micro * 1_000 + rest
        for micro in (0, 1, 9, 10, 999, 1_000, 1_001, 99_999)
        for rest in (0, 1, 499, 500, 501, 999)
    ),
    *range(0, 8_192_000_000, 8_191_501),
    *(whole * 1_000_000 + rest for whole in (4_095, 4_096, 86_400_000) for rest in (-500, -1, 0, 499_500, 999_500)),
    10**15 - 1,
    10**15 + 500,
    2**57 + 123,
    -1,
]


@pytest.mark.parametrize("is_late", [False, True])
def test_any_rtt(is_late: bool) -> None:
    harvest = likely_harvest(1, len(RTTS_NS), hops=1)
    ledger, slot = harvest.ledger, harvest.shown().slot
    column = ledger.late_ns if is_late else ledger.received_ns
    np.asarray(column)[slot] = np.frombuffer(ledger.sent_ns, np.int64)[slot] + RTTS_NS
    assert written(harvest).decode() == "".join(map(line, harvest.traces()))


@pytest.mark.parametrize("hops", [1, 2, 20])
def test_many_lines_are_written_a_few_at_a_time(hops: int) -> None:
    harvest = likely_harvest(1, 5 * MOST_AT_ONCE // (2 * hops), hops=hops)
    blocks: list[bytes] = []
    lines = JsonLines(blocks.append)
    for part in parts(harvest):
        lines.harvest(part)
    probes = [block.count(b"probe_ttl") for block in blocks]
    assert MOST_AT_ONCE // 3 < min(probes) <= max(probes) < MOST_AT_ONCE
    assert b"".join(blocks) == written(harvest)


@given(SEEDS, st.integers(1, 10))
def test_parts_are_the_whole(seed: int, attempts: int) -> None:
    harvest = random_harvest(seed, attempts=attempts, max_ttl=2)
    assert [course for part in parts(harvest) for course in part.courses.tolist()] == harvest.courses.tolist()


def test_a_trace_is_its_line() -> None:
    trace = next(likely_harvest(1, 1).traces())
    blocks: list[bytes] = []
    JsonLines(blocks.append).trace(trace)
    assert blocks == [line(trace).encode()]


@given(SEEDS, st.integers(1, 2))
def test_each_key_has_its_own_text_however_many_share_a_place(seed: int, words: int) -> None:
    rng = np.random.default_rng(seed)
    texts = Remembered(words)
    for most in (3, 100_000, 3, 2**63):
        keys = rng.integers(0, most, (2_000, words)).astype(np.uint64)
        wanted = [str(key) for key in keys.tolist()]
        assert texts.texts(keys, wanted.__getitem__).tolist() == wanted


def test_a_text_is_made_once() -> None:
    texts, keys = Remembered(), np.repeat(np.arange(1_000, dtype=np.uint64), 2)
    made: list[int] = []

    def make(at: int) -> str:
        made.append(at)
        return f"{keys[at]}"

    texts.texts(keys, make)
    texts.texts(keys, make)
    assert made == [*range(0, 2_000, 2)]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST_REMEMBERED", 2)
    texts = Remembered()
    assert texts.texts(np.array([7, 8, 7], np.uint64), lambda at: f"{at}").tolist() == ["0", "1", "0"]
    assert texts.texts(np.array([9, 8], np.uint64), lambda at: f"{at}").tolist() == ["0", "1"]
    assert len(texts) == 1


@pytest.mark.parametrize("size", [4, 16])
def test_addresses_are_remembered(size: int) -> None:
    packed = np.random.default_rng(1).integers(0, 256, (3, size)).astype(np.uint8)
    wanted = [f'"{address_text(address.tobytes())}"' for address in packed]
    for at in (0, 1, 2, 1):
        assert remembered_address_texts(packed[[at, 0]]).tolist() == [wanted[at], wanted[0]]


def test_the_last_byte_of_an_answer_is_nobodys() -> None:
    """What closes a hop is noted there."""
    assert all(offset < ANSWER_SIZE - 1 for _, offset in ANSWER.values())


def test_a_field_that_nobody_cut_is_noticed() -> None:
    names = [field.name for field in PROBE.fields]
    with pytest.raises(ValueError, match="cut it anew"):
        cut(PROBE, tuple(names[:-1]))
