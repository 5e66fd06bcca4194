"""Replies made by the thousand are those that a lane reads, and as right in every checksum as real ones."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.core.lanes import Ring
from allhops.core.lanes.scalar import ReplyRow, ScalarLane
from allhops.core.ledger import Counters
from allhops.core.plan import Plan
from allhops.model import Protocol
from allhops.options import TraceOptions
from allhops.testing import SyntheticInternet
from allhops.testing.mass_replies import ERROR_ROOM, Tally, reply
from allhops.testing.packets import read
from allhops.testing.synthetic import REACHED, SILENCE
from allhops.wire.checksum import MASK, word_sum
from allhops.wire.classify import CLOSED, DESTINATION, TIME_EXCEEDED
from allhops.wire.probes import LAYOUTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

COURSES, PORT = 40, 40_000
PROTOCOLS = pytest.mark.parametrize("protocol", list(Protocol))


@pytest.fixture(scope="module")
def internet() -> SyntheticInternet:
    return SyntheticInternet(4, destinations=1000, live_hosts=0.5)


def made_plan(internet: SyntheticInternet, protocol: Protocol, size: int) -> Plan:
    return Plan(
        layout=LAYOUTS[protocol, 4],
        options=TraceOptions(protocol=protocol, max_ttl=24),
        destinations=tuple(address.to_bytes(4) for address in internet.destinations()[:COURSES].tolist()),
        source=internet.source.packed,
        source_ports=(PORT,),
        key=0xBEEF,
        cookie=b"\xc0\x0c\x1e\x5a",
        size=size,
    )


def probes(plan: Plan) -> NDArray[np.uint8]:
    slots = [plan.slot(course, ttl, 0) for course in range(plan.courses) for ttl in range(1, 25)]
    block = ScalarLane(Counters()).launch(plan, slots)
    return np.frombuffer(block.packets, np.uint8).reshape(len(block), block.size)


def read_rows(packets: list[bytes]) -> list[ReplyRow]:
    ring, lane = Ring(max(1, len(packets))), ScalarLane(Counters())
    for number, packet in enumerate(packets):
        ring.append(packet, number)
    rows = lane.unpack(ring)
    assert lane.counters == Counters()
    return rows


@PROTOCOLS
@pytest.mark.parametrize("size", [60, 61, 800])
def test_the_lane_reads_what_the_model_says(internet: SyntheticInternet, protocol: Protocol, size: int) -> None:
    plan = made_plan(internet, protocol, size)
    sent, tally = probes(plan), Tally()
    came = reply(internet, sent, tally)
    every = [(int(probe), row.tobytes()) for some in came for probe, row in zip(some.probe, some.packets, strict=True)]
    rows = read_rows([packet for _, packet in every])
    assert len(rows) == len(every) == tally.time_exceeded + tally.reached
    assert tally.probes == len(sent) == len(every) + tally.silent
    for (probe, packet), row in zip(every, rows, strict=True):
        ttl, course = int(sent[probe, 8]), probe // 24
        distance = int(internet.distances(internet.destinations()[course : course + 1])[0])
        destination = IPv4Address(plan.destinations[course])
        assert row.kind == (TIME_EXCEEDED if ttl < distance else DESTINATION)
        assert row.probe.destination == plan.destinations[course]
        assert row.probe.mark is not None
        assert row.reply_ttl == (255 - ttl + 1 if ttl < distance else 64 - distance + 1)
        if protocol is Protocol.UDP:
            assert IPv4Address(row.responder) == internet.path(destination, PORT)[min(ttl, distance) - 1]
        if row.probe.is_quote:
            assert row.quoted_ttl == max(1, ttl - distance + 1)
            quote = packet[28:]
            assert word_sum(quote[:20]) == MASK
            original = sent[probe].tobytes()[: ERROR_ROOM - 28]
            assert quote[:8] + quote[9:10] + quote[12:] == original[:8] + original[9:10] + original[12:]
        elif protocol is Protocol.TCP:
            assert row.port_state == CLOSED
        assert not isinstance(read(packet), str)  # every checksum is right


@PROTOCOLS
def test_each_reply_takes_its_time(protocol: Protocol) -> None:
    internet = SyntheticInternet(4, destinations=1000, live_hosts=0.5, balanced=0)  # whatever the flow
    sent = probes(made_plan(internet, protocol, 60))
    destination = sent[:, 16:20].copy().view(">u4")[:, 0].astype(np.uint32)
    ports = np.full(len(sent), PORT, np.uint16)
    met = internet.answer(destination, sent[:, 8], ports)
    for some in reply(internet, sent, Tally()):
        assert np.array_equal(some.rtt_ns, met.rtt_ns[some.probe])
        assert (met.kind[some.probe] != SILENCE).all()
    assert (met.kind == REACHED).any()


def sound_probe(internet: SyntheticInternet) -> bytes:
    return bytes(probes(made_plan(internet, Protocol.UDP, 60))[0])


@pytest.mark.parametrize(
    ("at", "value", "counter"),
    [
        (0, 0x46, "malformed"),
        (0, 0x65, "foreign"),
        (2, 1, "malformed"),
        (6, 0x20, "malformed"),
        (8, 0, "malformed"),
        (9, 47, "foreign"),
        (10, 0x77, "bad_checksum"),
        (12, 9, "foreign"),
        (59, 0x77, "bad_checksum"),
    ],
)
def test_what_is_not_in_order_is_counted_and_dropped(
    internet: SyntheticInternet, at: int, value: int, counter: str
) -> None:
    packet = bytearray(sound_probe(internet))
    assert packet[at] != value
    packet[at] = value
    tally = Tally()
    assert reply(internet, np.frombuffer(packet, np.uint8)[None], tally) == []
    assert getattr(tally, counter) == 1
    assert tally.probes == 0


def test_a_udp_checksum_may_be_left_out(internet: SyntheticInternet) -> None:
    packet, tally = bytearray(sound_probe(internet)), Tally()
    packet[26:28] = b"\0\0"
    reply(internet, np.frombuffer(packet, np.uint8)[None], tally)
    assert tally.probes == 1


@given(st.binary(min_size=1, max_size=90))
def test_no_packet_is_too_strange(packet: bytes) -> None:
    tally = Tally()
    assert reply(SYNTHETIC, np.frombuffer(packet, np.uint8)[None], tally) == []
    assert tally.foreign + tally.malformed + tally.bad_checksum == 1


SYNTHETIC = SyntheticInternet(1, destinations=1)
