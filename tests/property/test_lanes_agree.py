"""Each lane is the other's oracle: the same packets out, the same rows in, the same ledger, whatever happens."""

from __future__ import annotations

import dataclasses
import random
from ipaddress import ip_address
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from allhops.core.lanes import Block, Ring
from allhops.core.lanes.scalar import ScalarLane
from allhops.core.lanes.vector import VectorLane
from allhops.core.ledger import ANSWERED, CANCELLED, IN_FLIGHT, TIMED_OUT, UNSENT, Counters, Ledger
from allhops.core.plan import Plan
from allhops.model import Protocol
from allhops.options import TraceOptions
from allhops.testing.packets import ACK, LAYOUTS, RST, SYN
from allhops.wire import probes
from benchmarks.fuzz import mutated
from benchmarks.replies import (
    COOKIE,
    KEY,
    MPLS,
    SOURCES,
    changed,
    datagram,
    echo_reply,
    error_about,
    plan_for,
    probe_of,
    tcp_answer,
    valid_replies,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

TYPES = [(protocol, version) for protocol in Protocol for version in (4, 6)]


def padded_replies(protocol: Protocol, version: int) -> list[bytes]:
    """8 bytes of the transport header and zeros, to several lengths, with extensions and without."""
    probe, least = probe_of(plan_for(protocol, version)), LAYOUTS[version].header_bytes + 8
    return [
        *(error_about(probe[:least] + bytes(zeros)) for zeros in (1, 4, 8, 9, 100)),
        error_about(probe, quote=least, structure=MPLS),
        error_about(probe[:least] + bytes(16) + b"\1"),
    ]


EVERY_REPLY = [reply for kind in TYPES for reply in (*valid_replies(*kind), *padded_replies(*kind))]
COLUMNS = [name for name in vars(Ledger(1)) if name not in ("counters", "_bare_before")]


# Building


@st.composite
def plans(draw: st.DrawFn, kind: tuple[Protocol, int] | None = None) -> Plan:
    protocol, version = kind or draw(st.sampled_from(TYPES))
    layout = probes.LAYOUTS[protocol, version]
    address = st.binary(min_size=layout.family.address_size, max_size=layout.family.address_size)
    first_ttl = draw(st.integers(1, 12))
    return Plan(
        layout=layout,
        options=TraceOptions(
            protocol=protocol,
            first_ttl=first_ttl,
            max_ttl=draw(st.one_of(st.integers(first_ttl, 20), st.just(255))),
            attempts=draw(st.integers(1, 10)),
            destination_port=None if protocol is Protocol.ICMP else draw(st.integers(1, 65_535)),
            tos=draw(st.integers(0, 255)),
            dont_fragment=draw(st.booleans()),
            flow_label=draw(st.integers(0, (1 << 20) - 1)) if version == 6 else None,
        ),
        destinations=tuple(draw(st.lists(address, min_size=1, max_size=5))),
        source=draw(address),
        source_ports=tuple(draw(st.lists(st.integers(0, 65_535), min_size=1, max_size=3))),
        key=draw(st.integers(0, 0xFFFF)),
        cookie=draw(st.binary(min_size=4, max_size=4)),
        size=draw(st.integers(layout.smallest_size, 200)),
        spare_attempts=draw(st.integers(0, 6)),
    )


def launched(plan: Plan, slots: Sequence[int]) -> tuple[Block, Block]:
    wanted = np.array(slots, np.int64)
    return ScalarLane(Counters()).launch(plan, slots), VectorLane(Counters()).launch(plan, wanted)


@given(plan=plans(), data=st.data())
def test_the_same_probes_leave(plan: Plan, data: st.DataObject) -> None:
    slots = data.draw(st.lists(st.integers(0, plan.slots - 1), max_size=20))
    one, other = launched(plan, slots)
    assert one.packets == other.packets
    assert (one.size, len(one), list(one.slots)) == (other.size, len(other), list(other.slots))


@given(plan=plans(), headroom=st.integers(0, 20), data=st.data())
def test_the_same_probes_leave_behind_room_for_a_link_header(plan: Plan, headroom: int, data: st.DataObject) -> None:
    slots = data.draw(st.lists(st.integers(0, plan.slots - 1), max_size=20))
    plain = ScalarLane(Counters()).launch(plan, slots)
    roomy = VectorLane(Counters(), headroom).launch(plan, np.array(slots, np.int64))
    assert (roomy.headroom, roomy.stride) == (headroom, headroom + plain.size)
    rows = np.frombuffer(roomy.packets, np.uint8).reshape(len(slots), roomy.stride)
    assert rows[:, headroom:].tobytes() == plain.packets


@given(kind=st.sampled_from(TYPES), data=st.data())
def test_the_same_probes_leave_where_checksums_are_zero(kind: tuple[Protocol, int], data: st.DataObject) -> None:
    """Whatever the rest of the template adds up to, some source port makes the checksum one of the two zeros."""
    plan = data.draw(plans(kind))
    port, checksum = plan.source_ports[0], plan.template(0).checksum
    ports = tuple((port + checksum + step) % 0xFFFF for step in (-1, 0, 1))
    plan = dataclasses.replace(plan, source_ports=ports)
    assert 0xFFFF in {plan.template(course).checksum for course in range(3)}
    one, other = launched(plan, [plan.slot(course, plan.options.max_ttl, 0) for course in range(plan.courses)])
    assert one.packets == other.packets


# Reading


def assert_same_reading(ring: Ring) -> None:
    scalar, vector = ScalarLane(Counters()), VectorLane(Counters())
    rows = scalar.unpack(ring)
    replies = vector.unpack(ring)
    assert list(replies.rows()) == rows
    assert scalar.counters == vector.counters
    columns = (replies.flow, replies.cookie, replies.has_cookie)
    read = zip(*(column.tolist() for column in columns), strict=True)
    assert [(flow, cookie.to_bytes(4) if has else None) for flow, cookie, has in read] == [
        (row.probe.flow, row.probe.cookie) for row in rows
    ]
    for layout in probes.LAYOUTS.values():
        assert replies.is_about(layout).tolist() == [row.probe.layout is layout for row in rows]
    assert replies.is_bare.tolist() == [row.probe.is_bare for row in rows]


def ring_of(packets: Sequence[bytes], hearsay: int = 0) -> Ring:
    """Rows hold what earlier packets left in them."""
    ring = Ring(max(1, len(packets)))
    ring.octets[:] = random.Random(len(packets)).randbytes(len(ring.octets))
    for number, packet in enumerate(packets):
        ring.append(packet, 1_000 + number, hearsay if number % 2 else 0)
    return ring


@settings(max_examples=200, deadline=None)
@given(picked=st.lists(st.sampled_from(EVERY_REPLY), max_size=12), seed=st.integers(0, 1 << 32), data=st.data())
def test_the_same_replies_are_read(picked: list[bytes], seed: int, data: st.DataObject) -> None:
    chance = random.Random(seed)
    packets = []
    for packet in picked:
        how = data.draw(st.sampled_from(["true", "cut", "mutated", "random"]))
        if how == "cut":
            packet = packet[: data.draw(st.integers(0, len(packet)))]
        elif how == "mutated":
            packet = mutated(packet, chance)
        elif how == "random":
            packet = packet[: chance.randrange(60)] + chance.randbytes(chance.randrange(200))
        packets.append(packet)
    assert_same_reading(ring_of(packets, hearsay=data.draw(st.integers(0, 63))))


@given(packets=st.lists(st.binary(max_size=300), max_size=5))
def test_noise_is_counted_alike(packets: list[bytes]) -> None:
    assert_same_reading(ring_of(packets))
    for first in (b"\x45", b"\x60"):
        assert_same_reading(ring_of([first + packet for packet in packets]))


def test_every_single_byte_of_a_reply_may_be_wrong() -> None:
    for kind in TYPES:
        for reply in (*valid_replies(*kind), *padded_replies(*kind)[-2:]):
            wrong = [
                reply[:at] + bytes((value,)) + reply[at + 1 :]
                for at in range(len(reply))
                for value in (0, 0xFF, reply[at] ^ 1)
            ]
            assert_same_reading(ring_of(wrong))


# Recording


class Course:
    """A plan of a few destinations, two ledgers, and the replies that its probes may get."""

    def __init__(self, kind: tuple[Protocol, int], *, destinations: int, ports: tuple[int, ...], asked: bool) -> None:
        protocol, version = kind
        layout = probes.LAYOUTS[kind]
        first = ip_address({4: "203.0.113.1", 6: "2001:db8:9::1"}[version])
        self.version, self.protocol = version, protocol
        self.plan = Plan(
            layout=layout,
            options=TraceOptions(protocol=protocol, max_ttl=6, attempts=2, source_port=ports[0] if asked else None),
            destinations=tuple((first + number).packed for number in range(destinations)),
            source=SOURCES[version],
            source_ports=ports,
            key=KEY,
            cookie=COOKIE,
            size=layout.family.default_size,
            spare_attempts=1,
        )

    def probe(self, slot: int) -> bytes:
        return bytes(ScalarLane(Counters()).launch(self.plan, [slot]).packets)

    def reply(self, slot: int, sort: int, chance: random.Random) -> bytes:
        """One of many sorts of reply to a probe: true, about another session's, NATed, forged, short, rich."""
        probe, layout = self.probe(slot), LAYOUTS[self.version]
        if sort == 0:
            return error_about(probe)
        if sort == 1:
            return error_about(probe[: layout.header_bytes + 8] + bytes(chance.choice((0, 0, 4, 40))))
        if sort == 2:
            return error_about(probe, quote=chance.randint(layout.header_bytes + 8, len(probe)))
        if sort == 3:
            destination = probe[layout.destination_at : layout.destination_end]
            return error_about(probe, kind=(layout.unreachable, layout.port_unreachable), source=destination)
        if sort == 4:
            return error_about(probe, kind=(layout.unreachable, layout.port_unreachable))
        if sort == 5:
            return self.answer(probe, chance)
        if sort == 6:
            return error_about(probe, structure=MPLS)
        if sort == 7:
            broken = MPLS[:-1] + bytes((MPLS[-1] ^ 1,))
            return error_about(probe, structure=broken)
        if sort == 8:
            edited = changed(probe, chance.randrange(1, len(probe) - 1), chance.randbytes(2))
            return error_about(edited, quote=chance.choice((None, 28, 48)))
        if sort == 9:
            return error_about(probe.replace(COOKIE, b"else"), quote=chance.choice((None, 28, 48)))
        if sort == 10:
            nobody = bytes((chance.choice((0, 127, 224, 255)),))
            return error_about(probe, source=nobody.ljust(len(self.plan.source), b"\1"))
        return mutated(self.answer(probe, chance), chance)

    def answer(self, probe: bytes, chance: random.Random) -> bytes:
        if self.protocol is Protocol.ICMP:
            return echo_reply(probe, payload=chance.choice((None, 0, 3, 6)))
        if self.protocol is Protocol.TCP:
            return tcp_answer(probe, chance.choice((SYN | ACK, RST | ACK)), echo=chance.choice((None, COOKIE)))
        return datagram(probe)


SORTS = 12


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(TYPES),
    destinations=st.sampled_from([1, 3]),
    ports=st.sampled_from([(40_000,), (40_000, 50_000)]),
    asked=st.booleans(),
    plain=st.booleans(),
    seed=st.integers(0, 1 << 32),
    count=st.integers(0, 150),
    calls=st.integers(1, 3),
)
def test_the_same_is_recorded(
    kind: tuple[Protocol, int],
    destinations: int,
    ports: tuple[int, ...],
    asked: bool,
    plain: bool,
    seed: int,
    count: int,
    calls: int,
) -> None:
    """Streams with duplicates, late replies, forgeries and strangers; all of it in one ring, or in several."""
    course = Course(kind, destinations=destinations, ports=ports, asked=asked)
    plan, chance = course.plan, random.Random(seed)
    states = bytes(chance.choices((IN_FLIGHT, UNSENT, ANSWERED, TIMED_OUT, CANCELLED), (20, 1, 1, 2, 1), k=plan.slots))
    scalar, vector = ScalarLane(Counters()), VectorLane(Counters())
    ledgers = Ledger(plan.slots, scalar.counters), Ledger(plan.slots, vector.counters)
    for ledger in ledgers:
        ledger.state[:] = states
    few = chance.sample(range(plan.slots), min(plan.slots, chance.choice((3, 40, plan.slots))))
    for _ in range(calls):
        packets = [
            course.reply(chance.choice(few), chance.randrange(6 if plain else SORTS), chance) for _ in range(count)
        ]
        ring = ring_of(packets, hearsay=chance.choice((0, 0, 0, 1, 8, 16, 32)))
        one = scalar.record(plan, ledgers[0], scalar.unpack(ring))
        other = vector.record(plan, ledgers[1], vector.unpack(ring))
        assert other.tolist() == one
        for name in COLUMNS:
            assert getattr(ledgers[0], name) == getattr(ledgers[1], name), name
        assert scalar.counters == vector.counters


@given(kind=st.sampled_from(TYPES), seed=st.integers(0, 1 << 32))
def test_the_same_share_goes_to_each_plan(kind: tuple[Protocol, int], seed: int) -> None:
    chance = random.Random(seed)
    plans = [plan_for(*kind, key=key) for key in (1, 2, KEY)]
    course = Course(kind, destinations=2, ports=(40_000,), asked=False)
    packets = [course.reply(chance.randrange(course.plan.slots), chance.randrange(SORTS), chance) for _ in range(10)]
    ring = ring_of(packets)
    scalar, vector = ScalarLane(Counters()), VectorLane(Counters())
    shares = scalar.share(plans, scalar.unpack(ring))
    assert [list(share.rows()) for share in vector.share(plans, vector.unpack(ring))] == shares
