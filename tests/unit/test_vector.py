"""The vector lane's own edges: what look-up tables and arrays might get wrong where one packet at a time cannot."""

from __future__ import annotations

import numpy as np
import pytest

from allhops.core.answers import key_of
from allhops.core.lanes import ROW_SIZE, Ring
from allhops.core.lanes.scalar import ScalarLane
from allhops.core.lanes.tables import UNKNOWN, tables_of
from allhops.core.lanes.vector import VectorLane
from allhops.core.ledger import ANSWERED, IN_FLIGHT, MAX_GUESSES, Counters, Ledger
from allhops.core.plan import Plan
from allhops.model import Protocol
from allhops.options import TraceOptions
from allhops.wire.probes import LAYOUTS
from benchmarks.lanes import plan_of_many
from benchmarks.replies import COOKIE, KEY, ROUTERS, SOURCES, changed, error_about, packet, tcp_answer

EVERY_TYPE = [(protocol, version) for protocol in Protocol for version in (4, 6)]


def plan_to(*destinations: bytes, protocol: Protocol = Protocol.UDP, size: int | None = None) -> Plan:
    layout = LAYOUTS[protocol, 4 if len(destinations[0]) == 4 else 6]
    return Plan(
        layout=layout,
        options=TraceOptions(protocol=protocol, max_ttl=8, attempts=1),
        destinations=destinations,
        source=SOURCES[layout.family.version],
        source_ports=(40_000,),
        key=KEY,
        cookie=COOKIE,
        size=size or layout.family.default_size,
    )


def ring_of(*packets: bytes) -> Ring:
    ring = Ring(max(1, len(packets)))
    ring.octets[:] = b"\xaa" * len(ring.octets)  # what earlier packets left there
    for one in packets:
        ring.append(one, 5)
    return ring


def probes(plan: Plan, slots: list[int]) -> list[bytes]:
    packets = bytes(VectorLane(Counters()).launch(plan, np.array(slots, np.int64)).packets)
    return [packets[start : start + plan.size] for start in range(0, len(packets), plan.size)]


class Pair:
    """Both lanes over the same packets, every probe in flight."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.scalar, self.vector = ScalarLane(Counters()), VectorLane(Counters())
        self.ledgers = Ledger(plan.slots, self.scalar.counters), Ledger(plan.slots, self.vector.counters)
        for ledger in self.ledgers:
            ledger.state[:] = bytes((IN_FLIGHT,)) * plan.slots

    def receive(self, *packets: bytes) -> list[int]:
        ring = ring_of(*packets)
        one = self.scalar.record(self.plan, self.ledgers[0], self.scalar.unpack(ring))
        other = self.vector.record(self.plan, self.ledgers[1], self.vector.unpack(ring))
        assert other.tolist() == one
        assert self.scalar.counters == self.vector.counters
        for name in vars(self.ledgers[0]):
            assert getattr(self.ledgers[0], name) == getattr(self.ledgers[1], name), name
        return one


def test_nothing_in_nothing_out() -> None:
    plan = plan_to(b"\xcb\0\x71\1")
    lane = VectorLane(Counters())
    block = lane.launch(plan, np.zeros(0, np.int64))
    assert (len(block), bytes(block.packets)) == (0, b"")
    replies = lane.unpack(Ring())
    assert len(replies) == 0
    assert list(replies.rows()) == []
    assert lane.record(plan, Ledger(plan.slots), replies).tolist() == []
    assert lane.counters == Counters()


@pytest.mark.parametrize(("protocol", "version"), EVERY_TYPE)
def test_every_destination_is_found_the_last_one_too(protocol: Protocol, version: int) -> None:
    plan = plan_of_many(protocol, version, destinations=300)
    slots = [plan.slot(course, course % 20 + 1, 0) for course in range(plan.courses)]
    pair = Pair(plan)
    assert pair.receive(*(error_about(probe) for probe in probes(plan, slots))) == slots


def test_an_ordinary_reply_is_never_looked_at_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise all would agree, and nothing would be faster."""

    def refuse(*arguments: object) -> None:
        raise AssertionError(arguments)

    for protocol, version in EVERY_TYPE:
        plan = plan_of_many(protocol, version, destinations=20)
        slots = [plan.slot(course, 7, 0) for course in range(plan.courses)]
        short = None if version == 6 else 28
        packets = [
            error_about(probe, quote=short if number % 2 else None) for number, probe in enumerate(probes(plan, slots))
        ]
        with monkeypatch.context() as patched:
            for name in ("dissect", "match", "enter"):
                patched.setattr(f"allhops.core.lanes.vector.{name}", refuse)
            lane = VectorLane(Counters())
            ledger = Ledger(plan.slots, lane.counters)
            ledger.state[:] = bytes((IN_FLIGHT,)) * plan.slots
            assert lane.record(plan, ledger, lane.unpack(ring_of(*packets))).tolist() == slots


LINUX = "020405b40402080a00001267{}01030307"
BSD = "020405b4010303060402080a00001267{}"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("options", [LINUX, BSD])
@pytest.mark.parametrize("echo", [COOKIE, bytes(4), b"else"])
def test_time_stamps_are_found_where_common_stacks_put_them(version: int, options: str, echo: bytes) -> None:
    plan = plan_of_many(Protocol.TCP, version, destinations=3)
    (probe,) = probes(plan, [plan.slot(1, 4, 0)])
    bare = tcp_answer(probe)
    header = LAYOUTS[Protocol.TCP, version].family.header_size
    segment = bare[header : header + 12] + b"\xa0" + bare[header + 13 :] + bytes.fromhex(options.format(echo.hex()))
    answer = packet(version, plan.destinations[1], 6, segment)
    assert Pair(plan).receive(answer) == ([] if echo == b"else" else [plan.slot(1, 4, 0)])
    for at in range(header + 12, len(answer)):
        for value in (0, 1, 2, 0xFF):
            Pair(plan).receive(answer[:at] + bytes((value,)) + answer[at + 1 :], answer[:at])


def test_a_destination_that_is_asked_twice_is_the_later_one() -> None:
    address, other = b"\xcb\0\x71\1", b"\xcb\0\x71\2"
    plan = plan_to(address, other, address)
    pair = Pair(plan)
    assert pair.receive(error_about(probes(plan, [plan.slot(0, 3, 0)])[0])) == [plan.slot(2, 3, 0)]


def colliding_with(address: bytes, low: int) -> bytes:
    """An IPv6 address with another lower half and the same key."""
    lower = np.array([0, low], np.uint64)
    upper = key(address) ^ key(lower.tobytes())
    return np.array([upper, low], np.uint64).tobytes()


def key(address: bytes) -> int:
    return int(key_of(np.frombuffer(address, np.uint8)))


def test_ipv6_addresses_may_share_a_key() -> None:
    first = bytes.fromhex("20010db8000900000000000000000001")
    second, stranger = colliding_with(first, 12_345), colliding_with(first, 54_321)
    assert len({key(first), key(second), key(stranger)}) == 1
    plan = plan_to(first, second)
    pair = Pair(plan)
    slots = [plan.slot(course, ttl, 0) for ttl in (1, 2) for course in (0, 1)]
    assert pair.receive(*(error_about(probe) for probe in probes(plan, slots))) == slots
    quoted = changed(probes(plan, slots[:1])[0], 24, stranger)
    assert pair.receive(error_about(quoted)) == []
    assert pair.vector.counters.foreign == 1


def test_other_peoples_destinations_and_ports_are_strange() -> None:
    plan = plan_to(b"\xcb\0\x71\1", b"\xcb\0\x71\2")
    (probe,) = probes(plan, [3])
    stranger = probe.replace(COOKIE, b"else")
    pair = Pair(plan)
    assert (
        pair.receive(
            error_about(changed(stranger, 16, b"\xcb\0\x71\3")),
            error_about(changed(stranger, 20, b"\x11\x11")),
            error_about(changed(probe, 16, b"\xcb\0\x71\3")),
        )
        == []
    )
    assert pair.vector.counters.foreign == 3


@pytest.mark.parametrize(("protocol", "version"), [(Protocol.UDP, 4), (Protocol.UDP, 6), (Protocol.ICMP, 6)])
@pytest.mark.parametrize("size", [100, 300, 700, 1_400])
def test_large_probes_quoted_in_full_come_with_small_ones(protocol: Protocol, version: int, size: int) -> None:
    destination = b"\xcb\0\x71\1" if version == 4 else bytes.fromhex("20010db8000900000000000000000001")
    plan = plan_to(destination, protocol=protocol, size=size)
    slots = [plan.slot(0, ttl, 0) for ttl in range(1, 9)]
    packets = [error_about(probe) for probe in probes(plan, slots)]
    whole = LAYOUTS[protocol, version].family.header_size + 48
    packets[3] = error_about(probes(plan, slots)[3], quote=whole)
    packets[5] = packets[5][:-1] + bytes((packets[5][-1] ^ 1,))
    pair = Pair(plan)
    assert pair.receive(*packets) == slots[:5] + slots[6:]
    assert pair.vector.counters.malformed == 1


def test_a_packet_that_fills_its_row_is_read() -> None:
    plan = plan_to(b"\xcb\0\x71\1", size=ROW_SIZE - 28)
    pair = Pair(plan)
    (probe,) = probes(plan, [2])
    assert pair.receive(error_about(probe)) == [2]


@pytest.mark.parametrize("version", [4, 6])
def test_nothing_behind_the_memory_is_read(version: int) -> None:
    """A packet may end where somebody else's memory ends, and a matrix of packets be wider than it."""
    plan = plan_of_many(Protocol.UDP, version, destinations=3)
    slots = [plan.slot(course, 4, 0) for course in range(plan.courses)]
    short = LAYOUTS[Protocol.UDP, version].family.header_size + 8
    own = ring_of(*(error_about(probe, quote=short) for probe in probes(plan, slots)))
    ring = Ring(own.capacity, memoryview(own.octets)[: own.starts[2] + own.lengths[2]])
    ring.starts, ring.lengths, ring.stamps_ns, ring.count = own.starts, own.lengths, own.stamps_ns, own.count
    scalar, vector = ScalarLane(Counters()), VectorLane(Counters())
    assert vector.unpack(ring).rows() == scalar.unpack(ring)
    assert len(scalar.unpack(ring)) == 3
    assert vector.counters == Counters()


def test_guesses_count_in_the_order_in_which_they_came() -> None:
    """Before the last guess a reply without the cookie counts, after it it does not, in one ring."""
    plan = plan_to(b"\xcb\0\x71\1", b"\xcb\0\x71\2")
    slots = [plan.slot(0, 1, 0), plan.slot(1, 1, 0), plan.slot(1, 2, 0)]
    before, after, proven = probes(plan, slots)
    guess = error_about(changed(after, 26, b"\x12\x34"), quote=28)
    pair = Pair(plan)
    guesses = [guess] * (MAX_GUESSES + 1)
    assert pair.receive(
        *guesses[:-1], error_about(before, quote=28), guesses[-1], error_about(after, quote=28), error_about(proven)
    ) == [slots[0], slots[2]]


def test_a_forgery_that_comes_first_is_seen_beside_the_truth() -> None:
    """The odd one is looked at alone, the ordinary one is not: they still come in their order."""
    plan = plan_to(b"\xcb\0\x71\1")
    (probe,) = probes(plan, [2])
    odd = error_about(changed(probe, 12, b"\xc6\x33\x64\7"), source=b"\x0a\0\0\x63")
    pair = Pair(plan)
    assert pair.receive(odd, error_about(probe)) == [2]
    assert pair.ledgers[1].responder_of(2, 4) == b"\x0a\0\0\x63"
    pair = Pair(plan)
    assert pair.receive(error_about(probe), odd) == [2]
    assert pair.ledgers[1].responder_of(2, 4) == ROUTERS[4]
    assert pair.ledgers[1].duplicates[2] == 1


def test_replies_are_chosen_by_mask_and_by_position() -> None:
    plan = plan_to(b"\xcb\0\x71\1")
    replies = VectorLane(Counters()).unpack(ring_of(*(error_about(probe) for probe in probes(plan, [0, 1, 2]))))
    rows = list(replies.rows())
    assert list(replies.select(np.array([True, False, True])).rows()) == [rows[0], rows[2]]
    assert list(replies.select(np.array([2, 0])).rows()) == [rows[2], rows[0]]
    assert replies.cookie.tolist() == [int.from_bytes(COOKIE)] * 3
    assert replies.flow.tolist() == [40_000] * 3


def test_replies_to_nobody_are_counted_as_the_scalar_lane_does() -> None:
    plan = plan_to(b"\xcb\0\x71\1", protocol=Protocol.ICMP)
    scalar, vector = ScalarLane(Counters()), VectorLane(Counters())
    ring = ring_of(*(error_about(probe) for probe in probes(plan, [0, 1])))
    for row in scalar.unpack(ring):
        scalar.disown(row)
    vector.disown(vector.unpack(ring))
    assert vector.counters == scalar.counters
    assert vector.counters.foreign == 2


def test_the_ledger_is_viewed_and_never_copied() -> None:
    """Columns stay stdlib buffers, and nothing holds on to them after the call."""
    plan = plan_to(b"\xcb\0\x71\1")
    pair = Pair(plan)
    pair.receive(*(error_about(probe) for probe in probes(plan, [0, 1])))
    ledger = pair.ledgers[1]
    assert isinstance(ledger.state, bytearray)
    assert ledger.state.count(ANSWERED) == 2
    ledger.state.extend(b"\0")  # refused while a view is held


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("count", [1, 2, 3, 255, 256, 5_000])
def test_every_destination_is_found_wherever_its_place_in_the_table_is(version: int, count: int) -> None:
    chance = np.random.default_rng(count)
    size = 4 if version == 4 else 16
    packed = list({chance.bytes(size) for _ in range(count)} | {bytes(size)})
    tables = tables_of(plan_to(*packed, packed[0]))
    strangers = list({chance.bytes(size) for _ in range(count)} - set(packed))
    wanted = np.frombuffer(b"".join(address.ljust(16, b"\0") for address in packed + strangers), np.uint64)
    places, is_strange = tables.find_destination(wanted.reshape(-1, 2))
    assert places.tolist() == [len(packed), *range(1, len(packed)), *[UNKNOWN] * len(strangers)]
    assert is_strange.tolist() == [False] * len(packed) + [True] * len(strangers)
