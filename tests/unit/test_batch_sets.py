"""What a batch remembers: sets of keys that are exact, shards that are fixed, counts that say when they estimate."""

from __future__ import annotations

import random
import tracemalloc
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.cli.batch import keyset, tally
from allhops.cli.batch.keys import address_keys, group_of, name_key, range_keys
from allhops.cli.batch.keyset import KeySet
from allhops.cli.batch.shard import Shard
from allhops.cli.batch.tally import Distinct, Tally
from tests.groups import Destination, each
from tests.harvests import random_harvest
from tests.stand_in import Path, harvest_of

if TYPE_CHECKING:
    from allhops.model import Address

MILLION = 1_000_000
IPV4_SHARDS = [[1, 2, 3], [4, 6], [0, 5, 7]]
IPV6_SHARDS = [[3], [1, 4, 6, 7], [0, 2, 5]]
NAME_SHARDS = [[2], [3], [0, 1]]
LINE_SHARDS = [[4], [1, 3, 5, 7], [2, 6, 8]]


@given(st.lists(st.lists(st.integers(0, 200), max_size=40)), st.sampled_from(["u4", "u8", "S16"]), st.integers(1, 8))
def test_a_key_is_new_once(chunks: list[list[int]], dtype: str, block: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(keyset, "BLOCK_KEYS", block)
        keys, seen = KeySet(dtype), set[int]()
        for chunk in chunks:
            column = _column(chunk, dtype)
            expected = [number not in seen and number not in chunk[:place] for place, number in enumerate(chunk)]
            assert keys.admit(column).tolist() == expected
            seen.update(chunk)
            assert len(keys) == len(seen)
        assert keys.holds(_column(list(range(201)), dtype)).tolist() == [number in seen for number in range(201)]


@given(st.lists(st.lists(st.integers(0, 200), max_size=40)), st.sampled_from(["u4", "u8", "S16"]))
def test_keys_may_be_added_unasked(chunks: list[list[int]], dtype: str) -> None:
    asked, unasked = KeySet(dtype), KeySet(dtype)
    for chunk in chunks:
        asked.admit(_column(chunk, dtype))
        unasked.add(_column(chunk, dtype))
        assert len(unasked) == len(asked)
    every = _column(list(range(201)), dtype)
    assert unasked.holds(every).tolist() == asked.holds(every).tolist()


@given(st.sets(st.integers(0, 2**64 - 1)), st.integers(0, 2**64 - 1))
def test_what_is_not_below_a_bound_is_forgotten(numbers: set[int], bound: int) -> None:
    keys = KeySet(np.uint64)
    keys.admit(np.array(sorted(numbers), np.uint64))
    keys.keep_below(np.uint64(bound))
    assert len(keys) == sum(number < bound for number in numbers)


def _column(numbers: list[int], dtype: str) -> Any:
    if dtype == "S16":  # with zeros at either end
        return np.frombuffer(b"".join(number.to_bytes(8).ljust(16, b"\0") for number in numbers), "S16")
    return np.array(numbers, dtype)


@pytest.mark.parametrize(("dtype", "bytes_each"), [("u4", 8), ("S16", 25)])
def test_a_million_addresses_are_remembered_in_a_few_megabytes(dtype: str, bytes_each: int) -> None:
    octets = np.frombuffer(random.Random(1).randbytes(MILLION * np.dtype(dtype).itemsize), dtype)
    tracemalloc.start()
    try:
        keys = KeySet(dtype)
        for start in range(0, MILLION, 1 << 15):
            keys.admit(octets[start : start + (1 << 15)])
        assert tracemalloc.get_traced_memory()[1] < bytes_each * MILLION
    finally:
        tracemalloc.stop()
    assert len(keys) > 0.999 * MILLION
    assert keys.holds(octets[::1_000]).all()


@given(st.lists(st.ip_addresses(v=4)), st.lists(st.ip_addresses(v=6)))
def test_keys_stand_for_their_addresses(ipv4: list[Address], ipv6: list[Address]) -> None:
    for version, addresses in ((4, ipv4), (6, ipv6)):
        group = group_of(version, address_keys(version, addresses), np.arange(len(addresses)))
        assert [*each(group)] == [Destination(place, str(one), one) for place, one in enumerate(addresses)]
        assert group.keys.tolist() == address_keys(version, addresses).tolist()


@pytest.mark.parametrize("first", ["10.0.0.0", "255.255.255.0", "2001:db8::", "2001:db8::ffff:ffff:ffff:ff00"])
def test_a_range_has_the_keys_of_its_addresses(first: str) -> None:
    start = ip_address(first)
    addresses = [start + offset for offset in range(256)]
    keys = range_keys(start.version, int(start), 256)
    assert keys.tolist() == address_keys(start.version, addresses).tolist()
    assert [one.address for one in each(group_of(start.version, keys, np.arange(256)))] == addresses


def test_names_differ_in_letters_not_in_case() -> None:
    assert name_key("Host.Example.") == name_key("host.example")
    assert name_key("host.example") != name_key("host2.example")


# Shards


def test_shards_are_the_same_for_ever() -> None:
    ipv4 = address_keys(4, [IPv4Address(f"192.0.2.{last}") for last in range(8)])
    ipv6 = address_keys(6, [IPv6Address(f"2001:db8::{last}") for last in range(8)])
    names = np.frombuffer(b"".join(map(name_key, ("a.example", "b.example", "c.example", "d.example"))), "S16")
    shards = [Shard(index, 3) for index in (1, 2, 3)]
    assert [shard.holds(4, ipv4).nonzero()[0].tolist() for shard in shards] == IPV4_SHARDS
    assert [shard.holds(6, ipv6).nonzero()[0].tolist() for shard in shards] == IPV6_SHARDS
    assert [shard.holds_names(names).nonzero()[0].tolist() for shard in shards] == NAME_SHARDS
    assert [[line for line in range(1, 9) if shard.holds_line(line)] for shard in shards] == LINE_SHARDS


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("count", [2, 7, 256])
def test_shards_are_of_one_size_whatever_the_addresses_have_in_common(version: int, count: int) -> None:
    keys = range_keys(version, int(ip_address("10.0.0.0" if version == 4 else "2001:db8::")), 1 << 16)
    sizes = [int(Shard(index, count).holds(version, keys).sum()) for index in range(1, count + 1)]
    assert sum(sizes) == len(keys)
    mean = len(keys) / count
    assert max(abs(size - mean) for size in sizes) < 5 * mean**0.5


# Counts


def test_counts_are_exact_until_they_say_about() -> None:
    hashes = np.random.default_rng(1).integers(0, 2**64, 200_000, np.uint64)
    few, many = Distinct(200_000), Distinct(4_096)
    for start in range(0, len(hashes), 7_000):
        for counter in (few, many):
            counter.add(hashes[start : start + 7_000])
            counter.add(hashes[start : start + 7_000])
    assert few.counted("address", "addresses") == "200,000 addresses"
    assert many.counted("link").startswith("about ")
    assert abs(many.count - 200_000) < 200_000 * 4 / 2_048**0.5


A, B, C, END = (IPv4Address(f"192.0.2.{last}") for last in (1, 2, 3, 9))
PATHS: list[tuple[list[Path], int, int]] = [
    ([[[A], [END]]], 2, 1),
    ([[[A], [END]], [[A], [END]]], 2, 1),
    ([[[A], [], [END]]], 2, 0),
    ([[[A], [B], [END]], [[B], [A]]], 3, 3),
    ([[[A, A, B], [C, C, END], [END]]], 4, 2 * 2 + 1),
    ([[[A], [A], [END]]], 2, 1),
    ([[[], [], []]], 0, 0),
]


@pytest.mark.parametrize(("paths", "addresses", "links"), PATHS)
def test_links_are_neighbours_that_were_measured(paths: list[Path], addresses: int, links: int) -> None:
    harvest = harvest_of([Destination(place, f"{place}", END) for place in range(len(paths))], paths)
    counted = Tally()
    for _ in range(2):
        counted.harvest(harvest)
        assert (counted.addresses.count, counted.links.count) == (addresses, links)


@pytest.mark.parametrize("rows", [1, 7, 1 << 14])
def test_what_was_gathered_is_counted_like_what_came_alone(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "GATHERED_ROWS", rows)
    harvests = [random_harvest(seed, max_ttl=6, attempts=2) for seed in range(6)]
    found: set[Address] = set()
    links: set[tuple[Address, Address]] = set()
    counted = Tally()
    for harvest in harvests:
        counted.harvest(harvest)
        for trace in harvest.traces():
            hops = {hop.ttl: {probe.reply.address for probe in hop.probes if probe.reply} for hop in trace.hops}
            found.update(*hops.values())
            links |= {(a, b) for ttl, near in hops.items() for a in near for b in hops.get(ttl + 1, ()) if a != b}
    assert (counted.addresses.count, counted.links.count) == (len(found), len(links))
