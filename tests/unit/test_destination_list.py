"""A list of destinations: whatever its bytes, every line is a destination, nothing, or one complaint."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import tempfile
from dataclasses import astuple
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.cli.batch import destinations as feeding
from allhops.cli.batch.destinations import Destinations
from allhops.cli.batch.entries import MAX_PREFIX_ADDRESSES, Name, Run, Single, read_entry
from allhops.cli.batch.exclude import Exclusions, read_exclusions
from allhops.cli.batch.keys import address_keys, range_keys
from allhops.cli.batch.lines import MAX_LINE_BYTES, LineReader
from allhops.cli.batch.shard import Shard
from allhops.cli.batch.sieve import Sieve
from allhops.cli.batch.source import Source
from allhops.errors import ResolveError, UsageError
from allhops.model import StopReason, Trace
from allhops.net.batch.feed import LOOKUPS
from allhops.options import TraceOptions
from tests.groups import each

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from allhops.cli.batch.entries import Entry
    from allhops.model import Address
    from allhops.net.batch.feed import Refused

# Lines


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\r\n\r\nb", [b"a\r", b"\r", b"b"]),
        (b"\n\n", [b"", b""]),
        (b"\xef\xbb\xbfa\nb\n", [b"a", b"b"]),
        (b"\xef\xbb", [b"\xef\xbb"]),
        (b"\xef\xbbx\n", [b"\xef\xbbx"]),
        (b"a\0b\n", [b"a\0b"]),
    ],
)
def test_lines_come_out_whole_however_they_are_cut(content: bytes, lines: list[bytes], size: int) -> None:
    reader = LineReader()
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    read = [line for piece in pieces for line in reader.feed(piece).lines()] + [*reader.end().lines()]
    assert [line.content for line in read] == lines
    assert [line.number for line in read] == list(range(1, len(lines) + 1))


def test_a_line_of_a_megabyte_is_cut_and_the_next_one_is_not() -> None:
    reader = LineReader()
    read = [line for _ in range(1_000) for line in reader.feed(b"x" * 1_000).lines()]
    read += reader.feed(b"\nb\n").lines()
    assert [(line.number, len(line.content), line.is_cut) for line in read] == [
        (1, MAX_LINE_BYTES, True),
        (2, 1, False),
    ]


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_utf_16_is_refused_as_a_whole(mark: bytes) -> None:
    with pytest.raises(UsageError, match="UTF-16"):
        LineReader().feed(mark + "192.0.2.1\n".encode("utf-16-le"))


# Entries


ENTRIES: list[tuple[bytes, Entry | None]] = [
    (b"", None),
    (b"   \t\r", None),
    (b"# a comment", None),
    (b"  # \xe4\xf6\xfc in latin-1", None),
    (b"192.0.2.1", Single("192.0.2.1", IPv4Address("192.0.2.1"))),
    (b" 192.0.2.1\t# home \xe4\r", Single("192.0.2.1", IPv4Address("192.0.2.1"))),
    (b"[2001:db8::1]", Single("[2001:db8::1]", IPv6Address("2001:db8::1"))),
    (b"::ffff:192.0.2.1", Single("::ffff:192.0.2.1", IPv4Address("192.0.2.1"))),
    (b"host.example.", Name("host.example.")),
    ("b\u00fccher.example".encode(), Name("b\u00fccher.example")),
    (b"_dmarc.a-b.example", Name("_dmarc.a-b.example")),
    (b"192.0.2.0/24", Run(4, int(IPv4Address("192.0.2.0")), 256)),
    (b"192.0.2.1/32", Run(4, int(IPv4Address("192.0.2.1")), 1)),
    (b"10.0.0.0/8#all", Run(4, int(IPv4Address("10.0.0.0")), 1 << 24)),
    (b"2001:db8::/104", Run(6, int(IPv6Address("2001:db8::")), 1 << 24)),
    (b"2001:0db8:0::/120", Run(6, int(IPv6Address("2001:db8::")), 256)),
    (b"::ffff:192.0.2.0/120", Run(4, int(IPv4Address("192.0.2.0")), 256)),
]


@pytest.mark.parametrize(("line", "entry"), ENTRIES)
def test_what_a_line_asks_for(line: bytes, entry: Entry | None) -> None:
    assert read_entry(line) == entry


JUNK = [
    (b"192.0.2.1:80", "no port"),
    (b"[2001:db8::1]:443", r"no port: write \[2001:db8::1\]"),
    (b"host.example:443", "no port"),
    (b"two words", "one destination a line"),
    (b"192.0.2.1 host.example", "one destination a line"),
    (b"a,b,c", "neither"),
    (b"http://host.example/", "no prefix"),
    (b"<b>x</b>", "no prefix"),
    (b"a\0b", "NUL"),
    (b"\xff\xff", "UTF-8"),
    (b"caf\xe9.example", "UTF-8"),
    (b"\x1b[31mred", "neither"),
    (b"010.1.1.1", "not an address"),
    (b"256.1.1.1", "not an address"),
    (b"1.2.3", "not an address"),
    (b"x" * 300, "300 characters"),
    (b"0.0.0.0", "no host"),
    (b"224.0.0.0/8", "multicast"),
    (b"240.0.0.0/24", "reserved"),
    (b"255.255.255.255", "broadcast"),
    (b"::/120", "no host"),
    (b"fe80::1", "interface"),
    (b"fe80::/120", "interface"),
    (b"192.0.2.1/24", r"write 192\.0\.2\.0/24"),
    (b"192.0.2.0/255.255.255.0", "no prefix"),
    (b"192.0.2.0/33", "no prefix"),
    (b"192.0.2.0/-1", "no prefix"),
    (b"192.0.2.0/", "no prefix"),
    (b"/24", "no prefix"),
    (b"host.example/24", "no prefix"),
    (b"0.0.0.0/0", r"4,294,967,296 addresses.*16,777,216"),
    (b"10.0.0.0/7", "33,554,432"),
    (b"2001:db8::/32", r"79,228,162,514,264,337,593,543,950,336"),
]


@pytest.mark.parametrize(("line", "reason"), JUNK)
def test_junk_is_refused_with_the_reason(line: bytes, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        read_entry(line)


@pytest.mark.parametrize("line", [b"192.0.2.1", b"192.0.2.0/24"])
def test_an_address_of_the_other_family_is_refused(line: bytes) -> None:
    with pytest.raises(ResolveError, match="drop the -6"):
        read_entry(line, 6)


@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_any_bytes_are_an_entry_nothing_or_a_usage_error(line: bytes) -> None:
    with contextlib.suppress(UsageError):
        entry = read_entry(line)
        assert entry is None or isinstance(entry, Single | Run | Name)


@given(st.ip_addresses().map(str))
def test_addresses_are_read_as_the_library_reads_them(text: str) -> None:
    try:
        entry = read_entry(text.encode())
    except UsageError:
        return
    assert isinstance(entry, Single)
    plain = ip_address(text)
    mapped = plain.ipv4_mapped if isinstance(plain, IPv6Address) else None
    assert entry.address == (mapped or plain)


# The whole list


class Answers:
    """A resolver that knows a few names, and how many ask at once."""

    def __init__(self, **addresses: str) -> None:
        self._addresses = addresses
        self.now = self.most = 0
        self.asked: list[str] = []

    async def __call__(self, name: str, ip_version: int | None) -> Address | None:
        self.now += 1
        self.most = max(self.most, self.now)
        self.asked.append(name)
        await asyncio.sleep(0)
        self.now -= 1
        known = self._addresses.get(name)
        return None if known is None else ip_address(known)


async def pieces_of(content: bytes, size: int = 1 << 16) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def nobody(record: Refused) -> None:
    pytest.fail(f"no line was to be rejected: {record.trace.error}")


async def fed(
    content: bytes, sieve: Sieve | None = None, lookup: Answers | None = None, size: int = 1 << 16
) -> tuple[list[str], list[Trace]]:
    """(what is to be traced, records of what is not)."""
    records: list[Refused] = []
    listed = Destinations(
        pieces_of(content, size), TraceOptions(), sieve or Sieve(), records.append, lookup or Answers()
    )
    found = [destination async for group in listed for destination in each(group)]
    positions = [destination.position for destination in found] + [told.position for told in records]
    assert len(set(positions)) == len(positions)
    assert listed.is_exhausted
    return [f"{destination.name}={destination.address}" for destination in found], [told.trace for told in records]


async def test_a_list_with_a_bit_of_everything() -> None:
    content = (
        b"# head\n192.0.2.1\r\n\r\n192.0.2.0/30\nhost.example # c\nno.example\n1.2.3.4:5\n2001:db8::1\n192.0.2.2\n"
    )
    sieve = Sieve()
    found, records = await fed(content, sieve, Answers(**{"host.example": "198.51.100.1"}))
    assert found == [
        *("192.0.2.0=192.0.2.0", "192.0.2.1=192.0.2.1", "192.0.2.2=192.0.2.2", "192.0.2.3=192.0.2.3"),
        *("2001:db8::1=2001:db8::1", "host.example=198.51.100.1"),
    ]
    assert [(trace.destination, trace.stop_reason, trace.error) for trace in records] == [
        (
            "1.2.3.4:5",
            StopReason.BAD_DESTINATION,
            "line 7: '1.2.3.4:5': a destination has no port: write 1.2.3.4, and choose the port with -p",
        ),
        ("no.example", StopReason.LOCAL_ERROR, "line 6: no.example: no such name, or it has no address"),
    ]
    accounts = sieve.accounts
    assert (accounts.traced, accounts.duplicates, accounts.bad, accounts.unresolved) == (6, 2, 1, 1)
    assert accounts.total == 10


async def test_a_comment_may_be_as_long_as_it_likes() -> None:
    long = b"x" * 100_000
    found, records = await fed(b"# " + long + b"\n192.0.2.1 # " + long + b"\n" + long + b" # c\n192.0.2.2")
    assert found == ["192.0.2.1=192.0.2.1", "192.0.2.2=192.0.2.2"]
    assert [trace.error for trace in records] == [f"line 3: '{'x' * 60}...': longer than 4096 bytes"]


async def test_positions_are_those_of_the_list_whatever_is_left_out() -> None:
    content = b"192.0.2.1\na b\n\n192.0.2.0/30\nno.example\n192.0.2.1\n198.51.100.1\n"
    told: list[Refused] = []
    excluded = read_exclusions(b"192.0.2.2")
    listed = Destinations(pieces_of(content), TraceOptions(), Sieve(exclusions=excluded), told.append, Answers())
    found = {destination.name: destination.position async for group in listed for destination in each(group)}
    found |= {refused.trace.destination: refused.position for refused in told}
    assert found == {"a b": 1, "192.0.2.0": 2, "192.0.2.1": 3, "192.0.2.3": 5, "no.example": 6, "198.51.100.1": 8}


@pytest.mark.parametrize("size", [1, 5, 1 << 16])
async def test_what_is_asked_for_twice_is_traced_once(size: int) -> None:
    content = b"""192.0.2.1
        192.0.2.1
        ::ffff:192.0.2.1
        a.example
        A.Example.
        b.example
        [2001:db8::1]
        2001:db8:0::1
        fe80::1%lo
        fe80::1%eth0"""
    sieve = Sieve()
    answers = Answers(**{"a.example": "198.51.100.1", "b.example": "192.0.2.1"})
    found, records = await fed(content, sieve, answers, size)
    assert sorted(found) == [
        *("192.0.2.1=192.0.2.1", "[2001:db8::1]=2001:db8::1", "a.example=198.51.100.1"),
        *("fe80::1%eth0=fe80::1%eth0", "fe80::1%lo=fe80::1%lo"),
    ]
    assert (sieve.accounts.duplicates, sieve.accounts.total, records) == (5, 10, [])
    assert answers.asked == ["a.example", "b.example"]


async def test_names_are_asked_for_64_at_once() -> None:
    content = "".join(f"h{number}.example\n" for number in range(500)).encode()
    answers = Answers(**{f"h{number}.example": f"192.0.{number // 256}.{number % 256}" for number in range(500)})
    found, records = await fed(content, lookup=answers)
    assert (len(found), records, answers.most) == (500, [], LOOKUPS)


async def test_a_name_that_hangs_holds_up_nothing_but_itself() -> None:
    async def hang(name: str, ip_version: int | None) -> Address | None:
        await asyncio.get_running_loop().create_future()
        return None

    content = b"slow.example\n192.0.2.0/31\nslower.example\n192.0.2.9"
    listed = Destinations(pieces_of(content, 13), TraceOptions(), Sieve(), nobody, hang)
    found = aiter(listed)
    assert [(await anext(found)).names for _ in range(2)] == [["192.0.2.0", "192.0.2.1"], ["192.0.2.9"]]
    listed.stop()
    assert await anext(found, None) is None


async def test_a_list_that_pauses_holds_up_no_name_that_it_has_given() -> None:
    goes_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"host.example\nno.example\n"
        await goes_on.wait()
        yield b"192.0.2.9\n"

    answers = Answers(**{"host.example": "198.51.100.1"})
    listed = Destinations(slow(), TraceOptions(), Sieve(), lambda refused: goes_on.set(), answers)
    found = aiter(listed)
    async with asyncio.timeout(5):
        assert [(await anext(found)).names for _ in range(2)] == [["host.example"], ["192.0.2.9"]]
    assert await anext(found, None) is None
    assert listed.is_exhausted


async def test_stop_ends_it_while_it_waits_for_the_list() -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b"192.0.2.1\n"
        await asyncio.get_running_loop().create_future()

    listed = Destinations(never(), TraceOptions(), Sieve(), nobody)
    found: list[str] = []
    async for group in listed:
        found += group.names
        asyncio.get_running_loop().call_soon(listed.stop)
    assert found == ["192.0.2.1"]
    assert not listed.is_exhausted


LINES = st.sampled_from(
    [
        *(b"192.0.2.1", b"192.0.2.0/29", b"192.0.2.4/30", b"2001:db8::/125", b"2001:db8::3", b"a.example"),
        *(b"b.example", b"no.example", b"# nothing", b"", b"junk junk", b"1.2.3.4:5", b"192.0.2.9/0", b"\xff"),
    ]
)


@given(st.lists(LINES, max_size=30), st.integers(1, 40), st.integers(1, 3))
def test_every_line_is_accounted_for_in_exactly_one_shard(lines: list[bytes], size: int, shards: int) -> None:
    content = b"\n".join(lines)
    wanted, complaints = asyncio.run(_of_shard(content, Shard(), size))
    parts = [asyncio.run(_of_shard(content, Shard(index + 1, shards), size)) for index in range(shards)]
    assert sorted(name for found, _ in parts for name in found) == sorted(wanted)
    assert sorted(error for _, records in parts for error in records) == sorted(complaints)


async def _of_shard(content: bytes, shard: Shard, size: int) -> tuple[list[str], list[str]]:
    sieve = Sieve(shard=shard)
    found, records = await fed(
        content, sieve, Answers(**{"a.example": "198.51.100.1", "b.example": "198.51.100.2"}), size
    )
    nothing = {b"", b"# nothing"}
    sizes = {b"192.0.2.0/29": 8, b"192.0.2.4/30": 4, b"2001:db8::/125": 8}
    assert sieve.accounts.total == sum(sizes.get(line, 1) for line in content.split(b"\n") if line not in nothing)
    assert min(astuple(sieve.accounts)) >= 0
    assert (len(found), len(records)) == (
        sieve.accounts.traced,
        sieve.accounts.bad + sieve.accounts.unresolved,
    )
    return found, [f"{trace.error}" for trace in records]


UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_no_bytes_make_it_raise(content: bytes, size: int) -> None:
    with contextlib.suppress(UsageError) if content[:2] in UTF_16 else contextlib.nullcontext():
        asyncio.run(fed(content, size=size))


async def test_a_prefix_is_expanded_as_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    def counted(version: int, first: int, count: int) -> object:
        nonlocal made
        made += count
        return range_keys(version, first, count)

    monkeypatch.setattr(feeding, "range_keys", counted)
    listed = aiter(Destinations(pieces_of(b"10.0.0.0/8"), TraceOptions(), Sieve(), nobody))
    group = await anext(listed)
    assert [str(destination.address) for destination in each(group[:3])] == ["10.0.0.0", "10.0.0.1", "10.0.0.2"]
    assert made <= feeding.CHUNK < MAX_PREFIX_ADDRESSES


# Exclusions


def test_excluded_prefixes_are_never_fed() -> None:
    exclusions = read_exclusions(b"192.0.2.4/30 # four\n192.0.2.130\n\n2001:db8::/127\n198.51.100.77/24\n")
    sieve = Sieve(exclusions=exclusions)
    content = b"192.0.2.0/24\n2001:db8::/126\n2001:db8::1\na.example\n198.51.100.1\n"
    found, _ = asyncio.run(fed(content, sieve, Answers(**{"a.example": "192.0.2.130"})))
    assert len(found) == 251 + 2
    assert sieve.accounts.excluded == 5 + 2 + 1 + 1 + 1
    assert not {"192.0.2.4=192.0.2.4", "192.0.2.130=192.0.2.130"} & set(found)


@pytest.mark.parametrize("line", [b"host.example", b"192.0.2.0/33", b"192.0.2.0-192.0.2.9", b"\xff", b"a b"])
def test_an_exclusion_that_is_none_is_refused_with_its_line(line: bytes) -> None:
    with pytest.raises(UsageError, match="line 3: "):
        read_exclusions(b"# head\n192.0.2.0/24\n" + line + b"\n")


PREFIXES = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(8, 32)), st.tuples(st.ip_addresses(v=6), st.integers(8, 128))
).map(lambda pair: ip_network(f"{pair[0]}/{pair[1]}", strict=False))


@given(st.lists(PREFIXES, max_size=8), st.lists(st.ip_addresses(), max_size=8))
def test_an_address_is_excluded_if_a_prefix_holds_it(
    prefixes: list[IPv4Network | IPv6Network], addresses: list[Address]
) -> None:
    ends: list[Address] = [prefix[index] for prefix in prefixes for index in (0, -1)]
    exclusions = Exclusions(prefixes)
    for version in (4, 6):
        asked = [address for address in (*addresses, *ends) if address.version == version]
        kept = Sieve(exclusions=exclusions).addresses(version, address_keys(version, asked))
        expected = {address for address in asked if not any(address in prefix for prefix in prefixes)}
        assert {asked[place] for place in kept.tolist()} == expected


# Where it comes from


def test_what_a_look_through_finds(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"192.0.2.1\n#\n\n  a.example # x\n10.0.0.0/24\n2001:db8::/120 # c\n0.0.0.0/0\nlast")
    source = Source(str(path))
    assert source.look_through().destinations == 3 + 256 + 256 + 1
    assert asyncio.run(_read(source)) == path.read_bytes()
    source.close()


async def _read(source: Source) -> bytes:
    return b"".join([piece async for piece in source.pieces()])


@given(st.lists(st.sampled_from([b"192.0.2.1", b"", b"# c", b"192.0.2.0/30", b"x" * 70_000]), max_size=6))
def test_the_count_does_not_depend_on_how_it_is_read(lines: list[bytes]) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"\n".join(lines))
        file.flush()
        source = Source(file.name)
        sizes = {b"": 0, b"# c": 0, b"192.0.2.0/30": 4}
        # The last line may lack what shows that its prefix has ended.
        wanted = sum(sizes.get(line, 1) for line in lines)
        assert wanted - source.look_through().destinations in ((0, 3) if lines[-1:] == [b"192.0.2.0/30"] else (0,))
        source.close()
