"""Replies of every sort to a probe of ours, as true as a router would make them: what tests and the fuzzer begin with.

Built by the simulated internet's own functions, which share no offset with the code under test.
"""

from __future__ import annotations

from ipaddress import ip_address
from struct import pack
from typing import TYPE_CHECKING, Any

from allhops.core.lanes import Ring
from allhops.core.lanes.scalar import ScalarLane
from allhops.core.ledger import IN_FLIGHT, Counters, Ledger
from allhops.core.plan import Plan
from allhops.model import Protocol
from allhops.options import TraceOptions
from allhops.testing.packets import (
    ACK,
    LAYOUTS,
    RST,
    SYN,
    TCP,
    UDP,
    Layout,
    icmp_message,
    ports_of,
    seal_header,
    tcp_segment,
    udp_datagram,
)

if TYPE_CHECKING:
    from collections.abc import Callable
from allhops.testing.quoting import extension_structure
from allhops.testing.scenario import ExtensionObject, Extensions, MplsLabel
from allhops.wire import probes

KEY = 0xBEEF
COOKIE = b"\xc0\x0c\x1e\x5a"
SOURCES = {4: ip_address("192.0.2.1").packed, 6: ip_address("2001:db8::1").packed}
DESTINATIONS = {4: ip_address("203.0.113.9").packed, 6: ip_address("2001:db8:9::9").packed}
ROUTERS = {4: ip_address("10.0.0.7").packed, 6: ip_address("2001:db8:1::7").packed}
STAMP_NS = 1_700_000_000_000_000_000

MPLS = extension_structure(Extensions(mpls=(MplsLabel(label=16001), MplsLabel(label=24005, tc=5, ttl=9))))
INTERFACE_DATA = bytes.fromhex("00000007 00010000 c0000201 08") + b"xe-0/01" + (9000).to_bytes(4)
INTERFACE = extension_structure(Extensions(objects=(ExtensionObject(class_num=2, c_type=0x8F, data=INTERFACE_DATA),)))


def plan_for(
    protocol: Protocol,
    version: int,
    *,
    source_port: int = 40_000,
    asked_port: int | None = None,
    key: int = KEY,
) -> Plan:
    """A plan for one destination whose secrets are known; `asked_port` is what the user chose, if they did."""
    layout = probes.LAYOUTS[protocol, version]
    return Plan(
        layout=layout,
        options=TraceOptions(protocol=protocol, source_port=asked_port),
        destinations=(DESTINATIONS[version],),
        source=SOURCES[version],
        source_ports=(source_port,),
        key=key,
        cookie=COOKIE,
        size=layout.family.default_size,
    )


def probe_of(plan: Plan, ttl: int = 7, attempt: int = 1) -> bytes:
    """The whole packet of one probe."""
    return bytes(ScalarLane(Counters()).launch(plan, [plan.slot(0, ttl, attempt)]).packets)


def packet(version: int, source: bytes, protocol: int, segment: bytes, ttl: int = 57) -> bytes:
    """A packet to us."""
    return LAYOUTS[version].header(source, SOURCES[version], protocol, len(segment), ttl, 0, 4711) + segment


def error_about(
    quoted: bytes,
    *,
    kind: tuple[int, int] | None = None,
    quote: int | None = None,
    structure: bytes = b"",
    length: int | None = None,
    source: bytes | None = None,
    rest: bytes = bytes(4),
) -> bytes:
    """An ICMP error that quotes `quote` bytes of a packet: Time Exceeded unless `kind` (type, code) says otherwise.

    With a `structure` of extensions behind it the quote is padded to 128 bytes; `length` is the attribute that says so.
    """
    version = quoted[0] >> 4
    layout = LAYOUTS[version]
    icmp_type, code = kind or (layout.time_exceeded, 0)
    body = quoted[:quote]
    if structure:
        body = body.ljust(128, b"\0") + structure
        at = layout.length_at - 4
        claimed = 128 // layout.length_unit if length is None else length
        rest = rest[:at] + bytes((claimed,)) + rest[at + 1 :]
    responder = source or ROUTERS[version]
    message = icmp_message(layout, responder, SOURCES[version], (icmp_type, code, rest), body)
    return packet(version, responder, layout.icmp, message)


def echo_reply(probe: bytes, *, payload: int | None = None, source: bytes | None = None) -> bytes:
    """The answer to an echo request, with so many bytes of its payload."""
    layout, us, them, request = _split(probe)
    responder = source or them
    kept = request[8:] if payload is None else request[8 : 8 + payload]
    message = icmp_message(layout, responder, us, (layout.echo_reply, 0, request[4:8]), kept)
    return packet(layout.version, responder, layout.icmp, message)


def tcp_answer(probe: bytes, flags: int = SYN | ACK, *, echo: bytes | None = None, shift: int = 1) -> bytes:
    """SYN-ACK or RST that acknowledges `shift` past the SYN; `echo` is the TSecr of a timestamp option."""
    layout, us, them, segment = _split(probe)
    here, there = ports_of(segment)
    acknowledged = int.from_bytes(segment[4:8]) + shift & 0xFFFFFFFF
    answer = tcp_segment(layout, them, us, (there, here), (99, acknowledged, flags))
    if echo is not None:
        options = pack("!BBBBI4s", 1, 1, 8, 10, 4711, echo)
        answer = answer[:12] + bytes((len(answer) + len(options) << 2,)) + answer[13:] + options
    return packet(layout.version, them, TCP, answer)


def _split(probe: bytes) -> tuple[Layout, bytes, bytes, bytes]:
    """Layout, source, destination and transport of a probe, right or wrong."""
    layout = LAYOUTS[probe[0] >> 4]
    addresses = probe[layout.source_at : layout.destination_end]
    middle = len(addresses) // 2
    return layout, addresses[:middle], addresses[middle:], probe[layout.header_bytes :]


def datagram(probe: bytes) -> bytes:
    """A UDP answer that brings the payload back."""
    layout, us, them, sent = _split(probe)
    here, there = ports_of(sent)
    return packet(layout.version, them, UDP, udp_datagram(layout, them, us, (there, here), sent[8:]))


def changed(whole: bytes, at: int, value: bytes) -> bytes:
    """A packet with some bytes replaced, IPv4 header checksum made right."""
    edited = bytearray(whole)
    edited[at : at + len(value)] = value
    if edited[0] >> 4 == 4:
        head = edited[:20]
        seal_header(head)
        edited[:20] = head
    return bytes(edited)


def valid_replies(protocol: Protocol, version: int) -> list[bytes]:
    """One of each sort that this probe type can get."""
    probe = probe_of(plan_for(protocol, version))
    layout = LAYOUTS[version]
    answers: list[Callable[[bytes], bytes]] = {
        Protocol.ICMP: [echo_reply, lambda probe: echo_reply(probe, payload=0)],
        Protocol.TCP: [lambda probe: tcp_answer(probe, echo=COOKIE), lambda probe: tcp_answer(probe, RST | ACK)],
        Protocol.UDP: [datagram],
    }[protocol]
    return [
        error_about(probe),
        error_about(probe, quote=layout.header_bytes + 8),
        error_about(probe, kind=(layout.unreachable, layout.port_unreachable), source=DESTINATIONS[version]),
        error_about(probe, kind=layout.too_big, rest=(1280).to_bytes(4)),
        error_about(probe, structure=MPLS),
        error_about(probe, structure=MPLS, length=0),
        error_about(probe, structure=INTERFACE),
        *(answer(probe) for answer in answers),
    ]


class Bench:
    """A lane, a plan and its ledger with every probe in flight: replies in, slots out."""

    def __init__(self, plan: Plan, make_lane: Callable[[Counters], Any] = ScalarLane) -> None:
        self.plan = plan
        self.counters = Counters()
        self.lane = make_lane(self.counters)
        self.ledger = Ledger(plan.slots, self.counters)
        self._ring = Ring()
        for slot in range(plan.slots):
            self.ledger.state[slot] = IN_FLIGHT
            self.ledger.sent_ns[slot] = STAMP_NS - 1_000_000

    def receive(self, *packets: bytes, stamp_ns: int = STAMP_NS) -> list[int]:
        """Feed packets; the slots that they answered."""
        answered: list[int] = []
        ring = self._ring
        for start in range(0, len(packets), ring.capacity):
            ring.clear()
            for one in packets[start : start + ring.capacity]:
                ring.append(one, stamp_ns)
            answered += self.lane.record(self.plan, self.ledger, self.lane.unpack(ring))
        return answered
