"""One line of a destination list: a name, addresses, nothing, or a complaint.

    192.0.2.1              an address; IPv6 too, in brackets or not
    192.0.2.0/24  # LAN    every address of a prefix, the first and the last one included
    host.example.org       a name
    # a comment, also behind a destination; blank lines are nothing

The first and the last address of an IPv4 prefix are probed like the others: whether they are a network's own and its
broadcast address is decided by how its owner cut it, not by how the list does. This file knows no file, no clock and
no network.
"""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv6Network, ip_network
from typing import TYPE_CHECKING, Final, NamedTuple

from allhops.errors import UsageError
from allhops.net.resolve import literal

if TYPE_CHECKING:
    from ipaddress import IPv4Network

    from allhops.model import Address

MAX_PREFIX_ADDRESSES: Final = 1 << 24
"""A larger prefix in a list is a mistake more often than a wish."""
_MAX_TEXT: Final = 255
"""Characters; the longest name with its final dot is shorter, and so is every address."""
_SHOWN = 60
"""Characters of a line that a complaint repeats."""
_WITH_PORT = re.compile(r"(\[[^\]]*\]|[^:]*):\d+")
_NAME = re.compile(r"[\w.-]+")
_PREFIX_LENGTH = re.compile(r"[0-9]{1,3}", re.ASCII)
_MAPPED_BITS = 96


class Single(NamedTuple):
    """One address."""

    text: str
    address: Address


class Run(NamedTuple):
    """`size` addresses from the number `first` on."""

    version: int
    first: int
    size: int


class Name(NamedTuple):
    """A name to resolve."""

    text: str


Entry = Single | Run | Name


def read_entry(line: bytes, ip_version: int | None = None) -> Entry | None:
    """What a line asks for, None for nothing.

    Raises: UsageError with the reason when it is no destination, ResolveError when it is not of the asked IP version.
    """
    text = _text_of(line)
    if not text:
        return None
    try:
        # Most lines of long lists, ten times as fast as below; as strict about leading zeros and short forms.
        number = socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):
        return _read_slowly(text, ip_version)
    address = IPv4Address(number)
    literal(address, ip_version)
    return Single(text, address)


def shown(line: bytes) -> str:
    """The beginning of a line, for a complaint or a record."""
    text = line[: 4 * _SHOWN].decode("utf-8", "replace").lstrip("\ufeff").strip()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _text_of(line: bytes) -> str:
    content = line.partition(b"#")[0].strip()
    if b"\0" in content:
        raise UsageError("a NUL byte is no part of a destination")
    try:
        return content.decode().strip()
    except UnicodeDecodeError:
        raise UsageError("this is no UTF-8") from None


def _read_slowly(text: str, ip_version: int | None) -> Entry:
    if len(text) > _MAX_TEXT:
        raise UsageError(f"{len(text)} characters are more than a destination has")
    if len(text.split(None, 1)) > 1:
        raise UsageError("one destination a line, and nothing behind it but a # comment")
    if "/" in text:
        return _run_of(text, ip_version)
    if (with_port := _WITH_PORT.fullmatch(text)) is not None:
        raise UsageError(f"a destination has no port: write {with_port[1]}, and choose the port with -p")
    address = literal(text, ip_version)
    if address is not None:
        return Single(text, address)
    if not _NAME.fullmatch(text):
        raise UsageError("neither a name nor an address")
    return Name(text)


def _run_of(text: str, ip_version: int | None) -> Run:
    network = read_prefix(text)
    if network.num_addresses > MAX_PREFIX_ADDRESSES:
        count = network.num_addresses
        raise UsageError(
            f"this prefix has {count:,} addresses, and one line may ask for {MAX_PREFIX_ADDRESSES:,}: "
            "split it, or pick addresses from it"
        )
    for end in (network[0], network[-1]):
        literal(end, ip_version)  # what nobody has is cut where no prefix crosses it, but for :: itself
    return Run(network.version, int(network[0]), network.num_addresses)


def read_prefix(text: str, *, strict: bool = True) -> IPv4Network | IPv6Network:
    """The prefix that a text like 192.0.2.0/24 stands for; an address alone is a prefix of one.

    `strict` refuses bits behind the prefix. Raises: UsageError.
    """
    address, slash, length = text.partition("/")
    if slash and not _PREFIX_LENGTH.fullmatch(length):
        raise UsageError(f"{text!r} is no prefix: write it like 192.0.2.0/24 or 2001:db8::/120")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise UsageError(f"{text!r} is no prefix: write it like 192.0.2.0/24 or 2001:db8::/120") from None
    if strict and str(network[0]) != _normal(address):
        raise UsageError(f"{text!r} has bits behind its prefix: write {network}, or the address alone")
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network[0].ipv4_mapped
        if mapped is not None:
            return ip_network(f"{mapped}/{network.prefixlen - _MAPPED_BITS}")
    return network


def _normal(address: str) -> str:
    return str(ip_network(address)[0])
