"""Lines read many at once: as if they had been read one by one."""

from __future__ import annotations

import asyncio
import re
from dataclasses import astuple
from ipaddress import IPv4Address, ip_address
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.cli.batch import destinations as feeding
from allhops.cli.batch.destinations import Destinations
from allhops.cli.batch.entries import Single, read_entry
from allhops.cli.batch.exclude import read_exclusions
from allhops.cli.batch.lines import Block
from allhops.cli.batch.quads import Quads, read_quads
from allhops.cli.batch.shard import Shard
from allhops.cli.batch.sieve import Sieve
from allhops.errors import ResolveError, UsageError
from allhops.options import TraceOptions
from tests.groups import Destination, each

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from allhops.cli.batch.entries import Entry
    from allhops.model import Address
    from allhops.net.batch.feed import Refused

PLAIN = [b"1.0.0.0", b"192.0.2.1", b"192.0.2.1\r", b"100.10.1.0", b"127.0.0.1", b"223.255.255.255"]
OTHERS = [
    *(b"", b"\r", b".", b"...", b"....", b"1.2.3", b"1.2.3.", b".2.3.4", b"1..3.4", b"1.2.3.4.", b"1.2.3.4.5"),
    *(b"01.2.3.4", b"1.2.3.04", b"1.2.3.00", b"1.2.3.000", b"00.2.3.4", b"256.1.1.1", b"1.2.3.256", b"1.2.3.999"),
    *(b"1.2.3.0004", b"1.2.3.1004", b"1.2.3.4 ", b" 1.2.3.4", b"1.2.3.4\t", b"1.2.3.4\r\r", b"\r1.2.3.4"),
    *(b"1.2.3.4#", b"1.2.3.4\0", b"1.2.3\r.4", b"1.2.3.\xb2", b"1.2.3.-4", b"1.2.3.+4", b"1.2.3./", b"1.2.3.:"),
    *(b"0.0.0.0", b"0.255.255.255", b"224.0.0.0", b"240.0.0.1", b"255.255.255.255", b"a.b.c.d", b"::1.2.3.4"),
    "1.2.3.\u0664".encode(),
]


@pytest.mark.parametrize("line", PLAIN)
def test_a_plain_address_is_read_with_others(line: bytes) -> None:
    quads = read_quads(line + b"\nx.example\n" + line + b"\n")
    text = line.strip().decode()
    assert quads.which.tolist() == [True, False, True]
    assert quads.packed.tolist() == 2 * [list(ip_address(text).packed)]
    assert quads.names == 2 * [text]


@pytest.mark.parametrize("line", OTHERS)
def test_what_is_anything_else_is_left(line: bytes) -> None:
    quads = read_quads(line + b"\n" + line + b"\n192.0.2.1\n")
    assert quads.which.tolist() == [False, False, True]
    assert (len(quads.packed), quads.names) == (1, ["192.0.2.1"])


def test_nothing_is_read_of_nothing_and_where_ipv6_is_asked_for() -> None:
    assert len(read_quads(b"").which) == 0
    assert read_quads(b"192.0.2.1\n\n", 6).which.tolist() == [False, False]


NUMBERS = st.integers(0, 300).map(str) | st.sampled_from(["", "00", "01", "007", "1000", "1a", " 1", "1 ", "-1"])
ALMOST = st.lists(NUMBERS, min_size=3, max_size=5).map(".".join).map(str.encode)
ADDRESSES = st.ip_addresses(v=4).map(str).map(str.encode)
LINES = st.one_of(
    *(ADDRESSES, ALMOST, st.binary(max_size=20), st.sampled_from(PLAIN + OTHERS)),
    st.sampled_from([b"192.0.2.0/29", b"2001:db8::/126", b"2001:db8::1", b"fe80::1%lo", b"::ffff:192.0.2.1"]),
    st.sampled_from([b"a.example", b"no.example", b"# nothing", b"192.0.2.1 # c", b"x" * 5_000, b"192.0.2.2" * 600]),
)
LISTS = st.builds(bytes.join, st.sampled_from([b"\n", b"\r\n"]), st.lists(LINES, max_size=30))
PLAIN_LINE = re.compile(rb"[0-9]{1,3}(\.[0-9]{1,3}){3}\r?")


@given(LISTS, st.sampled_from([None, 4, 6]))
def test_all_plain_addresses_are_read_as_one_by_one(content: bytes, ip_version: int | None) -> None:
    content += b"\n"
    quads = read_quads(content, ip_version)
    read = iter(zip(quads.names, quads.packed.tolist(), strict=True))
    for line, is_quad in zip(Block(1, content).lines(), quads.which.tolist(), strict=True):
        entry = _entry(line.content, ip_version)
        if is_quad:
            name, octets = next(read)
            assert entry == Single(name, IPv4Address(bytes(octets)))
        else:
            assert not (isinstance(entry, Single) and PLAIN_LINE.fullmatch(line.content))
    assert next(read, None) is None


def _entry(line: bytes, ip_version: int | None) -> Entry | None:
    try:
        return read_entry(line, ip_version)
    except (UsageError, ResolveError):
        return None


@given(LISTS, st.lists(st.integers(0, 400), max_size=8), st.integers(1, 3), st.sampled_from([None, 4, 6]))
def test_a_list_is_the_same_one_by_one(content: bytes, cuts: list[int], shards: int, ip_version: int | None) -> None:
    places = [0, *sorted(cuts), len(content)]
    pieces = [content[start:end] for start, end in pairwise(places)]
    for index in range(1, shards + 1):
        together = asyncio.run(_told(pieces, Shard(index, shards), ip_version))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(feeding, "read_quads", _nothing)
            assert asyncio.run(_told(pieces, Shard(index, shards), ip_version)) == together


def _nothing(content: bytes, ip_version: int | None) -> Quads:
    return Quads(np.zeros(content.count(b"\n"), np.bool_), np.empty((0, 4), np.uint8), [])


Told = tuple[list[Destination], list[tuple[int, str, Any]], tuple[int, ...], bool]


async def _told(pieces: list[bytes], shard: Shard, ip_version: int | None) -> Told | str:
    """Destinations and records with their places, and the accounts."""
    sieve = Sieve(exclusions=read_exclusions(b"192.0.2.4/30\n16.0.0.0/6"), shard=shard)
    records: list[Refused] = []
    listed = Destinations(_each(pieces), TraceOptions(ip_version=ip_version), sieve, records.append, _answer)
    try:
        found = [destination async for group in listed for destination in each(group)]
    except UsageError as error:  # UTF-16
        return str(error)
    refused = [(record.position, record.trace.destination, record.trace.error) for record in records]
    return sorted(found, key=lambda one: one.position), refused, astuple(sieve.accounts), listed.is_exhausted


async def _each(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _answer(name: str, ip_version: int | None) -> Address | None:
    return ip_address("198.51.100.1") if name == "a.example" else None
