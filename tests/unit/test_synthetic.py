"""The model of a whole internet: what was asked for is what there is, and what is answered is the truth."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import numpy as np
import pytest

from allhops.errors import UsageError
from allhops.testing import SyntheticInternet
from allhops.testing.synthetic import MAX_DESTINATIONS, MAX_HOPS, REACHED, SILENCE, TIME_EXCEEDED, Answers

if TYPE_CHECKING:
    from numpy.typing import NDArray

DESTINATIONS = 3_000
PORT = 40_000


def ask(internet: SyntheticInternet, ttl: int, port: int = PORT) -> Answers:
    destinations = internet.destinations()
    count = len(destinations)
    return internet.answer(destinations, np.full(count, ttl, np.uint8), np.full(count, port, np.uint16))


def truth(internet: SyntheticInternet, port: int = PORT) -> NDArray[np.uint32]:
    destinations = internet.destinations()
    return internet.true_responders(destinations, np.full(len(destinations), port, np.uint16))


@pytest.fixture(scope="module")
def internet() -> SyntheticInternet:
    return SyntheticInternet(7, destinations=DESTINATIONS)


def test_the_same_seed_makes_the_same_internet_and_another_seed_another(internet: SyntheticInternet) -> None:
    assert np.array_equal(truth(SyntheticInternet(7, destinations=DESTINATIONS)), truth(internet))
    assert not np.array_equal(truth(SyntheticInternet(8, destinations=DESTINATIONS)), truth(internet))


def test_it_is_the_same_on_every_machine(internet: SyntheticInternet) -> None:
    path = internet.path("16.0.0.1", PORT)
    assert [str(address) for address in path[:4]] == ["65.43.228.192", "64.9.254.4", "65.111.23.72", "64.179.73.240"]
    assert [number for number, address in enumerate(path) if address is None] == [11, 12, 15]


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000, 200_000, MAX_DESTINATIONS])
def test_every_destination_has_a_slash_24_of_its_own(count: int) -> None:
    destinations = SyntheticInternet(1, destinations=count).destinations()
    assert len(destinations) == count
    assert (np.diff(destinations >> 8) > 0).all()
    assert set(np.unique(destinations >> 28)) == {1}
    assert ((destinations & 0xFF > 0) & (destinations & 0xFF < 255)).all()


@pytest.mark.parametrize("count", [0, MAX_DESTINATIONS + 1])
def test_a_size_it_cannot_have_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match="1 to 1048576"):
        SyntheticInternet(1, destinations=count)


def test_answers_are_the_truth(internet: SyntheticInternet) -> None:
    responders, distance = truth(internet), internet.distances(internet.destinations())
    for ttl in range(1, MAX_HOPS + 1):
        met = ask(internet, ttl)
        before = ttl <= distance
        assert np.array_equal(met.responder[before], responders[before, ttl - 1])
        assert np.array_equal(met.responder > 0, met.kind != SILENCE)
        assert (met.kind[ttl < distance] != REACHED).all()
        assert (met.kind[ttl >= distance] != TIME_EXCEEDED).all()
        assert (met.responder[met.kind == REACHED] == internet.destinations()[met.kind == REACHED]).all()
        assert (met.quoted_ttl[met.kind == TIME_EXCEEDED] == 1).all()
        assert (met.quoted_ttl[met.kind == REACHED] == ttl - distance[met.kind == REACHED] + 1).all()
        assert not met.rtt_ns[met.kind == SILENCE].any()


def test_paths_are_as_long_as_promised_and_named_to_their_end(internet: SyntheticInternet) -> None:
    distance = internet.distances(internet.destinations())
    assert distance.min() >= 8
    assert distance.max() <= MAX_HOPS
    assert 13 < distance.mean() < 16
    for address, hops in zip(internet.destinations()[:50].tolist(), distance[:50].tolist(), strict=True):
        assert len(internet.path(IPv4Address(address), PORT)) == hops


def test_no_path_meets_a_router_twice(internet: SyntheticInternet) -> None:
    ordered = np.sort(truth(internet), axis=1)
    assert not ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any()


def test_neighbours_share_most_of_their_path_and_strangers_little(internet: SyntheticInternet) -> None:
    responders = truth(internet)
    met = (responders > 0).sum(axis=1)[:-1]
    shared = ((responders[1:] == responders[:-1]) & (responders[1:] > 0)).sum(axis=1) / np.maximum(met, 1)
    assert shared.mean() > 0.7
    far = ((np.roll(responders, DESTINATIONS // 2, axis=0) == responders) & (responders > 0)).sum(axis=1)
    assert far.mean() < 5
    lengths = internet.distances(internet.destinations()).astype(int)
    assert (abs(np.diff(lengths)) <= 1).mean() > 0.8


def test_a_flow_keeps_its_path_and_others_take_others(internet: SyntheticInternet) -> None:
    assert np.array_equal(truth(internet), truth(internet))
    differs = (truth(internet, PORT) != truth(internet, PORT + 1)).any(axis=1)
    assert 0.3 < differs.mean() < 0.95
    unbalanced = SyntheticInternet(7, destinations=DESTINATIONS, balanced=0)
    assert np.array_equal(truth(unbalanced, PORT), truth(unbalanced, PORT + 1))


def test_the_destination_port_is_part_of_the_flow(internet: SyntheticInternet) -> None:
    destinations = internet.destinations()
    ports = np.full(DESTINATIONS, PORT, np.uint16)
    classic = internet.true_responders(destinations, ports, destination_port=33_435)
    assert not np.array_equal(classic, truth(internet))


@pytest.mark.parametrize("share", [0.0, 0.12, 0.5, 1.0])
def test_silent_routers_are_as_many_as_asked(share: float) -> None:
    every = len(SyntheticInternet(3, destinations=DESTINATIONS, silent_routers=0).interfaces())
    answering = len(SyntheticInternet(3, destinations=DESTINATIONS, silent_routers=share).interfaces())
    assert answering / every == pytest.approx(1 - share, abs=0.03)


@pytest.mark.parametrize("share", [0.0, 0.18, 1.0])
def test_live_hosts_are_as_many_as_asked(share: float) -> None:
    met = ask(SyntheticInternet(3, destinations=DESTINATIONS, live_hosts=share), 255)
    assert (met.kind == REACHED).mean() == pytest.approx(share, abs=0.03)


def test_probes_are_lost_as_asked_and_each_for_itself() -> None:
    internet = SyntheticInternet(3, destinations=DESTINATIONS, loss=0.2, silent_routers=0)
    first, second = ask(internet, 4), ask(internet, 4)
    assert (first.kind == SILENCE).mean() == pytest.approx(0.2, abs=0.03)
    assert ((first.kind == SILENCE) & (second.kind == SILENCE)).mean() == pytest.approx(0.04, abs=0.02)


def test_round_trips_grow_along_the_path_to_30_to_150_ms() -> None:
    internet = SyntheticInternet(3, destinations=DESTINATIONS, silent_routers=0, live_hosts=1)
    rtts = np.stack([ask(internet, ttl).rtt_ns for ttl in range(1, MAX_HOPS + 1)])
    assert (rtts[0] > 0).all()
    longer = np.diff(rtts, axis=0) > 0
    distance = internet.distances(internet.destinations())
    assert np.array_equal(longer, np.arange(2, MAX_HOPS + 1)[:, None] <= distance)
    assert rtts[-1].min() >= 30_000_000
    assert rtts[-1].max() <= 150_000_000


def test_a_router_has_one_round_trip_time_for_everybody(internet: SyntheticInternet) -> None:
    met = [ask(internet, ttl) for ttl in range(1, MAX_HOPS)]
    routers = np.concatenate([one.responder[one.kind == TIME_EXCEEDED] for one in met])
    rtts = np.concatenate([one.rtt_ns[one.kind == TIME_EXCEEDED] for one in met])
    assert len(np.unique(np.stack([routers, rtts]), axis=1)[0]) == len(np.unique(routers))


def test_interfaces_and_links_are_those_that_flows_meet() -> None:
    internet = SyntheticInternet(5, destinations=100, balanced=0.3)
    seen: set[int] = set()
    links: set[tuple[int, int]] = set()
    for port in range(1, 400):
        responders = truth(internet, port)
        seen |= set(np.unique(responders).tolist())
        near, far = responders[:, :-1].ravel(), responders[:, 1:].ravel()
        both = (near > 0) & (far > 0)
        links |= set(zip(near[both].tolist(), far[both].tolist(), strict=True))
    assert seen - {0} - set(internet.destinations().tolist()) == set(internet.interfaces().tolist())
    assert links == set(map(tuple, internet.links().tolist()))


def test_a_batch_of_31000_meets_about_37600_interfaces() -> None:
    assert len(SyntheticInternet(1).interfaces()) == pytest.approx(37_600, rel=0.03)


def test_nobody_answers_for_what_is_not_routed(internet: SyntheticInternet) -> None:
    elsewhere = np.array([0, 0x0FFFFFFF, 0x20000000, 0xFFFFFFFF], np.uint32)
    ports = np.full(4, PORT, np.uint16)
    assert not internet.answer(elsewhere, np.full(4, 3, np.uint8), ports).kind.any()
    assert not internet.true_responders(elsewhere, ports).any()
    assert internet.path("198.51.100.1", PORT) == []
