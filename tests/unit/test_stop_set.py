from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from allhops.core.batch.strategies.stop_set import NOBODY, Met, StopSet, bytes_of, words_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.core.batch.strategies.stop_set import Words


def words(size: int, *numbers: int) -> Words:
    packed = np.zeros((len(numbers), 16), np.uint8)
    for index, number in enumerate(numbers):
        packed[index, :size] = np.frombuffer(number.to_bytes(size, "big"), np.uint8)
    return words_of(packed, size)


def enter(stops: StopSet, path: dict[int, int], donor: int, course: int = 0) -> NDArray[np.int32]:
    """One course's routers by TTL."""
    met = Met(words(stops.size, *path.values()), np.array(list(path), np.uint8))
    return stops.enter(met, stops.find(met), np.full(len(path), course), words(stops.size, *[donor] * len(path)))


@pytest.mark.parametrize("size", [4, 16])
def test_an_entry_is_a_responder_at_a_ttl_and_leads_to_the_one_before(size: int) -> None:
    stops = StopSet(size)
    first = enter(stops, {1: 11, 2: 12, 4: 14}, donor=100)
    assert stops.parent[first].tolist() == [NOBODY, first[0], first[1]]
    assert bytes_of(stops.donor[first])[:, size - 1].tolist() == [100] * 3
    second = enter(stops, {2: 12, 3: 13}, donor=101)
    assert second[0] == first[1]
    assert stops.parent[second[1]] == first[1]
    assert bytes_of(stops.donor[second])[:, size - 1].tolist() == [100, 101]
    other_ttl = Met(words(size, 12), np.array([3], np.uint8))
    assert stops.find(other_ttl).tolist() == [NOBODY]
    assert len(stops) == 4


def test_a_later_course_finds_the_parent_that_the_first_one_missed() -> None:
    stops = StopSet(4)
    orphan = enter(stops, {5: 15}, donor=100)
    assert stops.parent[orphan].tolist() == [NOBODY]
    later = enter(stops, {4: 14, 5: 15}, donor=101)
    assert stops.parent[orphan].tolist() == [later[0]]


def test_courses_that_meet_somebody_at_once_make_one_entry() -> None:
    stops = StopSet(4)
    met = Met(words(4, 11, 12, 11, 13), np.array([1, 2, 1, 2], np.uint8))
    entries = stops.enter(met, stops.find(met), np.array([0, 0, 1, 1]), words(4, 100, 100, 101, 101))
    assert entries[0] == entries[2]
    assert len(set(entries.tolist())) == 3
    assert stops.parent[entries[[1, 3]]].tolist() == [entries[0]] * 2


@pytest.mark.parametrize("size", [4, 16])
def test_thousands_are_all_found_again(size: int) -> None:
    stops = StopSet(size)
    numbers = np.random.default_rng(1).integers(1, 1 << 31, 20_000)
    ttl = (numbers % 30 + 1).astype(np.uint8)
    met = Met(words(size, *numbers.tolist()), ttl)
    entries = np.concatenate(
        [
            stops.enter(part, stops.find(part), np.arange(1_000), part.address)
            for part in (Met(met.address[at : at + 1_000], ttl[at : at + 1_000]) for at in range(0, 20_000, 1_000))
        ]
    )
    assert stops.find(met).tolist() == entries.tolist()
    assert len(stops) == len(set(zip(numbers.tolist(), ttl.tolist(), strict=True)))
    assert stops.find(Met(met.address, ttl + 1)).max() == NOBODY


def test_two_routers_with_one_digest_are_not_confused(monkeypatch: pytest.MonkeyPatch) -> None:
    stops = StopSet(16)
    monkeypatch.setattr(stops, "_hash", lambda met: np.full(len(met.ttl), 7, np.uint64))
    met = Met(words(16, 11, 12), np.array([3, 3], np.uint8))
    entries = stops.enter(met, stops.find(met), np.array([0, 1]), words(16, 100, 101))
    assert entries.tolist() == [0, NOBODY]
    assert stops.find(met).tolist() == [0, NOBODY]


def test_what_is_full_begins_anew() -> None:
    stops = StopSet(4, capacity_bytes=120)
    assert stops.capacity == 4
    enter(stops, {1: 11, 2: 12, 3: 13}, donor=100)
    assert enter(stops, {1: 21, 2: 22}, donor=101).tolist() == [NOBODY, NOBODY]
    stops.make_room(1)
    assert len(stops) == 3
    stops.make_room(2)
    assert len(stops) == 0
    assert enter(stops, {1: 21, 2: 22}, donor=101).tolist() == [0, 1]


def test_counts_stay_within_their_bytes() -> None:
    stops = StopSet(4)
    entries = enter(stops, {1: 11}, donor=100)
    stops.count(np.repeat(entries, 300), np.arange(300), np.arange(300))
    stops.count_ends(np.repeat(entries, 300))
    assert stops.flows[entries].tolist() == [255]
    assert stops.ends[entries].tolist() == [255]
    assert stops.reach[entries].tolist() == [255]


def test_silence_before_a_router_and_answers_behind_it_are_counted() -> None:
    stops = StopSet(4)
    entries = enter(stops, {1: 11, 2: 12, 5: 15}, donor=100)
    for _ in range(2):
        stops.count(entries, np.array([4, 3, 0]), np.array([0, 0, 2]))
    stops.count_leaps(entries[[1, 1, 0]], np.array([3, 1, 1]))
    assert stops.silences[entries].tolist() == [0, 0, 2]
    assert stops.leap[entries].tolist() == [1, 3, 0]
