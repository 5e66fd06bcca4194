"""Groups of destinations, and where they wait until there are enough of one way."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.cli.batch.keys import address_keys, scoped
from allhops.errors import SendError
from allhops.net.batch import intake
from allhops.net.batch.group import Group
from allhops.net.batch.intake import Gathering, Intake
from allhops.net.batch.wire import Way, Ways
from allhops.options import TraceOptions
from allhops.testing import FakeWire, SyntheticInternet
from tests.groups import Destination, each

if TYPE_CHECKING:
    from allhops.model import Address

ONE_WAY, OTHER_WAY = (Way(4, bytes(4), interface, None) for interface in (1, 2))


def numbered(*lasts: int) -> Group:
    return Group.of([IPv4Address(f"192.0.2.{last}") for last in lasts])


@given(st.lists(st.ip_addresses(v=4), min_size=1) | st.lists(st.ip_addresses(v=6), min_size=1))
def test_a_group_is_its_destinations_side_by_side(addresses: list[Address]) -> None:
    group = Group.of(addresses)
    listed = [Destination(place, str(address), address) for place, address in enumerate(addresses)]
    assert [*each(group)] == listed
    assert [*each(group.select(np.arange(len(group))[::-1]))] == listed[::-1]
    assert [*each(Group.joined([group[:2], group[2:]]))] == listed
    assert group.octets() == [address.packed for address in addresses]
    assert group.keys.tolist() == address_keys(group.version, addresses).tolist()


def test_link_local_addresses_keep_their_interface() -> None:
    addresses = [IPv6Address("fe80::1%eth0"), IPv6Address("fe80::2%eth0")]
    group = Group.of(addresses)
    assert [one.address for one in each(group)] == addresses
    assert scoped(group.keys, "eth0").tolist() == address_keys(6, addresses).tolist()
    assert scoped(group.keys, "eth1").tolist() != address_keys(6, addresses).tolist()


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 12))
def test_a_window_has_no_address_twice(lasts: list[int], most: int) -> None:
    gathering = Gathering(ONE_WAY, numbered(0, *lasts), 0.0)
    waiting = [*each(gathering.members)]
    while waiting:
        taken = [*each(gathering.take(most))]
        first = {destination.address: destination for destination in reversed(waiting)}
        assert taken == sorted(first.values())[:most]
        waiting = [destination for destination in waiting if destination not in taken]
        assert [*each(gathering.members)] == waiting


def test_what_could_not_be_served_is_first_again() -> None:
    gathering = Gathering(ONE_WAY, numbered(1, 2, 3), 0.0)
    gathering.give_back(gathering.take(2))
    assert gathering.members.names == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


class Sorting(FakeWire):
    """Even addresses go one way, odd ones another; those that are a multiple of ten go nowhere."""

    def ways(self, destinations: Group, options: TraceOptions) -> Ways:
        last = destinations.packed[:, 3].astype(np.int64)
        errors = [SendError(f"{name}: no route") for name in destinations.names]
        of = np.where(last % 10 == 0, 2 + np.arange(len(last)), last % 2)
        return Ways([ONE_WAY, OTHER_WAY, *errors], of)


def test_destinations_are_sorted_by_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "ROUTED_AT_ONCE", 5)
    wire, gathered = Sorting(SyntheticInternet(1)), Intake(TraceOptions())
    gathered.add(numbered(1, 2, 10))
    gathered.add(numbered(3, 5, 7, 8))
    refused = gathered.route(wire, 1.0)
    assert [(one.position, one.trace.destination, one.trace.error) for one in refused] == [
        (2, "192.0.2.10", "192.0.2.10: no route")
    ]
    assert len(gathered) == 6
    assert gathered.route(wire, 2.0) == []
    waiting = {gathering.way: (gathering.members.names, gathering.since) for gathering in gathered}
    assert waiting == {
        ONE_WAY: (["192.0.2.2", "192.0.2.8"], 1.0),
        OTHER_WAY: (["192.0.2.1", "192.0.2.3", "192.0.2.5", "192.0.2.7"], 1.0),
    }
    assert gathered.route(wire, 3.0) == []


@pytest.mark.parametrize(
    ("options", "address", "reason"),
    [
        (TraceOptions(size=40), "2001:db8::1", "size must be at least 56"),
        (TraceOptions(flow_label=5), "192.0.2.9", "flow_label is for IPv6"),
    ],
)
def test_what_the_options_cannot_be_sent_to_stops_no_other(options: TraceOptions, address: str, reason: str) -> None:
    gathered = Intake(options)
    gathered.add(Group.of([ip_address(address)]))
    (refused,) = gathered.route(FakeWire(SyntheticInternet(1)), 0.0)
    assert str(refused.trace.error).startswith(f"{address}: {reason}")
    assert len(gathered) == 0


def test_no_kind_of_addresses_waits_for_all_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "ROUTED_AT_ONCE", 4)
    wire, gathered = FakeWire(SyntheticInternet(1)), Intake(TraceOptions())
    for last in range(1, 9):
        gathered.add(numbered(last))
    gathered.add(Group.of([ip_address("2001:db8::1")]))
    assert gathered.route(wire, 0.0) == []
    (refused,) = gathered.route(wire, 0.0)
    assert "no IPv6" in str(refused.trace.error)
    (gathering,) = gathered
    assert len(gathering.members) == 7
    gathered.clear()
    assert (len(gathered), gathered.route(wire, 0.0)) == (0, [])
