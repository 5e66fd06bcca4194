"""Which source address the kernel would use, and a flow that nobody else has: a source port, or an ICMP identifier.

One connected UDP socket does both for UDP: connecting looks up the route and chooses the address, and while it is open
the port is taken. For TCP a bound socket that does not listen takes the port; the kernel then answers a SYN-ACK with
RST by itself, so that no half-open connection is left behind. An ICMP identifier is taken by a ping socket where
net.ipv4.ping_group_range lets us have one, and is merely random where not. Nothing is sent on any of them.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from allhops.errors import AllhopsError, CapacityError, PrivilegeError, SendError, UsageError, explain_errno
from allhops.model import Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from allhops.model import Address
    from allhops.options import TraceOptions

DISCARD_PORT = 9
"""Where a socket that only looks up a route is connected to, for a protocol without ports."""
LOWEST_PORT = 32_768
"""Random source ports are drawn from here up to 65,535: below it, some firewalls know the numbers by name."""
PORT_TRIES = 64
_PING_PROTOCOLS = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_LONG = 16
_VERSIONS = {4: 4, _LONG: 6}
"""IP version by bytes of a packed address."""
OUT_OF_SOCKETS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""What opening one says when there are too many of them, or no memory for it."""
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

    Raises: UsageError (an unusable source, interface or broadcast destination), PrivilegeError (a source port that is
    kept for root), SendError (no route), CapacityError (no port or no file descriptor left).
    """
    sock = _open(destination.version, socket.SOCK_DGRAM)
    try:
        bind_to_interface(sock, interface)
        _bind(sock, (_source_host(source, destination.version),), source_port)
        _connect(sock, destination, destination_port)
    except BaseException:
        sock.close()
        raise
    return sock


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A flow of ours until `close`: packed source address, and source port or ICMP identifier."""

    source: bytes
    source_port: int
    sock: socket.socket | None
    """What keeps others off it; None for an identifier that is merely random."""

    def close(self) -> None:
        """Give it back."""
        if self.sock is not None:
            self.sock.close()


def hold_flow(destination: Address, options: TraceOptions, taken: Container[int] = ()) -> Held:
    """A source address and a port or identifier for probes to a destination; `taken` are identifiers we have already.

    Raises: UsageError, PrivilegeError, SendError, CapacityError, as `hold_port`.
    """
    return _HOLDERS[options.protocol](destination, options, taken)


def hold_ping(destination: Address, options: TraceOptions) -> Held:
    """A ping socket, bound and connected: its "port" is the identifier of the echo requests that it sends.

    Raises: PrivilegeError where net.ipv4.ping_group_range lets no group of ours have one; else as `hold_port`.
    """
    try:
        sock = socket.socket(_FAMILIES[destination.version], socket.SOCK_DGRAM, _PING_PROTOCOLS[destination.version])
    except PermissionError as error:
        raise PrivilegeError("ping sockets are not allowed to this group") from error
    except OSError as error:
        raise capacity_or_send_error(error) from error
    try:
        bind_to_interface(sock, options.interface)
        _bind(sock, (_source_host(options.source, destination.version),), options.source_port, lowest=1)
        _connect(sock, destination, DISCARD_PORT)
    except BaseException:
        sock.close()
        raise
    return Held(source=_packed(sock), source_port=sock.getsockname()[1], sock=sock)


def hold_source_flow(source: bytes, interface: int, options: TraceOptions, taken: Container[int] = ()) -> Held:
    """The same for probes from one source address to whatever destination; nothing is connected.

    `source` is packed; `interface` is an index, which a link-local source needs. Raises: UsageError, CapacityError.
    """
    host = socket.inet_ntop(_FAMILIES[_VERSIONS[len(source)]], source)
    is_scoped = len(source) == _LONG and IPv6Address(source).is_link_local
    return _TAKERS[options.protocol](source, (host, 0, interface) if is_scoped else (host,), options, taken)


def source_towards(destination: Address, options: TraceOptions) -> tuple[bytes, tuple[object, ...]]:
    """(packed source address, where to bind for it: host and maybe flow and scope), as connecting chooses them.

    Raises: UsageError, SendError, CapacityError, as `hold_port`.
    """
    with _route(destination, options, None) as route:
        host, _, *rest = route.getsockname()
        return _packed(route), (host, *rest)


def check_source(options: TraceOptions) -> Address | None:
    """The source address that was asked for, if one was, and it is this machine's.

    Raises: UsageError for a source address or an interface that there is not, CapacityError.
    """
    source = None if options.source is None else _source_address(options.source)
    with _open(source.version if source else 4, socket.SOCK_DGRAM) as sock:
        bind_to_interface(sock, options.interface)
        if options.source is not None:
            _bind(sock, (options.source,), None)
    return source


def _hold_udp(destination: Address, options: TraceOptions, taken: Container[int]) -> Held:
    sock = _route(destination, options, options.source_port)
    name = sock.getsockname()
    return Held(source=_packed(sock), source_port=name[1], sock=sock)


def _hold_tcp(destination: Address, options: TraceOptions, taken: Container[int]) -> Held:
    return _take_tcp(*source_towards(destination, options), options, taken)


def _hold_identifier(destination: Address, options: TraceOptions, taken: Container[int]) -> Held:
    return _take_identifier(*source_towards(destination, options), options, taken)


_HOLDERS: dict[Protocol, Callable[[Address, TraceOptions, Container[int]], Held]] = {
    Protocol.UDP: _hold_udp,
    Protocol.TCP: _hold_tcp,
    Protocol.ICMP: _hold_identifier,
}


def _take_udp(source: bytes, where: tuple[object, ...], options: TraceOptions, taken: Container[int]) -> Held:
    return _take_port(source, where, options, socket.SOCK_DGRAM)


def _take_tcp(source: bytes, where: tuple[object, ...], options: TraceOptions, taken: Container[int]) -> Held:
    return _take_port(source, where, options, socket.SOCK_STREAM)


def _take_port(source: bytes, where: tuple[object, ...], options: TraceOptions, kind: socket.SocketKind) -> Held:
    sock = _open(_VERSIONS[len(source)], kind)
    try:
        _bind(sock, where, options.source_port)
    except BaseException:
        sock.close()
        raise
    return Held(source=source, source_port=sock.getsockname()[1], sock=sock)


def _take_identifier(source: bytes, where: tuple[object, ...], options: TraceOptions, taken: Container[int]) -> Held:
    if options.source_port in taken:
        raise UsageError(f"ICMP identifier {options.source_port} is in use: choose another, or none")
    sock = _open_ping(_VERSIONS[len(source)])
    if sock is not None:
        try:
            _bind(sock, where, options.source_port, lowest=1)
        except BaseException:
            sock.close()
            raise
        return Held(source=source, source_port=sock.getsockname()[1], sock=sock)
    identifier = options.source_port or next(filter(lambda one: one not in taken, _random_ports(1)), None)
    if identifier is None:
        raise CapacityError(f"no free ICMP identifier after {PORT_TRIES} tries")
    return Held(source=source, source_port=identifier, sock=None)


_TAKERS: dict[Protocol, Callable[[bytes, tuple[object, ...], TraceOptions, Container[int]], Held]] = {
    Protocol.UDP: _take_udp,
    Protocol.TCP: _take_tcp,
    Protocol.ICMP: _take_identifier,
}


def _route(destination: Address, options: TraceOptions, source_port: int | None) -> socket.socket:
    """A UDP socket connected the way the probes will go."""
    return hold_port(
        destination,
        destination_port=options.destination_port or DISCARD_PORT,
        source=options.source,
        source_port=source_port,
        interface=options.interface,
    )


def _packed(sock: socket.socket) -> bytes:
    return socket.inet_pton(sock.family, sock.getsockname()[0].partition("%")[0])


def _open(version: int, kind: socket.SocketKind) -> socket.socket:
    try:
        return socket.socket(_FAMILIES[version], kind)
    except OSError as error:
        raise capacity_or_send_error(error) from error


def _open_ping(version: int) -> socket.socket | None:
    """A ping socket; None where net.ipv4.ping_group_range does not let this group have one."""
    try:
        return socket.socket(_FAMILIES[version], socket.SOCK_DGRAM, _PING_PROTOCOLS[version])
    except OSError:
        return None


def _random_ports(lowest: int) -> list[int]:
    """Ports to try in turn; a remainder favours none of 65,536 numbers by more than 1 in 2**48."""
    places = 65_536 - lowest
    return [lowest + int.from_bytes(os.urandom(8)) % places for _ in range(PORT_TRIES)]


def _bind(sock: socket.socket, where: tuple[object, ...], source_port: int | None, lowest: int = LOWEST_PORT) -> None:
    """Bind to `source_port`, or to the first free one of some random ones; `where` is host and maybe flow and scope."""
    host, *rest = where
    for port in [source_port] if source_port else _random_ports(lowest):
        try:
            sock.bind((host, port, *rest))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise UsageError(f"{host} is not an address of this machine") from error
            if error.errno == errno.EACCES and source_port is not None:
                raise PrivilegeError(
                    f"source port {source_port} is kept for root (net.ipv4.ip_unprivileged_port_start): "
                    "choose a larger one, or none"
                ) from error
            if error.errno != errno.EADDRINUSE:
                raise capacity_or_send_error(error) from error
            if source_port is not None:
                raise UsageError(f"source port {source_port} is in use: choose another, or none") from error
        else:
            return
    raise CapacityError(f"no free source port after {PORT_TRIES} tries")


def _source_host(source: str | None, version: int) -> str:
    if source is None:
        return _ANY[version]
    address = _source_address(source)
    if address.version != version:
        raise UsageError(f"source {source} is IPv{address.version} but the destination is IPv{version}")
    return source


def _source_address(source: str) -> Address:
    try:
        return ip_address(source)
    except ValueError:
        raise UsageError(f"source must be an IP address of this machine, not {source!r}") from None


def _connect(sock: socket.socket, destination: Address, port: int) -> None:
    where = socket_address(destination, port)
    try:
        sock.connect(where)
    except OSError as error:
        if error.errno == errno.EACCES and _is_broadcast(sock, where):
            raise UsageError(f"{destination} is a broadcast address: trace one of its hosts") from error
        raise capacity_or_send_error(error, f"{destination}: ") from error


def _is_broadcast(sock: socket.socket, where: tuple[object, ...]) -> bool:
    """EACCES is said of broadcast addresses and of prohibit routes: only the first goes away with SO_BROADCAST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    return sock.connect_ex(where) == 0


def capacity_or_send_error(error: OSError, prefix: str = "") -> AllhopsError:
    """What it means that a socket could not be opened, bound or connected."""
    code = error.errno or 0
    if code in OUT_OF_SOCKETS:
        return CapacityError(f"{prefix}out of file descriptors or memory: raise `ulimit -n` ({error.strerror})")
    if code == errno.EAFNOSUPPORT:
        return SendError(code, f"{prefix}this machine has no such IP version")
    return SendError(code, f"{prefix}{explain_errno(code)}")
