"""A whole internet from a seed: a tree of named routers whose leaves are the destinations.

Paths share their near hops as real ones do, the round-trip time grows along
them, and every address is from a documentation, benchmark or private range.
The same arguments give the same scenario. This file knows no packet and no
clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from random import Random
from typing import TYPE_CHECKING

from allhops.errors import UsageError
from allhops.testing.scenario import (
    Balancing,
    Diamond,
    HostBehaviour,
    IcmpAnswer,
    NameServer,
    Nat,
    NatRestores,
    Path,
    Router,
    Scenario,
    Step,
    TcpAnswer,
    UdpAnswer,
    Vantage,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from allhops.model import Address
    from allhops.testing.scenario import Limit

MILLISECOND = 1_000_000

ROUTERS_IPV4 = int(IPv4Address("10.0.0.0"))
ROUTERS_IPV6 = int(IPv6Address("2001:db8:ffff::"))
DESTINATIONS_IPV4 = int(IPv4Address("198.18.0.0"))
"""198.18.0.0/15 is set aside for benchmarks (RFC 2544): 131,072 addresses."""
DESTINATIONS_IPV6 = int(IPv6Address("2001:db8:d::"))
MOST_DESTINATIONS = 131_000
NAT_SOURCE, NAT_SOURCE_IPV6 = IPv4Address("198.51.100.77"), IPv6Address("2001:db8:77::77")

NAME_SERVERS: dict[int, Address] = {4: IPv4Address("192.0.2.53"), 6: IPv6Address("2001:db8::53")}

CITIES = (
    *("ams", "ath", "ber", "bru", "cph", "dub", "fra", "ham", "hel", "lis", "lon"),
    *("mad", "mil", "osl", "par", "prg", "rom", "sof", "sto", "vie", "waw", "zrh"),
)

LONG_HAUL_SHARE = 0.2
"""Of links between routers; they take milliseconds and lead to another city."""
LONG_HAUL_MS, SHORT_HAUL_MS = (3.0, 25.0), (0.1, 1.2)
TRUNK_HOPS = 3
"""First hops, which all paths have in common."""
FAN_OUT = (1, 1, 2, 2, 3, 4)
"""A router past the trunk has as many neighbours further out as one of these says, chosen by chance."""
DIAMOND_WIDTHS = (2, 2, 3, 4)
LAST_HOP_NS = MILLISECOND // 5
"""Least distance of the destination from the router before it."""


@dataclass(slots=True, eq=False)
class _Node:
    """A router in the tree."""

    city: str
    fan_out: int
    step: Step
    children: list[_Node] = field(default_factory=list)


def generate(
    seed: int,
    *,
    destinations: int = 50,
    min_hops: int = 8,
    max_hops: int = 25,
    min_rtt_ms: float = 30.0,
    max_rtt_ms: float = 150.0,
    silent_hop_share: float = 0.0,
    silent_destination_share: float = 0.0,
    load_balanced_share: float = 0.0,
    nat_share: float = 0.0,
    loss: float = 0.0,
    duplicate: int = 0,
    jitter_ms: float = 0.0,
    limit: Limit | None = None,
    limit_ipv6: Limit | None = None,
    global_limit: Limit | None = None,
    families: Sequence[int] = (4, 6),
    dns: bool = True,
) -> Scenario:
    """A scenario with this many destinations, each in every family of `families`.

    A path has `min_hops` to `max_hops` hops, destination included; the destination
    is `min_rtt_ms` to `max_rtt_ms` away. `loss`, `duplicate`, `jitter_ms` and the
    limits are those of every router and destination. The shares, 0 to 1: of routers
    that are silent, of destinations that are silent, of paths with a diamond that
    balances by flow, of paths with a NAT. The destinations in order are
    `[path.destinations for path in scenario.paths]`.

    Raises:
        UsageError: a bound that cannot be.
    """
    _check(destinations, (min_hops, max_hops), (min_rtt_ms, max_rtt_ms), families)
    template = Router(
        key="",
        loss=loss,
        duplicate=duplicate,
        jitter_ns=round(jitter_ms * MILLISECOND),
        limit=limit,
        limit_ipv6=limit_ipv6,
        global_limit=global_limit,
    )
    world = _World(Random(seed), template, tuple(families), silent_hop_share, round(max_rtt_ms * MILLISECOND))
    paths = tuple(
        world.path(
            number,
            hops=world.random.randint(min_hops, max_hops),
            rtt_ns=round(world.random.uniform(min_rtt_ms, max_rtt_ms) * MILLISECOND),
            silent=world.random.random() < silent_destination_share,
            balanced=world.random.random() < load_balanced_share,
            nat=world.random.random() < nat_share,
        )
        for number in range(destinations)
    )
    return Scenario(
        description=f"generated from seed {seed}",
        seed=seed,
        vantage=Vantage(),
        dns=NameServer(address=NAME_SERVERS[min(families)]) if dns else None,
        routers=world.routers,
        paths=paths,
        origin=f"generate({seed})",
    )


def _check(destinations: int, hops: tuple[int, int], rtt_ms: tuple[float, float], families: Sequence[int]) -> None:
    if not 1 <= destinations <= MOST_DESTINATIONS:
        raise UsageError(f"destinations: must be from 1 to {MOST_DESTINATIONS}, not {destinations}")
    if not 2 <= hops[0] <= hops[1] <= 255:
        raise UsageError(f"min_hops, max_hops: must be 2 to 255 and in order, not {hops[0]}, {hops[1]}")
    if not 1 <= rtt_ms[0] <= rtt_ms[1]:
        raise UsageError(f"min_rtt_ms, max_rtt_ms: must be at least 1 and in order, not {rtt_ms[0]:g}, {rtt_ms[1]:g}")
    if not families or not set(families) <= {4, 6}:
        raise UsageError(f"families: must be 4, 6 or both, not {families!r}")


class _World:
    """The tree while it grows."""

    def __init__(
        self, random: Random, template: Router, families: tuple[int, ...], silent_share: float, max_rtt_ns: int
    ) -> None:
        self.random = random
        self.routers: dict[str, Router] = {}
        self._template = template
        self._families = families
        self._silent_share = silent_share
        self._farthest_ns = max_rtt_ns - LAST_HOP_NS
        self._root = self._grow(None)

    def path(self, number: int, *, hops: int, rtt_ns: int, silent: bool, balanced: bool, nat: bool) -> Path:
        """The path to destination `number`, with `hops` hops and about `rtt_ns` long."""
        nodes = list(self._way_out(hops - 1))
        steps: list[Step | Diamond] = [node.step for node in nodes]
        if balanced and len(nodes) > 1:
            at = self.random.randrange(min(TRUNK_HOPS, len(nodes) - 1), len(nodes))
            steps[at] = self._diamond(nodes[at])
        key = f"d{number}"
        self.routers[key] = self._destination(key, number, silent=silent)
        steps.append(Step(router=key, rtt_ns=max(rtt_ns, nodes[-1].step.rtt_ns + LAST_HOP_NS)))
        destination = self.routers[key]
        addresses = {4: destination.ipv4, 6: destination.ipv6}
        return Path(
            destinations=tuple(ip_network(str(addresses[version])) for version in self._families),
            hops=tuple(steps),
            nat=self._nat(len(nodes)) if nat else None,
        )

    def _way_out(self, length: int) -> Iterator[_Node]:
        """Routers from the vantage point outwards, `length` of them; grows the tree where it ends."""
        node = self._root
        yield node
        for depth in range(1, length):
            fan_out = 1 if depth < TRUNK_HOPS else node.fan_out
            if len(node.children) < fan_out:
                node.children.append(self._grow(node))
                node = node.children[-1]
            else:
                node = self.random.choice(node.children)
            yield node

    def _grow(self, parent: _Node | None) -> _Node:
        """A new router behind `parent`: mostly in the same city, sometimes a long way off."""
        before = parent.step.rtt_ns if parent else 0
        moves = parent is not None and self.random.random() < LONG_HAUL_SHARE
        more_ms = self.random.uniform(*(LONG_HAUL_MS if moves else SHORT_HAUL_MS))
        rtt_ns = min(before + round(more_ms * MILLISECOND), max(before, self._farthest_ns))
        city = parent.city if parent and not moves else self.random.choice(CITIES)
        router = self._router(city, silent=self.random.random() < self._silent_share)
        return _Node(city=city, fan_out=self.random.choice(FAN_OUT), step=Step(router=router.key, rtt_ns=rtt_ns))

    def _router(self, city: str, *, silent: bool) -> Router:
        number = len(self.routers)
        router = replace(
            self._template,
            key=f"r{number}",
            name=f"ae{self.random.randrange(1, 9)}.cr{number}.{city}.example.net",
            silent=silent,
            ipv4=IPv4Address(ROUTERS_IPV4 + 1 + number),
            ipv6=IPv6Address(ROUTERS_IPV6 + 1 + number),
        )
        self.routers[router.key] = router
        return router

    def _diamond(self, node: _Node) -> Diamond:
        """The node's router and others beside it, at the same distance."""
        width = self.random.choice(DIAMOND_WIDTHS)
        rtt_ns = node.step.rtt_ns
        others = [Step(router=self._router(node.city, silent=False).key, rtt_ns=rtt_ns) for _ in range(width - 1)]
        return Diamond(branches=tuple((step,) for step in (node.step, *others)), by=Balancing.FLOW)

    def _destination(self, key: str, number: int, *, silent: bool) -> Router:
        host = HostBehaviour(udp=UdpAnswer.SILENT, icmp=IcmpAnswer.SILENT, tcp=TcpAnswer.SILENT)
        return replace(
            self._template,
            key=key,
            name=f"host{number}.example.org",
            ipv4=IPv4Address(DESTINATIONS_IPV4 + 1 + number),
            ipv6=IPv6Address(DESTINATIONS_IPV6 + 1 + number),
            host=host if silent else self._template.host,
        )

    def _nat(self, routers: int) -> Nat:
        return Nat(
            after_ttl=self.random.randint(1, min(TRUNK_HOPS, routers)),
            source=NAT_SOURCE,
            source_ipv6=NAT_SOURCE_IPV6,
            port_shift=self.random.randrange(1, 1000),
            restores=self.random.choice(tuple(NatRestores)),
        )
