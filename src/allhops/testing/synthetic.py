"""An internet computed instead of written down: any number of probes in, who answers and when out, as arrays.

`SyntheticInternet` is for batches of hundreds to a million destinations, as `Internet` is for a scenario. It keeps no
object for a destination or a router: who stands at a hop is computed from the destination's prefix. This file knows no
packet, no clock and no socket.

**What the model is.** Every address of 16.0.0.0/4 is routed. A binary tree is laid over this space: the prefix of
length 4 + L around an address is its node at level L, L = 0 (everything) to 20 (its /24). Each prefix has between 0 and
3 routers of its own, as a hash of the prefix says, and the path to an address is the routers of its prefixes, from the
widest to the narrowest, then the host. So two paths share their hops until the prefixes of their destinations differ,
their lengths are the more alike the nearer they are, and what lies behind a router is a tree. Paths have 8 to 20 hops,
14 on average, the destination included. More than half of the routers belong to a single /24.

Some routers, by hash, stand in a group of 2 to 4 in parallel, of which each flow takes one: diamonds of length one, or
meshed ones where two groups follow each other. Some routers are silent, some hosts are alive; all of this is
independent and drawn for each router and each address. Round-trip times are fixed for each router, grow along every
path and are 30 to 150 ms to a host (most of them 60 to 115).

**What it is not.** Every path of a prefix enters it by the same routers: no detours, no asymmetric ways, no path that
changes. Prefix boundaries are powers of two, and which /24s are asked for comes in runs of 64. Nobody limits a rate,
sends host unreachable or falsifies a quotation, no jitter; nobody answers from another address than the one asked. Dead
hosts are silent, and live ones are spread evenly instead of side by side. For such things, use a scenario.
"""

from __future__ import annotations

import random
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allhops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SILENCE, TIME_EXCEEDED, REACHED = range(3)
"""Kinds of answers: none; a router's; the destination's own (port unreachable, echo reply)."""

MAX_DESTINATIONS = 1 << 20
MAX_HOPS = 20
"""Of any path, the destination included."""
DEFAULT_SOURCE = IPv4Address("192.0.2.1")
DEFAULT_DESTINATION_PORT = 33434

FIRST_PLACE = 0x100000
"""Number of the first routed /24: 16.0.0.0."""
FIRST_INTERFACE = 0x40000000
"""Routers' interfaces have addresses in 64.0.0.0/7."""
INTERFACE_BITS = 25

LEVELS = 20
"""Of the narrowest prefix, a /24."""
BLOCK_LEVEL = 14
"""A /18: down to it paths are kept in tables; below it a router a level, or none, is computed. Also the run of
neighbouring /24s in which destinations come."""
BLOCKS = 1 << BLOCK_LEVEL
BLOCK_PLACES = 1 << (LEVELS - BLOCK_LEVEL)
FINE_LEVELS = LEVELS - BLOCK_LEVEL

ROUTERS = {
    0: (0.0, 0.0, 0.0, 1.0),
    **dict.fromkeys((1, 2, 3), (0.0, 1.0)),
    **dict.fromkeys(range(4, 9), (0.6, 0.3, 0.1)),
    **dict.fromkeys(range(9, 14), (0.7, 0.3)),
    14: (0.0, 1.0),
}
"""By level: the shares of prefixes that have 0, 1, 2, 3 routers. At least 7 for every path, so 8 hops with the host."""
FINE_ROUTERS = (0.30, 0.30, 0.35, 0.40, 0.50, 0.70)
"""By level from 15: the share of prefixes that have a router. With them, 31,000 /24s have about 37,600 interfaces."""

DELAY_NS = {
    0: (6_000_000, 6_000_000),
    1: (3_000_000, 10_000_000),
    2: (3_000_000, 17_000_000),
    3: (12_000_000, 57_000_000),
    **dict.fromkeys(range(4, 9), (1_000_000, 9_000_000)),
    **dict.fromkeys(range(9, 15), (200_000, 1_800_000)),
}
"""By level: least and most that a prefix adds to the round-trip time. The first three hops are 2 ms apart."""
FINE_STEP_NS = 500_000
"""What each level below the block adds; where within the step a router lies, its hash says."""

MOST_IN_PARALLEL = 4
CHUNK = 1 << 16
"""Destinations looked at together where all of them are: bounds the memory."""


class Answers(NamedTuple):
    """What n probes meet, in their order; all arrays (n,)."""

    kind: NDArray[np.uint8]
    """`SILENCE`, `TIME_EXCEEDED` or `REACHED`."""
    responder: NDArray[np.uint32]
    """Address; 0 for silence."""
    rtt_ns: NDArray[np.int64]
    """0 for silence."""
    quoted_ttl: NDArray[np.uint8]
    """What the probe's TTL was on arrival, which the responder quotes: 1 at a router; 0 for silence."""


class SyntheticInternet:
    """See the module. The same arguments make the same internet, on every machine.

    `destinations`: how many there are to ask, up to `MAX_DESTINATIONS`. Shares, 0 to 1: `silent_routers` never answer,
    `live_hosts` do, `balanced` routers stand in a group of parallel ones, `loss` is how many probes or their replies
    are lost. Only loss depends on more than the probe: on how many were asked before, so that a repeated probe may
    fare better. Some 6 MB, whatever the size.

    Raises:
        UsageError: too many destinations.
    """

    def __init__(
        self,
        seed: int,
        *,
        destinations: int = 31_000,
        silent_routers: float = 0.12,
        live_hosts: float = 0.18,
        balanced: float = 0.10,
        loss: float = 0.0,
        source: IPv4Address | str = DEFAULT_SOURCE,
    ) -> None:
        if not 1 <= destinations <= MAX_DESTINATIONS:
            raise UsageError(f"{destinations} destinations: a synthetic internet has 1 to {MAX_DESTINATIONS}")
        self.arguments: dict[str, int | float | str] = {
            "seed": seed,
            "destinations": destinations,
            "silent_routers": silent_routers,
            "live_hosts": live_hosts,
            "balanced": balanced,
            "loss": loss,
            "source": str(source),
        }
        """What makes another one like it; fit for JSON."""
        self.seed = seed
        self.source = IPv4Address(source)
        self._count = destinations
        self._silent_routers = _threshold(silent_routers)
        self._live_hosts = _threshold(live_hosts)
        self._balanced = _threshold(balanced)
        self._loss = _threshold(loss)
        self._asked = 0
        draw = random.Random(seed)
        self._salts = {purpose: np.uint32(draw.getrandbits(32)) for purpose in _PURPOSES}
        self._coarse_position, self._coarse_rtt, self._coarse_depth, self._block_rtt = self._lay_coarse()
        self._fine = self._lay_fine()
        depth = np.repeat(self._coarse_depth, BLOCK_PLACES) + np.bitwise_count(self._fine)
        self._routers = np.minimum(depth, MAX_HOPS - 1).astype(np.uint8)

    def destinations(self) -> NDArray[np.uint32]:
        """Addresses to ask, one a /24, ascending: runs of 64 /24s, the runs spread evenly over the routed space."""
        index = np.arange(self._count, dtype=np.int64)
        runs = -(-self._count // BLOCK_PLACES)
        place = (index // BLOCK_PLACES * BLOCKS // runs * BLOCK_PLACES + index % BLOCK_PLACES).astype(np.uint32)
        host = self._hash("address", place) % np.uint32(254) + np.uint32(1)
        return ((place + np.uint32(FIRST_PLACE)) << np.uint32(8)) | host

    def answer(
        self,
        destination: NDArray[np.uint32],
        ttl: NDArray[np.uint8],
        source_port: NDArray[np.uint16],
        destination_port: NDArray[np.uint16] | int = DEFAULT_DESTINATION_PORT,
    ) -> Answers:
        """What these probes meet; TTLs from 1. The ports are the flow: for ICMP, identifier and checksum."""
        met = self._meet(destination, ttl, source_port, destination_port)
        if not self._loss:
            return met
        serial = np.arange(self._asked, self._asked + len(destination)).astype(np.uint32)
        self._asked += len(destination)
        arrives = self._hash("loss", serial) >= self._loss
        return Answers(met.kind * arrives, met.responder * arrives, met.rtt_ns * arrives, met.quoted_ttl * arrives)

    def distances(self, destination: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """Hops to each destination, itself included, dead or alive; 0 where there is no route."""
        place, is_routed = _places(destination)
        return (self._routers[place] + np.uint8(1)) * is_routed

    def true_responders(
        self,
        destination: NDArray[np.uint32],
        source_port: NDArray[np.uint16],
        destination_port: NDArray[np.uint16] | int = DEFAULT_DESTINATION_PORT,
    ) -> NDArray[np.uint32]:
        """(n, `MAX_HOPS`): address that answers at TTL 1, 2, ... on each path; 0 for silence and beyond the end."""
        truth = np.zeros((len(destination), MAX_HOPS), np.uint32)
        distance = self.distances(destination)
        for ttl in range(1, MAX_HOPS + 1):
            probes = np.full(len(destination), ttl, np.uint8)
            met = self._meet(destination, probes, source_port, destination_port)
            truth[:, ttl - 1] = met.responder * (distance >= ttl)
        return truth

    def path(
        self,
        destination: IPv4Address | str,
        source_port: int,
        destination_port: int = DEFAULT_DESTINATION_PORT,
    ) -> list[IPv4Address | None]:
        """Who answers at TTL 1, 2, ... up to the destination's own place; None for silence."""
        address = np.array([int(IPv4Address(destination))], np.uint32)
        responders = self.true_responders(address, np.array([source_port], np.uint16), destination_port)[0].tolist()
        return [IPv4Address(value) if value else None for value in responders[: int(self.distances(address)[0])]]

    def interfaces(self) -> NDArray[np.uint32]:
        """Addresses, ascending, of all routers that answer somewhere on the way to a destination, on any flow."""
        met = np.zeros(1 << (INTERFACE_BITS - 2), np.bool_)
        for positions, _ in self._ways():
            met[positions] = True
        met[0] = False
        every = self._parallels(np.flatnonzero(met).astype(np.uint32))
        return np.sort(every[every > 0])

    def links(self) -> NDArray[np.uint32]:
        """(m, 2), ascending: every pair of addresses that answer at TTLs t and t + 1 of some flow to a destination.

        A pair that was measured and is not here is a false link.
        """
        pairs = [np.zeros(0, np.uint64)]
        for positions, destination in self._ways():
            near = np.unique(positions[:, :-1].astype(np.uint64) << np.uint64(32) | positions[:, 1:])
            near = near[(near & np.uint64(0xFFFFFFFF)) > 0]
            first = self._parallels((near >> np.uint64(32)).astype(np.uint32)).repeat(MOST_IN_PARALLEL, axis=1)
            second = np.tile(self._parallels(near.astype(np.uint32)), (1, MOST_IN_PARALLEL))
            pairs.append(_pairs(first, second))
            last = np.take_along_axis(positions, self.distances(destination)[:, None].astype(np.intp) - 2, axis=1)
            hosts = destination * self._is_alive(destination)
            pairs.append(_pairs(self._parallels(last[:, 0]), hosts[:, None].repeat(MOST_IN_PARALLEL, axis=1)))
        both = np.unique(np.concatenate(pairs))
        return np.stack([both >> np.uint64(32), both & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)

    def __repr__(self) -> str:
        return f"<SyntheticInternet [{self._count} destinations, seed {self.seed}, from {self.source}]>"

    def _meet(
        self,
        destination: NDArray[np.uint32],
        ttl: NDArray[np.uint8],
        source_port: NDArray[np.uint16],
        destination_port: NDArray[np.uint16] | int,
    ) -> Answers:
        """What these probes meet if none is lost."""
        place, is_routed = _places(destination)
        routers = self._routers[place]
        expires = ttl <= routers
        position, rtt = self._stand(place, np.minimum(ttl, routers))
        flow = self._flow(destination, source_port, destination_port)
        interface = position << np.uint32(2) | self._choice(position, flow)
        answers = np.where(expires, self._answers(interface), self._is_alive(destination)) & is_routed
        responder = np.where(expires, self._address(interface), destination) * answers
        kind = np.where(expires, np.uint8(TIME_EXCEEDED), np.uint8(REACHED)) * answers
        host_rtt = self._block_rtt[place // BLOCK_PLACES] + self._fine_rtt(LEVELS + 1, destination)
        quoted_ttl = np.where(expires, np.uint8(1), ttl - routers) * answers
        return Answers(kind, responder, np.where(expires, rtt, host_rtt) * answers, quoted_ttl)

    def _stand(self, place: NDArray[np.uint32], ttl: NDArray[np.uint8]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Position and RTT of the router where a probe expires.

        A position is the place of a prefix in the tree, as in a heap, times 4, and which of its routers.
        """
        block = place // BLOCK_PLACES
        depth = self._coarse_depth[block]
        near = ttl <= depth
        hop = ttl - np.uint8(1)
        level = _NTH_LEVEL[self._fine[place], np.where(near, 0, hop - depth)]
        fine = (np.uint32(1) << level | place >> (np.uint32(LEVELS) - level)) << np.uint32(2)
        fine_rtt = self._block_rtt[block] + self._fine_rtt(level, fine)
        return (
            np.where(near, self._coarse_position[block, hop], fine),
            np.where(near, self._coarse_rtt[block, hop], fine_rtt),
        )

    def _fine_rtt(self, level: NDArray[np.uint32] | int, key: NDArray[np.uint32]) -> NDArray[np.int64]:
        """What is added below the block: a step for each level, and the part of one that the hash says."""
        step = np.asarray(level, np.int64) - BLOCK_LEVEL - 1
        part = self._hash("delay", key) % np.uint32(FINE_STEP_NS - 1) + np.uint32(1)
        return step * FINE_STEP_NS + part

    def _flow(
        self,
        destination: NDArray[np.uint32],
        source_port: NDArray[np.uint16],
        destination_port: NDArray[np.uint16] | int,
    ) -> NDArray[np.uint32]:
        ports = source_port.astype(np.uint32) << np.uint32(16) | np.asarray(destination_port, np.uint32)
        return self._hash("flow", destination ^ self._hash("flow", ports))

    def _choice(self, position: NDArray[np.uint32], flow: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Which of the routers in parallel a flow takes, from 0."""
        own = self._hash("balanced", position)
        return _mix(flow ^ own) % self._width(own)

    def _width(self, own: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """How many routers stand in parallel, by the position's hash."""
        return np.where(own < self._balanced, np.uint32(2) + (own & np.uint32(0xFF)) % np.uint32(3), np.uint32(1))

    def _parallels(self, position: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """(k, `MOST_IN_PARALLEL`): addresses of the routers at k positions; 0 for none and for silent ones."""
        number = np.arange(MOST_IN_PARALLEL, dtype=np.uint32)
        interface = position[:, None] << np.uint32(2) | number
        exists = number < self._width(self._hash("balanced", position))[:, None]
        return self._address(interface) * (exists & self._answers(interface))

    def _answers(self, interface: NDArray[np.uint32]) -> NDArray[np.bool_]:
        return self._hash("silent", interface) >= self._silent_routers

    def _is_alive(self, destination: NDArray[np.uint32]) -> NDArray[np.bool_]:
        return self._hash("alive", destination) < self._live_hosts

    def _address(self, interface: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """One to one, and such that neighbours in the tree are not neighbours in their addresses."""
        mask = np.uint32((1 << INTERFACE_BITS) - 1)
        scattered = (interface * np.uint32(0x9E3779B1) & mask) ^ (self._salts["interface"] & mask)
        return scattered + np.uint32(FIRST_INTERFACE)

    def _ways(self) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint32]]]:
        """(positions (n, `MAX_HOPS` - 1), destinations (n,)), `CHUNK` at once; position 0 behind the last router."""
        every = self.destinations()
        for start in range(0, len(every), CHUNK):
            destination = every[start : start + CHUNK]
            place, _ = _places(destination)
            positions = np.zeros((len(place), MAX_HOPS - 1), np.uint32)
            for ttl in range(1, MAX_HOPS):
                expires = self._routers[place] >= ttl
                positions[expires, ttl - 1] = self._stand(place[expires], np.full(expires.sum(), ttl, np.uint8))[0]
            yield positions, destination

    def _lay_coarse(
        self,
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
        """By block: positions and RTTs of its hops (`BLOCKS`, `MAX_HOPS`), how many they are, and the RTT behind."""
        block = np.arange(BLOCKS, dtype=np.uint32)
        most = sum(len(shares) - 1 for shares in ROUTERS.values())
        position = np.zeros((BLOCKS, most), np.uint32)
        rtt = np.zeros((BLOCKS, most), np.int64)
        depth = np.zeros(BLOCKS, np.int64)
        behind = np.zeros(BLOCKS, np.int64)
        for level, shares in ROUTERS.items():
            prefix = np.uint32(1 << level) | block >> np.uint32(BLOCK_LEVEL - level)
            bounds = np.array([_threshold(sum(shares[: count + 1])) for count in range(len(shares) - 1)])
            routers = np.searchsorted(bounds, self._hash("routers", prefix).astype(np.int64), side="right")
            least, most_ns = DELAY_NS[level]
            delay = least + self._hash("delay", prefix).astype(np.int64) % (most_ns - least + 1)
            for number in range(len(shares) - 1):
                has = np.flatnonzero(routers > number)
                position[has, depth[has]] = prefix[has] << np.uint32(2) | np.uint32(number)
                rtt[has, depth[has]] = behind[has] + delay[has] * (number + 1) // routers[has]
                depth[has] += 1
            behind += delay
        return position[:, :MAX_HOPS], rtt[:, :MAX_HOPS], np.minimum(depth, MAX_HOPS).astype(np.uint8), behind

    def _lay_fine(self) -> NDArray[np.uint8]:
        """By /24: a bit for each level below the block whose prefix has a router, the widest lowest."""
        fine = np.zeros(1 << LEVELS, np.uint8)
        for number, share in enumerate(FINE_ROUTERS):
            level = BLOCK_LEVEL + 1 + number
            prefix = np.arange(1 << level, 2 << level, dtype=np.uint32)
            has = (self._hash("routers", prefix) < _threshold(share)).astype(np.uint8)
            fine |= np.repeat(has << np.uint8(number), 1 << (LEVELS - level))
        return fine

    def _hash(self, purpose: str, value: NDArray[np.uint32]) -> NDArray[np.uint32]:
        return _mix(value ^ self._salts[purpose])


_PURPOSES = ("address", "alive", "balanced", "delay", "flow", "interface", "loss", "routers", "silent")


def _mix(value: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Every bit of the result depends on every bit of `value`; one to one. Source: lowbias32, C. Wellons, 2018."""
    value = value ^ value >> np.uint32(16)
    value *= np.uint32(0x7FEB352D)
    value ^= value >> np.uint32(15)
    value *= np.uint32(0x846CA68B)
    value ^= value >> np.uint32(16)
    return value


def _threshold(share: float) -> int:
    """What a hash is below in this share of cases."""
    return round(share * (1 << 32))


def _places(destination: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """Number of each one's /24 from the first that is routed (0 for those that are not), and whether it is."""
    place = (destination >> np.uint32(8)) - np.uint32(FIRST_PLACE)
    is_routed = place < (1 << LEVELS)
    return place * is_routed, is_routed


def _pairs(first: NDArray[np.uint32], second: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Both addresses in one number, the first above; without those of which one is 0."""
    both = (first > 0) & (second > 0)
    return np.unique(first[both].astype(np.uint64) << np.uint64(32) | second[both])


def _nth_levels() -> NDArray[np.uint32]:
    """(64, MAX_HOPS): level of the n-th bit that is set, the lowest first; the last level where there is none."""
    table = np.full((1 << FINE_LEVELS, MAX_HOPS), LEVELS, np.uint32)
    for bits in range(1 << FINE_LEVELS):
        levels = [BLOCK_LEVEL + 1 + bit for bit in range(FINE_LEVELS) if bits >> bit & 1]
        table[bits, : len(levels)] = levels
    return table


_NTH_LEVEL = _nth_levels()
