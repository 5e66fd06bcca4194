"""A scenario is an internet written down: devices, the paths over them, the vantage point that looks.

The values here are what a scenario file says, checked and with their units;
`load_scenario` reads one from TOML (docs/lab.md lists every key), `generate`
makes one up from a seed, `Internet` plays it. This file knows no packet, no
clock and no socket.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

from allhops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Network = IPv4Network | IPv6Network

SCHEMA = "allhops.scenario/1"


class Balancing(StrEnum):
    """What decides over the branch of a diamond."""

    FLOW = "flow"
    """A hash of what routers hash: one flow keeps to one branch."""
    PACKET = "packet"
    """Chance, anew for every packet."""


class UdpAnswer(StrEnum):
    """What a destination does with a UDP probe."""

    UNREACHABLE = "unreachable"
    REPLY = "reply"
    SILENT = "silent"


class IcmpAnswer(StrEnum):
    """What a destination does with an echo request."""

    REPLY = "reply"
    SILENT = "silent"


class TcpAnswer(StrEnum):
    """What a destination does with a TCP SYN."""

    OPEN = "open"
    CLOSED = "closed"
    SILENT = "silent"


class Stage(StrEnum):
    """Where a router refuses to pass a packet on: before or after it looks at the TTL."""

    INGRESS = "ingress"
    EGRESS = "egress"


class ExtensionForm(StrEnum):
    """How extensions follow the quoted packet."""

    RFC4884 = "rfc4884"
    """The length attribute says where the quoted packet, padded, ends."""
    LEGACY = "legacy"
    """Always at byte 128, length attribute zero, as before RFC 4884 (its section 5)."""


class NatRestores(StrEnum):
    """What a NAT sets right again inside the ICMP errors that it lets back in."""

    NOTHING = "nothing"
    ADDRESSES = "addresses"
    """Address and port, but not the transport checksum that covers them."""
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A token bucket: `burst` tokens at most, `per_second` new ones each second."""

    burst: int
    per_second: float


LINUX_LIMIT = Limit(burst=6, per_second=1.0)
"""Linux's icmp_ratelimit=1000 (ms) with XRLIM_BURST_FACTOR 6, per peer. Source: net/ipv4/icmp.c."""
LINUX_LIMIT_IPV6 = Limit(burst=6, per_second=10.0)
"""Linux's net.ipv6.icmp.ratelimit=100 (ms), per peer."""
LINUX_GLOBAL_LIMIT = Limit(burst=50, per_second=1000.0)
"""Linux's icmp_msgs_burst and icmp_msgs_per_sec, per device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IcmpError:
    """The ICMP error that a router answers transit packets with instead of passing them on."""

    type: int
    code: int
    mtu: int = 0
    """Next-hop MTU field of type 3 code 4 (IPv6: type 2), bytes."""
    stage: Stage = Stage.EGRESS
    """`ingress`: even a probe whose TTL ends here gets this; `egress`: that one gets Time Exceeded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """Fields of the quoted packet that a router shows differently from what arrived; None leaves a field alone."""

    ip_id: int | None = None
    ip_length: int | None = None
    ip_checksum: int | None = None
    """None: recomputed, so the quoted header is consistent."""
    tos: int | None = None
    ttl: int | None = None
    source: IPv4Address | None = None
    source_ipv6: IPv6Address | None = None
    destination: IPv4Address | None = None
    destination_ipv6: IPv6Address | None = None
    source_port: int | None = None
    """Bytes 0-1 of the quoted transport header, whatever the protocol."""
    destination_port: int | None = None
    """Bytes 2-3 of the quoted transport header; ICMP has its checksum there."""
    checksum: int | None = None
    """The quoted transport checksum of UDP, TCP or ICMP."""
    payload: bytes | None = None
    """Instead of everything behind the transport header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MplsLabel:
    """One entry of an MPLS label stack (RFC 4950); the last of a list has the bottom-of-stack bit."""

    label: int
    tc: int = 0
    ttl: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionObject:
    """One RFC 4884 extension object, verbatim."""

    class_num: int
    c_type: int
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extensions:
    """ICMP extensions (RFC 4884) behind the quoted packet, and the lies they can tell."""

    form: ExtensionForm = ExtensionForm.RFC4884
    mpls: tuple[MplsLabel, ...] = ()
    objects: tuple[ExtensionObject, ...] = ()
    """After the MPLS object."""
    version: int = 2
    checksum: int | None = None
    """None: right. A number: that, right or wrong (0 means "none transmitted")."""
    length: int | None = None
    """None: right. A number: what the length attribute claims, in its own unit (4 bytes; IPv6: 8)."""
    raw: bytes | None = None
    """Instead of header and objects: these bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBehaviour:
    """How a device answers when it is the destination."""

    udp: UdpAnswer = UdpAnswer.UNREACHABLE
    icmp: IcmpAnswer = IcmpAnswer.REPLY
    tcp: TcpAnswer = TcpAnswer.CLOSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """A device. Its state (token buckets, IP ID counter) is one, whatever the paths through it."""

    key: str
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    name: str | None = None
    silent: bool = False
    loss: float = 0.0
    """Probability, 0 to 1, that a reply of it is lost."""
    duplicate: int = 0
    """Extra copies of every reply."""
    jitter_ns: int = 0
    """Each reply is late by a uniform 0 to this."""
    limit: Limit | None = None
    """ICMP errors to one peer; None is no limit."""
    limit_ipv6: Limit | None = None
    """For IPv6 peers; None: as `limit`."""
    global_limit: Limit | None = None
    """ICMP errors to all peers together."""
    quote: int | None = None
    """Bytes of the probe quoted over IPv4; None: as Linux, what fits into a 576-byte packet."""
    quote_ipv6: int | None = None
    """Over IPv6; None: what fits into 1280 bytes (RFC 4443 2.4 c)."""
    reply_ttl: int = 64
    """Initial TTL of its replies; every router in between takes one off."""
    mtu: int | None = None
    """Of its link onwards, bytes: larger packets get "fragmentation needed" or "packet too big"."""
    mtu_told: int | None = None
    """What that answer names; None: the truth. Routers older than RFC 1191 name 0."""
    black_hole: bool = False
    """Whether larger packets get no answer at all."""
    icmp: IcmpError | None = None
    icmp_ipv6: IcmpError | None = None
    answers_from: IPv4Address | None = None
    """Source of its ICMP, instead of `ipv4` or of the probed address."""
    answers_from_ipv6: IPv6Address | None = None
    corrupt: bool = False
    """Whether its ICMP checksums are wrong."""
    rewrite: Rewrite | None = None
    extensions: Extensions | None = None
    host: HostBehaviour = field(default_factory=HostBehaviour)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One device on a path."""

    router: str
    """Key in `Scenario.routers`."""
    rtt_ns: int
    """From the probe's sending to the arrival of this device's reply, before jitter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diamond:
    """Parallel branches of a path; they may differ in length and hold diamonds themselves."""

    branches: tuple[tuple[Step | Diamond, ...], ...]
    by: Balancing = Balancing.FLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Nat:
    """A source NAT on the path."""

    after_ttl: int
    """The NAT is the device at this TTL: hops past it see the new source."""
    source: IPv4Address | None = None
    source_ipv6: IPv6Address | None = None
    port_shift: int = 0
    """Added, modulo 65536, to the source port or the ICMP identifier."""
    restores: NatRestores = NatRestores.NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """The hops to one destination, or to all addresses of a prefix."""

    destinations: tuple[Network, ...]
    """Longest match wins; a single address is a /32 or /128."""
    hops: tuple[Step | Diamond, ...]
    name: str | None = None
    """DNS name of the single addresses among the destinations."""
    loop_from: int | None = None
    """TTL of the first hop of a forwarding loop; past the last hop the path goes on there."""
    forward_loss: float = 0.0
    """Probability, 0 to 1, that a probe is lost before anyone sees it."""
    nat: Nat | None = None


class DnsAnswer(StrEnum):
    """How the name server answers."""

    NORMAL = "normal"
    SERVFAIL = "servfail"
    NXDOMAIN = "nxdomain"
    SILENT = "silent"


@dataclass(frozen=True, slots=True, kw_only=True)
class NameServer:
    """A name server of the simulated internet; it knows the names of routers and destinations."""

    address: IPv4Address | IPv6Address
    rtt_ns: int = 20_000_000
    loss: float = 0.0
    answer: DnsAnswer = DnsAnswer.NORMAL
    ptr: Mapping[str, str] = field(default_factory=dict)
    """Names that win over those of the devices, by address; anything goes, so hostile names too."""


DEFAULT_IPV4 = IPv4Address("192.0.2.1")
DEFAULT_IPV6 = IPv6Address("2001:db8::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vantage:
    """Where probes come from; packets with another source are dropped and counted."""

    ipv4: IPv4Address | None = DEFAULT_IPV4
    ipv6: IPv6Address | None = DEFAULT_IPV6
    mtu: int = 1500
    """Of its interface, bytes: where a path MTU discovery begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """An internet.

    Raises:
        UsageError: a path names a device that is not there, or one without an address to answer from.
    """

    routers: Mapping[str, Router]
    paths: tuple[Path, ...]
    vantage: Vantage = field(default_factory=Vantage)
    dns: NameServer | None = None
    description: str = ""
    seed: int = 1
    origin: str = "scenario"
    """File or function it came from; leads the error messages."""

    def __post_init__(self) -> None:
        for number, path in enumerate(self.paths):
            _check_path(self, path, f"{self.origin}: paths[{number}]")


def steps_of(hops: tuple[Step | Diamond, ...]) -> Iterator[Step]:
    """Every step of `hops`, those inside diamonds included."""
    for hop in hops:
        if isinstance(hop, Step):
            yield hop
        else:
            for branch in hop.branches:
                yield from steps_of(branch)


def shortest_length(hops: tuple[Step | Diamond, ...]) -> int:
    """Number of hops when every diamond sends the packet through its shortest branch."""
    return sum(1 if isinstance(hop, Step) else min(map(shortest_length, hop.branches)) for hop in hops)


def _check_path(scenario: Scenario, path: Path, where: str) -> None:
    if not path.hops:
        raise UsageError(f"{where}: hops is empty; name at least the destination's device")
    if not isinstance(path.hops[-1], Step):
        raise UsageError(f"{where}: hops ends in any_of; the last hop is one device, the destination")
    length = shortest_length(path.hops)
    if path.loop_from is not None and not 1 <= path.loop_from <= length:
        raise UsageError(f"{where}.loop_from: {path.loop_from} is not the TTL of a hop; use 1 to {length}")
    for step in steps_of(path.hops):
        router = scenario.routers.get(step.router)
        if router is None:
            raise UsageError(f"{where}.hops: there is no router {step.router!r}; add [routers.{step.router}]")
        if step is not path.hops[-1] or path.loop_from is not None:
            _check_address(router, path, where)


def _check_address(router: Router, path: Path, where: str) -> None:
    for version in {network.version for network in path.destinations}:
        own, other = (router.ipv4, router.answers_from) if version == 4 else (router.ipv6, router.answers_from_ipv6)
        if own is None and other is None and not router.silent:
            raise UsageError(
                f"{where}.hops: router {router.key!r} has no IPv{version} address to answer from; "
                f"give it ipv{version}, or silent = true"
            )
