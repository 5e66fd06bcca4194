"""Which source address the kernel would use, and a source port that nobody else has.

One connected UDP socket does both: connecting looks up the route and chooses the address, and while it is
open the port is taken. Nothing is sent on it.
"""

from __future__ import annotations

import errno
import secrets
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from allhops.errors import AllhopsError, CapacityError, SendError, UsageError, explain_errno

if TYPE_CHECKING:
    from allhops.model import Address

LOWEST_PORT = 32_768
"""Random source ports are drawn from here up to 65,535: below it, some firewalls know the numbers by name."""
PORT_TRIES = 64

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_ANY = {4: "0.0.0.0", 6: "::"}  # only until connect chooses the address
_SO_BINDTODEVICE = getattr(socket, "SO_BINDTODEVICE", 25)


def socket_address(address: Address, port: int = 0) -> tuple[str, int] | tuple[str, int, int, int]:
    """What `socket` calls want for an address; a scope such as that of fe80::1%eth0 is looked up.

    Raises: UsageError for a scope that is no interface.
    """
    if isinstance(address, IPv4Address):
        return str(address), port
    scope = 0
    if address.scope_id is not None:
        try:
            scope = int(address.scope_id) if address.scope_id.isdigit() else socket.if_nametoindex(address.scope_id)
        except OSError:
            raise UsageError(f"{address}: no interface is named {address.scope_id!r}") from None
    return str(IPv6Address(int(address))), port, 0, scope


def bind_to_interface(sock: socket.socket, interface: str | None) -> None:
    """Send by this interface only; None leaves the choice to the routes.

    Raises: UsageError for a name that is no interface.
    """
    if interface is None:
        return
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, interface.encode() + b"\0")
    except (OSError, ValueError) as error:
        raise UsageError(f"no interface is named {interface!r}") from error


def hold_port(
    destination: Address, *, destination_port: int, source: str | None, source_port: int | None, interface: str | None
) -> socket.socket:
    """A UDP socket, bound and connected: its name is the source address and port, ours while it is open.

    Raises: UsageError (an unusable source, interface or broadcast destination), SendError (no route),
    CapacityError (no port or no file descriptor left).
    """
    try:
        sock = socket.socket(_FAMILIES[destination.version], socket.SOCK_DGRAM)
    except OSError as error:
        raise _capacity_or_send_error(error) from error
    try:
        bind_to_interface(sock, interface)
        _bind(sock, destination.version, source, source_port)
        _connect(sock, destination, destination_port)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(sock: socket.socket, version: int, source: str | None, source_port: int | None) -> None:
    host = _source_host(source, version)
    for _ in range(PORT_TRIES):
        port = source_port or LOWEST_PORT + secrets.randbelow(65_536 - LOWEST_PORT)
        try:
            sock.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise UsageError(f"{source} is not an address of this machine") from error
            if error.errno != errno.EADDRINUSE:
                raise _capacity_or_send_error(error) from error
            if source_port is not None:
                raise UsageError(f"source port {source_port} is in use: choose another, or none") from error
        else:
            return
    raise CapacityError(f"no free source port after {PORT_TRIES} tries")


def _source_host(source: str | None, version: int) -> str:
    if source is None:
        return _ANY[version]
    try:
        address = ip_address(source)
    except ValueError:
        raise UsageError(f"source must be an IP address of this machine, not {source!r}") from None
    if address.version != version:
        raise UsageError(f"source {source} is IPv{address.version} but the destination is IPv{version}")
    return source


def _connect(sock: socket.socket, destination: Address, port: int) -> None:
    where = socket_address(destination, port)
    try:
        sock.connect(where)
    except OSError as error:
        if error.errno == errno.EACCES and _is_broadcast(sock, where):
            raise UsageError(f"{destination} is a broadcast address: trace one of its hosts") from error
        raise _capacity_or_send_error(error, f"{destination}: ") from error


def _is_broadcast(sock: socket.socket, where: tuple[object, ...]) -> bool:
    """EACCES is said of broadcast addresses and of prohibit routes: only the first goes away with SO_BROADCAST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    return sock.connect_ex(where) == 0


def _capacity_or_send_error(error: OSError, prefix: str = "") -> AllhopsError:
    code = error.errno or 0
    if code in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
        return CapacityError(f"{prefix}out of file descriptors or memory: raise `ulimit -n` ({error.strerror})")
    if code == errno.EAFNOSUPPORT:
        return SendError(code, f"{prefix}this machine has no such IP version")
    return SendError(code, f"{prefix}{explain_errno(code)}")
