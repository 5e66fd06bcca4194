"""Generated scenarios keep to the bounds that were asked for."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from allhops.errors import UsageError
from allhops.model import ReplyKind
from allhops.testing import Internet, TruthHop, generate
from allhops.testing.scenario import Diamond, Limit, Scenario, steps_of

ALLOWED = [
    ip_network(text)
    for text in ("192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "10.0.0.0/8", "2001:db8::/32")
]
FLOW = (40000, 33434)


def truths(scenario: Scenario) -> list[tuple[TruthHop, ...]]:
    internet = Internet(scenario)
    return [
        internet.truth(network.network_address, ports=FLOW) for path in scenario.paths for network in path.destinations
    ]


def test_the_same_seed_gives_the_same_internet() -> None:
    assert generate(5, destinations=10) == generate(5, destinations=10)
    assert generate(5, destinations=10) != generate(6, destinations=10)


@pytest.mark.parametrize("seed", range(5))
def test_lengths_and_distances_are_within_bounds(seed: int) -> None:
    scenario = generate(seed, destinations=5, min_hops=4, max_hops=15, min_rtt_ms=20, max_rtt_ms=90)
    for truth in truths(scenario):
        assert 4 <= len(truth) <= 15
        assert 20_000_000 <= truth[-1].rtt_ns <= 90_000_000
        assert truth[-1].kind is ReplyKind.DESTINATION
        times = [hop.rtt_ns for hop in truth]
        assert times == sorted(times)
        assert times[-1] > times[-2]


def test_every_address_is_one_that_nobody_has() -> None:
    scenario = generate(1, destinations=6, nat_share=1)
    assert scenario.dns is not None
    addresses = {address for router in scenario.routers.values() for address in (router.ipv4, router.ipv6) if address}
    addresses |= {network.network_address for path in scenario.paths for network in path.destinations}
    addresses |= {ip_address(str(scenario.dns.address))}
    assert all(any(address in network for network in ALLOWED) for address in addresses)


def test_paths_share_their_near_hops() -> None:
    scenario = generate(1, destinations=20)
    assert len({path.hops[:3] for path in scenario.paths}) == 1
    routers = sum(len(path.hops) for path in scenario.paths)
    assert len(scenario.routers) < routers * 0.8


def test_every_destination_has_its_own_address_and_name() -> None:
    scenario = generate(2, destinations=10)
    internet = Internet(scenario)
    addresses = [network.network_address for path in scenario.paths for network in path.destinations]
    assert len(set(addresses)) == 20
    assert internet.name_of(addresses[0]) == "host0.example.org"


@pytest.mark.parametrize("families", [(4,), (6,), (4, 6)])
def test_destinations_are_in_the_asked_families(families: tuple[int, ...]) -> None:
    scenario = generate(1, destinations=3, families=families)
    assert all(tuple(network.version for network in path.destinations) == families for path in scenario.paths)


def test_without_shares_every_hop_answers() -> None:
    assert all(hop.address for truth in truths(generate(1, destinations=10)) for hop in truth)


def test_shares_of_one_concern_everybody() -> None:
    scenario = generate(
        1, destinations=8, silent_hop_share=1, silent_destination_share=1, load_balanced_share=1, nat_share=1
    )
    assert all(any(isinstance(hop, Diamond) for hop in path.hops) for path in scenario.paths)
    assert all(path.nat for path in scenario.paths)
    assert all(truth[-1].address is None for truth in truths(scenario))
    tree = {step.router for path in scenario.paths for hop in path.hops[:-1] for step in [next(steps_of((hop,)))]}
    assert all(scenario.routers[key].silent for key in tree)


def test_faults_and_limits_are_those_of_every_device() -> None:
    scenario = generate(1, destinations=2, loss=0.1, duplicate=1, jitter_ms=2, limit=Limit(burst=1, per_second=1))
    for router in scenario.routers.values():
        assert (router.loss, router.duplicate, router.jitter_ns) == (0.1, 1, 2_000_000)
        assert router.limit == Limit(burst=1, per_second=1)


@pytest.mark.parametrize(
    "options",
    [
        {"destinations": 0},
        {"destinations": 200_000},
        {"min_hops": 1},
        {"min_hops": 9, "max_hops": 8},
        {"min_rtt_ms": 9, "max_rtt_ms": 8},
        {"families": ()},
        {"families": (5,)},
    ],
)
def test_bounds_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        generate(1, **options)
