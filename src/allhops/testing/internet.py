"""An internet that is asked: a packet goes in, the packets that come back go out, each with its time.

`Internet` plays a scenario. It opens no socket, reads no clock and waits for
nobody: `now_ns` is an argument, and the answers say when they arrive. So it
stands behind a virtual clock (FakeNet) as well as behind a TUN device
(`allhops.testing.tun`). Given the same seed, packets and times, it answers the
same.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from ipaddress import ip_address
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from allhops.errors import UsageError
from allhops.model import Address, Protocol, ReplyKind
from allhops.testing import nameserver
from allhops.testing.packets import (
    LAYOUTS,
    TCP,
    UDP,
    Layout,
    Sent,
    flow_hash,
    ports_of,
    read,
    restored,
    translated,
    udp_datagram,
    udp_or_tcp_hash,
)
from allhops.testing.responder import Device, Responder, Visit
from allhops.testing.routes import FamilyPath, Fate, Meeting, PathTable, Route
from allhops.testing.scenario import NatRestores

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.testing.scenario import Nat, Scenario

DUPLICATE_SPACING_NS = 100_000
"""Between the copies of a duplicated reply."""
DNS_PORT = 53
DNS_REPLY_TTL = 64

COUNTERS = {
    "received": "packets that came in",
    "replies": "packets that went out, duplicates included",
    "duplicates": "extra copies among the replies",
    "malformed": "dropped: too short, or a length field that lies",
    "bad_ip_checksum": "dropped: IPv4 header checksum",
    "bad_transport_checksum": "dropped: UDP, TCP or ICMP checksum",
    "fragment": "dropped: IPv4 fragment",
    "ttl_zero": "dropped: came in with TTL or hop limit 0",
    "not_from_vantage": "dropped: source is not the vantage point's",
    "multicast": "ignored: neighbour and router discovery, and the like",
    "no_route": "dropped: no path to this destination",
    "forward_lost": "lost on the way there",
    "silent": "reached a device that does not answer",
    "rate_limited": "not answered: the device's limit",
    "reply_lost": "answered, and the answer lost",
    "reply_expired": "answered, and the answer's TTL ran out on the way back",
    "not_a_probe": "not answered: RST, bare ACK, ICMP that is no echo request",
    "unknown_protocol": "reached the destination, which does not know the protocol",
    "dns_queries": "queries to the name server",
}
"""What `Internet.counters` counts; every packet received is a reply, or counted under one reason why not."""


class Arrival(NamedTuple):
    """A packet that comes back to the vantage point."""

    at_ns: int
    packet: bytes
    """Full IP packet."""


class TruthHop(NamedTuple):
    """What one TTL is bound to show, loss, limits and jitter apart."""

    ttl: int
    address: Address | None
    """The responder; None when it is silent."""
    rtt_ns: int
    kind: ReplyKind

    @property
    def is_destination(self) -> bool:
        """Whether this is the destination, silent or not."""
        return self.kind is ReplyKind.DESTINATION


KINDS = {
    Fate.EXPIRED: ReplyKind.TIME_EXCEEDED,
    Fate.BLOCKED: ReplyKind.UNREACHABLE,
    Fate.TOO_BIG: ReplyKind.UNREACHABLE,
    Fate.ARRIVED: ReplyKind.DESTINATION,
}


class Internet:
    """Plays a scenario: packets in, packets and their arrival times out."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.counters: Counter[str] = Counter()
        """By the names in `COUNTERS`."""
        self._random: Callable[[], float] = Random(scenario.seed).random
        self._devices: dict[str, Device] = {}
        self._responders: dict[tuple[str, int], Responder] = {}
        self._tables = {
            version: PathTable(scenario, layout, self._finder(layout)) for version, layout in LAYOUTS.items()
        }
        vantage = scenario.vantage
        self._vantage = {address.packed for address in (vantage.ipv4, vantage.ipv6) if address}
        self._name_server = scenario.dns.address.packed if scenario.dns else None

    def __repr__(self) -> str:
        received, replies = self.counters["received"], self.counters["replies"]
        return f"<Internet {self.scenario.origin} [{received} received, {replies} replies]>"

    def prepare(self) -> None:
        """Do now what the first packet would wait for; worth it before a real clock."""
        if self.scenario.dns:
            nameserver.prepare()
            assert self._names is not None  # computed by being asked for

    def packet_sent(self, packet: bytes, now_ns: int) -> list[Arrival]:
        """What comes back, and when, for a full IP packet sent at `now_ns` (any epoch, never backwards).

        A packet that is not in order is dropped and counted, as a router would.
        """
        self.counters["received"] += 1
        sent = self._accept(packet)
        if isinstance(sent, str):
            self.counters[sent] += 1
            return []
        path = self._tables[sent.layout.version].find(sent.destination)
        if path is None:
            return self._without_path(sent, now_ns)
        if path.forward_loss and self._random() < path.forward_loss:
            self.counters["forward_lost"] += 1
            return []
        route = path.route(flow_hash(sent), self._random)
        meeting = route.meet(sent.ttl, len(packet), fragile=sent.fragile)
        if meeting.fate is Fate.ARRIVED and self._is_query(sent):
            return self._dns_answer(sent, now_ns)
        return self._answer(sent, path, meeting, now_ns)

    def name_of(self, address: str | Address) -> str | None:
        """DNS name of a device or destination, None where it has none."""
        return self._names.name_of(ip_address(address))

    def address_of(self, name: str, version: int) -> Address | None:
        """Address of a name in family 4 or 6, None where there is none."""
        return self._names.address_of(name, version)

    def truth(
        self,
        destination: str | Address,
        *,
        packet: bytes | None = None,
        protocol: Protocol = Protocol.UDP,
        ports: tuple[int, int] | None = None,
        flow_label: int = 0,
        max_ttl: int = 64,
    ) -> tuple[TruthHop, ...]:
        """What every TTL of one flow must show, from 1 to the destination or whoever ends the path.

        The flow is that of `packet`, any full IP packet of it, or of UDP or TCP
        `ports` (source, destination) with the IPv6 `flow_label`; on a path without
        diamonds it does not matter and may be left out. `protocol` also decides how
        the destination answers. A path that does not end, a loop, is given up to
        `max_ttl`.

        Raises:
            UsageError: no path, a diamond but no flow, or a diamond that chooses by chance (see `possible`).
        """
        address = ip_address(destination)
        path = self._path(address)
        if path.random:
            raise UsageError(f"{address}: its path is balanced by packet; ask Internet.possible instead")
        flow = self._flow(address, packet, protocol, ports, flow_label)
        if path.balanced and flow is None:
            raise UsageError(f"{address}: its path is balanced by flow; say packet= or ports=")
        return _truth(path.route(flow or 0, self._random), address, protocol, max_ttl)

    def possible(
        self, destination: str | Address, *, protocol: Protocol = Protocol.UDP, max_ttl: int = 64
    ) -> tuple[frozenset[Address | None], ...]:
        """For every TTL from 1, all responders that some flow, or chance, can show there; None is silence.

        Raises:
            UsageError: there is no path.
        """
        address = ip_address(destination)
        truths = [_truth(route, address, protocol, max_ttl) for route in self._path(address).routes()]
        length = max(map(len, truths))
        return tuple(frozenset(truth[at].address for truth in truths if at < len(truth)) for at in range(length))

    @cached_property
    def _names(self) -> nameserver.Names:
        return nameserver.Names(self.scenario)

    def _finder(self, layout: Layout) -> Callable[[str], Responder]:
        def find(key: str) -> Responder:
            responder = self._responders.get((key, layout.version))
            if responder is None:
                device = self._devices.get(key)
                if device is None:
                    device = self._devices[key] = Device(self.scenario.routers[key], self._random)
                responder = self._responders[key, layout.version] = Responder(device, layout)
            return responder

        return find

    def _accept(self, packet: bytes) -> Sent | str:
        sent = read(packet)
        if isinstance(sent, str):
            return sent
        first = sent.destination[0]
        if first == 0xFF if sent.layout.version == 6 else first >= 224:
            return "multicast"
        if sent.source not in self._vantage:
            return "not_from_vantage"
        return sent if sent.ttl else "ttl_zero"

    def _without_path(self, sent: Sent, now_ns: int) -> list[Arrival]:
        if self._is_query(sent):
            return self._dns_answer(sent, now_ns)
        self.counters["no_route"] += 1
        return []

    def _answer(self, sent: Sent, path: FamilyPath, meeting: Meeting, now_ns: int) -> list[Arrival]:
        fate, responder, rtt_ns, position = meeting
        seen = sent
        if path.nat is not None and position >= path.nat.after_ttl:
            seen = _beyond(sent, path.nat)
        visit = Visit(sent, seen, sent.ttl - position, position, now_ns)
        if fate is Fate.ARRIVED:
            packet = responder.arrived(visit)
        elif fate is Fate.EXPIRED:
            packet = responder.error(visit, (sent.layout.time_exceeded, 0, 0))
        elif fate is Fate.TOO_BIG:
            packet = responder.refusal(visit)
        else:
            blocks = responder.blocks
            assert blocks is not None  # it is what blocked
            packet = responder.error(visit, (blocks.type, blocks.code, blocks.mtu))
        if isinstance(packet, str):
            self.counters[packet] += 1
            return []
        return self._arrivals(packet, responder.device, now_ns + rtt_ns)

    def _arrivals(self, packet: bytes, device: Device, at_ns: int) -> list[Arrival]:
        if device.loss and self._random() < device.loss:
            self.counters["reply_lost"] += 1
            return []
        router = device.router
        copies = 1 + router.duplicate
        self.counters["replies"] += copies
        if router.duplicate:
            self.counters["duplicates"] += router.duplicate
        if not router.jitter_ns:
            return [Arrival(at_ns + copy * DUPLICATE_SPACING_NS, packet) for copy in range(copies)]
        return [
            Arrival(at_ns + copy * DUPLICATE_SPACING_NS + int(self._random() * router.jitter_ns), packet)
            for copy in range(copies)
        ]

    def _is_query(self, sent: Sent) -> bool:
        return (
            sent.destination == self._name_server
            and sent.protocol == UDP
            and ports_of(sent.packet[sent.transport :])[1] == DNS_PORT
        )

    def _dns_answer(self, sent: Sent, now_ns: int) -> list[Arrival]:
        self.counters["dns_queries"] += 1
        server, layout = self.scenario.dns, sent.layout
        assert server is not None  # `_is_query` compared with its address
        if server.loss and self._random() < server.loss:
            self.counters["reply_lost"] += 1
            return []
        payload = nameserver.answer(sent.packet[sent.transport + 8 :], self._names, server.answer)
        if payload is None:
            self.counters["silent"] += 1
            return []
        client, port = ports_of(sent.packet[sent.transport :])
        datagram = udp_datagram(layout, sent.destination, sent.source, (port, client), payload)
        header = layout.header(sent.destination, sent.source, UDP, len(datagram), DNS_REPLY_TTL, 0, 1)
        self.counters["replies"] += 1
        return [Arrival(now_ns + server.rtt_ns, header + datagram)]

    def _path(self, address: Address) -> FamilyPath:
        path = self._tables[address.version].find(address.packed)
        if path is None:
            raise UsageError(f"{address}: the scenario {self.scenario.origin} has no path there")
        return path

    def _flow(
        self,
        address: Address,
        packet: bytes | None,
        protocol: Protocol,
        ports: tuple[int, int] | None,
        flow_label: int,
    ) -> int | None:
        if packet is not None:
            sent = read(packet)
            if isinstance(sent, str):
                raise UsageError(f"packet=: not a packet in order: {sent}")
            return flow_hash(sent)
        if ports is None:
            return None
        if protocol is Protocol.ICMP:
            raise UsageError("ports=: an ICMP flow has none; say packet=")
        vantage = self.scenario.vantage
        source = vantage.ipv4 if address.version == 4 else vantage.ipv6
        if source is None:
            raise UsageError(f"{address}: the vantage point has no IPv{address.version} address")
        number = UDP if protocol is Protocol.UDP else TCP
        return udp_or_tcp_hash(source.packed, address.packed, number, ports, flow_label)


def _beyond(sent: Sent, nat: Nat) -> Sent:
    """The packet as devices past the NAT see it, or as the NAT shows it when they quote it."""
    if nat.restores is NatRestores.ALL:
        return sent
    address = nat.source if sent.layout.version == 4 else nat.source_ipv6
    after = translated(sent, address.packed if address else sent.source, nat.port_shift)
    if nat.restores is NatRestores.NOTHING:
        return after
    return restored(sent, after)


def _truth(route: Route, destination: Address, protocol: Protocol, max_ttl: int) -> tuple[TruthHop, ...]:
    hops: list[TruthHop] = []
    for ttl in range(1, max_ttl + 1):
        fate, responder, rtt_ns, _ = route.meet(ttl, 0, fragile=False)
        address = responder.shows(destination, protocol, arrived=fate is Fate.ARRIVED)
        hops.append(TruthHop(ttl, address, rtt_ns, KINDS[fate]))
        if fate is not Fate.EXPIRED:
            break
    return tuple(hops)
