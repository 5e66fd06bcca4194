from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.errors import ResolveError, UsageError
from allhops.net.resolve import literal, read_address, resolve

if TYPE_CHECKING:
    from allhops.model import Address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("64:ff9b::c000:201", "64:ff9b::c000:201"),
        ("fe80::1%lo", "fe80::1%lo"),
    ],
)
def test_literals(text: str, address: str) -> None:
    assert read_address(text) == ip_address(address)


@pytest.mark.parametrize(
    "name", ["example.org", "example.org.", "localhost", "a1", "1a", "xn--bcher-kva.example", "-x"]
)
def test_names_are_left_to_the_resolver(name: str) -> None:
    assert read_address(name) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "a b", "a\0b", "a\n", "example.org:80", "192.0.2.0/24", "1.2.3.4:80", "::1::2"),
        *("1", "1.2.3", "0x7f.1", "010.1.1.1", "127.1", "1.2.3.4.5", "256.1.1.1", "0x7f000001"),
    ],
)
def test_what_is_neither_name_nor_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        read_address(text)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("0.0.0.0", "no host"),
        ("0.1.2.3", "no host"),
        ("::", "no host"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("240.0.0.1", "reserved"),
        ("fe80::1", "interface"),
        ("::ffff:0.0.0.0", "no host"),
    ],
)
async def test_nobodys_addresses_are_refused_with_the_reason(address: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        await resolve(address, None)
    with pytest.raises(UsageError, match=reason):
        await resolve(ip_address(address), None)


@pytest.mark.parametrize("value", [None, 5, float("nan"), b"192.0.2.1", ("192.0.2.1",)])
def test_what_is_no_text_and_no_address_is_refused(value: Any) -> None:
    """Such as the gaps of a column of names, which would be a host named None."""
    with pytest.raises(UsageError, match="neither a name nor an address"):
        literal(value, None)


async def test_the_family_that_was_asked_for() -> None:
    async def lookup(name: str, ip_version: int | None) -> Address | None:
        return {4: IPv4Address("192.0.2.9"), 6: None, None: IPv6Address("2001:db8::9")}[ip_version]

    assert await resolve("example.org", None, lookup) == IPv6Address("2001:db8::9")
    assert await resolve("example.org", 4, lookup) == IPv4Address("192.0.2.9")
    with pytest.raises(ResolveError, match="IPv6"):
        await resolve("example.org", 6, lookup)
    with pytest.raises(ResolveError, match="drop the -6"):
        await resolve("192.0.2.1", 6, lookup)


async def test_the_systems_resolver_knows_localhost() -> None:
    assert (await resolve("localhost", 4)).is_loopback


@pytest.mark.parametrize("name", ["a" * 300, "a" * 64 + ".example", "\udcff.example", "..", "💥" * 80])
async def test_impossible_names_are_resolve_errors(name: str) -> None:
    with pytest.raises((ResolveError, UsageError)) as refused:
        await resolve(name, None)
    assert "codec" not in str(refused.value)


@given(st.text(max_size=40))
def test_any_text_is_an_address_a_name_or_a_usage_error(text: str) -> None:
    try:
        address = read_address(text)
    except UsageError:
        return
    assert address is None or address.version in (4, 6)
