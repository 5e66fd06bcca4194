"""Where a packet goes: longest match to a path, diamonds to one route, TTL to one device.

Routes are laid out when a packet first needs them and kept; a path without
diamonds has one. This file knows no packet but its flow hash and its TTL.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from allhops.testing.scenario import Balancing, Step, steps_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from allhops.testing.packets import Layout
    from allhops.testing.responder import Responder
    from allhops.testing.scenario import Diamond, Nat, Path, Scenario

_SPREAD = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio: multiplying by it makes the diamonds of a path choose independently."""
_MASK = 0xFFFFFFFFFFFFFFFF


class Fate(IntEnum):
    """Why a packet goes no further."""

    EXPIRED = 0
    BLOCKED = 1
    TOO_BIG = 2
    ARRIVED = 3


class Meeting(NamedTuple):
    """Where a packet ends. `position` counts hops from 0."""

    fate: Fate
    responder: Responder
    rtt_ns: int
    position: int


class Route:
    """One way through a path: its devices in order, diamonds decided."""

    __slots__ = ("_hops", "_lap_ns", "_loop", "_obstacles")

    def __init__(self, hops: tuple[tuple[Responder, int], ...], loop_from: int | None) -> None:
        self._hops = hops
        self._loop = None if loop_from is None else loop_from - 1
        before = hops[self._loop - 1][1] if self._loop else 0
        self._lap_ns = hops[-1][1] - before
        self._obstacles = tuple(at for at, (responder, _) in enumerate(hops) if responder.obstacle)

    def meet(self, ttl: int, size: int, *, fragile: bool) -> Meeting:
        """Where a packet of `size` bytes with this TTL (1 to 255) ends; `fragile`: it may not be fragmented."""
        end, last = ttl - 1, len(self._hops) - 1
        for at in self._obstacles:
            if at > end:
                break
            fate = self._hold(at, end, last, size, fragile=fragile)
            if fate is not None:
                return Meeting(fate, *self._hops[at], at)
        if end > last and self._loop is not None:
            laps, into = divmod(end - self._loop, last + 1 - self._loop)
            responder, rtt_ns = self._hops[self._loop + into]
            return Meeting(Fate.EXPIRED, responder, rtt_ns + laps * self._lap_ns, end)
        at = min(end, last)
        responder, rtt_ns = self._hops[at]
        arrived = at == last and self._loop is None and responder.blocks is None
        return Meeting(Fate.ARRIVED if arrived else Fate.EXPIRED, responder, rtt_ns, at)

    def _hold(self, at: int, end: int, last: int, size: int, *, fragile: bool) -> Fate | None:
        """What stops a packet at an obstacle: one at ingress first, then its TTL, then one at egress."""
        responder = self._hops[at][0]
        if responder.ingress:
            return Fate.BLOCKED
        if at == end:
            return None
        if responder.blocks is not None:
            return Fate.BLOCKED
        too_big = responder.mtu is not None and size > responder.mtu and fragile and at < last
        return Fate.TOO_BIG if too_big else None


class FamilyPath:
    """A path in one family."""

    __slots__ = ("_cached", "_diamonds", "_path", "_responder", "_seed", "forward_loss", "nat")

    def __init__(self, path: Path, seed: int, responder: Callable[[str], Responder]) -> None:
        self._path = path
        self._seed = seed
        self._responder = responder
        self._diamonds: list[tuple[Diamond, int]] | None = None
        self._cached: dict[tuple[int, ...], Route] = {}
        self.forward_loss = path.forward_loss
        self.nat: Nat | None = path.nat

    @property
    def balanced(self) -> bool:
        """Whether there is a diamond on it."""
        return bool(self._salted())

    @property
    def random(self) -> bool:
        """Whether there is a diamond on it that chooses by chance."""
        return any(diamond.by is Balancing.PACKET for diamond, _ in self._salted())

    def route(self, flow: int, random: Callable[[], float]) -> Route:
        """The route of a packet with this flow hash."""
        picks = tuple([_pick(diamond, salt, flow, random) for diamond, salt in self._salted()])
        route = self._cached.get(picks)
        if route is None:
            chosen = {id(diamond): pick for (diamond, _), pick in zip(self._salted(), picks, strict=True)}
            hops = tuple((self._responder(step.router), step.rtt_ns) for step in _walk(self._path.hops, chosen))
            route = self._cached[picks] = Route(hops, self._path.loop_from)
        return route

    def routes(self) -> Iterator[Route]:
        """Every route that some packet can take."""
        for hops in _expand(self._path.hops):
            yield Route(tuple((self._responder(step.router), step.rtt_ns) for step in hops), self._path.loop_from)

    def _salted(self) -> list[tuple[Diamond, int]]:
        if self._diamonds is None:
            self._diamonds = [(diamond, _salt(diamond, self._seed)) for diamond in _diamonds(self._path.hops)]
        return self._diamonds


def _diamonds(hops: tuple[Step | Diamond, ...]) -> Iterator[Diamond]:
    for hop in hops:
        if not isinstance(hop, Step):
            yield hop
            for branch in hop.branches:
                yield from _diamonds(branch)


def _salt(diamond: Diamond, seed: int) -> int:
    """Different for every diamond, the same for one that several paths share, whatever the run."""
    names = " ".join(step.router for branch in diamond.branches for step in steps_of(branch))
    return crc32(f"{seed} {names}".encode())


def _pick(diamond: Diamond, salt: int, flow: int, random: Callable[[], float]) -> int:
    width = len(diamond.branches)
    if diamond.by is Balancing.PACKET:
        return int(random() * width)
    mixed = (flow ^ salt) * _SPREAD & _MASK
    return (mixed >> 32 ^ mixed >> 16) % width


def _walk(hops: tuple[Step | Diamond, ...], chosen: dict[int, int]) -> Iterator[Step]:
    for hop in hops:
        if isinstance(hop, Step):
            yield hop
        else:
            yield from _walk(hop.branches[chosen[id(hop)]], chosen)


def _expand(hops: tuple[Step | Diamond, ...]) -> Iterator[tuple[Step, ...]]:
    if not hops:
        yield ()
        return
    first, rest = hops[0], hops[1:]
    heads = [(first,)] if isinstance(first, Step) else [head for branch in first.branches for head in _expand(branch)]
    for tail in _expand(rest):
        for head in heads:
            yield head + tail


class PathTable:
    """The paths of a scenario in one family, found by longest match."""

    def __init__(self, scenario: Scenario, layout: Layout, responder: Callable[[str], Responder]) -> None:
        self._bits = layout.bits
        self._by_length: dict[int, dict[int, FamilyPath]] = {}
        for path in scenario.paths:
            family_path = FamilyPath(path, scenario.seed, responder)
            for network in path.destinations:
                if network.version == layout.version:
                    shift = self._bits - network.prefixlen
                    prefixes = self._by_length.setdefault(network.prefixlen, {})
                    prefixes[int(network.network_address) >> shift] = family_path
        self._lengths = sorted(self._by_length, reverse=True)

    def find(self, destination: bytes) -> FamilyPath | None:
        """The path to an address, None where no prefix matches."""
        number = int.from_bytes(destination)
        for length in self._lengths:
            path = self._by_length[length].get(number >> self._bits - length)
            if path is not None:
                return path
        return None
