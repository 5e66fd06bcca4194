"""What the user wrote to an address that can be traced.

Literals are read strictly: no octal, hexadecimal or short forms, which other tools take for surprising addresses.
Names go to the system's resolver, in a thread of their own.
"""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from allhops.errors import ResolveError, UsageError
from allhops.net.blocking import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from allhops.model import Address

_FAMILIES = {None: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}
_ENDS_IN_A_NUMBER = re.compile(r"(^|\.)(\d+|0[xX][0-9a-fA-F]*)\.?$")
"""A name whose last label is a number is a misspelt address: no top-level domain is one."""
_THIS_NETWORK = 0
_CLASS_E = 240
ORDINARY = int(IPv4Address("1.0.0.0")), int(IPv4Address("223.255.255.255"))
"""The IPv4 addresses that nothing below refuses: a list of a million is read one by one."""
_NO_SUCH_ADDRESS = {socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY}
_BROADCAST = IPv4Address("255.255.255.255")


async def resolve(
    destination: str | Address,
    ip_version: int | None,
    lookup: Callable[[str, int | None], Awaitable[Address | None]] | None = None,
) -> Address:
    """The first address of a destination, of the asked IP version if one was asked for.

    Raises: UsageError for what can be no destination, ResolveError for a name without such an address.
    """
    address = literal(destination, ip_version)
    if address is not None:
        return address
    address = await (lookup or _ask_system)(str(destination), ip_version)
    if address is None:
        raise ResolveError(f"{destination}: no such name{_of(ip_version)}")
    return _traceable(_unmapped(address), str(destination))


def literal(destination: str | Address, ip_version: int | None) -> Address | None:
    """The address that needs no resolver; None for a name.

    Raises: UsageError for what can be no destination, ResolveError for an address that is not of the asked IP version.
    """
    if isinstance(destination, str):
        address = read_address(destination)
    elif isinstance(destination, IPv4Address | IPv6Address):
        address = _unmapped(destination)
    else:  # whoever reads a table gets None, nan or bytes as well
        raise UsageError(f"{destination!r} is neither a name nor an address")
    if address is None:
        return None
    if ip_version not in (None, address.version):
        raise ResolveError(f"{destination} is an IPv{address.version} address: drop the -{ip_version}")
    return _traceable(address, destination)


def read_address(text: str) -> Address | None:
    """The address that a literal stands for; None when it is a name.

    >>> read_address("::ffff:192.0.2.1")
    IPv4Address('192.0.2.1')
    >>> read_address("[2001:db8::1]")
    IPv6Address('2001:db8::1')

    Raises: UsageError for neither a literal nor a possible name.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ip_address(bare)
    except ValueError:
        if not text or "\0" in text or any(character.isspace() for character in text):
            raise UsageError(f"{text!r} is neither a name nor an address") from None
        if _ENDS_IN_A_NUMBER.search(text) or ":" in text or "/" in text:
            raise UsageError(
                f"{text!r} is not an address: write four decimal numbers without leading zeros, or an IPv6 address"
            ) from None
        return None
    return _unmapped(address)


def _unmapped(address: Address) -> Address:
    """The IPv4 address inside ::ffff:0:0/96, which is how some programs write it; any other as it is."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _traceable(address: Address, written: str | Address) -> Address:
    """Refuse what is nobody's address, with the reason."""
    if isinstance(address, IPv4Address) and ORDINARY[0] <= int(address) <= ORDINARY[1]:
        return address
    reason = None
    if address.is_multicast:
        reason = "a multicast group has no single path"
    elif address == _BROADCAST:
        reason = "a broadcast has no single path"
    elif address.is_unspecified or (address.version == 4 and address.packed[0] == _THIS_NETWORK):
        reason = "this is no host's address"
    elif address.version == 4 and address.packed[0] >= _CLASS_E:
        reason = "this range is reserved"
    elif isinstance(address, IPv6Address) and address.is_link_local and address.scope_id is None:
        reason = "a link-local address needs its interface, as in fe80::1%eth0"
    if reason is not None:
        raise UsageError(f"{written} cannot be traced: {reason}")
    return address


async def _ask_system(name: str, ip_version: int | None) -> Address | None:
    try:
        answers = await in_daemon_thread(socket.getaddrinfo, name, None, _FAMILIES[ip_version], socket.SOCK_DGRAM)
    except socket.gaierror as error:
        if error.errno in _NO_SUCH_ADDRESS:
            return None
        raise ResolveError(f"{name}: the name server did not answer ({error.strerror}); try again later") from error
    except UnicodeError as error:  # Python's IDNA codec: RFC 1035 section 2.3.4 bounds a label, and none is empty
        raise ResolveError(
            f"{name}: not a possible host name: a part of it is empty, too long or no text for a name"
        ) from error
    except OSError as error:
        raise ResolveError(f"{name}: not a possible host name ({error.strerror or error})") from error
    for _, _, _, _, where in answers:
        return ip_address(str(where[0]))
    return None


def _of(ip_version: int | None) -> str:
    return f" with an IPv{ip_version} address" if ip_version else ", or it has no address"
