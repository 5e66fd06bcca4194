"""Faults that need no clock, no loop and no socket: a network that goes away, noise, wrap-around, very long paths."""

from __future__ import annotations

import errno
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import pytest

from allhops.core.lanes import Ring
from allhops.core.ledger import ANSWERED
from allhops.core.plan import Plan
from allhops.core.session import NETWORK_DOWN_PAUSE_S, NETWORK_DOWN_TRIES
from allhops.model import ProbeState, Protocol, StopReason, Verdict
from allhops.net import raw
from allhops.testing.internet import Internet
from allhops.testing.packets import LAYOUTS
from allhops.testing.scenario_file import load_scenario, parse_scenario
from allhops.testing.virtual import VirtualTrace
from allhops.wire.family import IPV4
from benchmarks.replies import Bench, changed, error_about, plan_for, probe_of

if TYPE_CHECKING:
    from typing import Unpack

    from allhops.core.lanes import Block
    from allhops.model import Trace
    from allhops.options import TraceKeywords

DESTINATION = "203.0.113.9"
BOTH = pytest.mark.parametrize("version", [4, 6])
PROTOCOLS = pytest.mark.parametrize("protocol", list(Protocol))


class Flapping(VirtualTrace):
    """A machine whose network is down between two virtual times: as a transport, it stops at the probe that says so."""

    down_from = 0.0
    down_until = 0.0
    refused_at: list[float]

    def _send(self) -> None:
        while (block := self.session.probes_to_send(self.now)) is not None:
            for position in range(len(block)):
                if not self._try_one(block, position):
                    break
            self.session.probes_sent(block, self.now)
            self._receive()

    def _try_one(self, block: Block, position: int) -> bool:
        if not self.down_from <= self.now < self.down_until:
            self._send_one(block, position)
            return True
        self.refused_at.append(self.now)
        block.errors[position] = errno.ENETUNREACH
        block.handed += 1
        return False

    def _receive(self) -> None:
        """What arrives while the network is down is lost."""
        self._on_the_way = [
            entry for entry in self._on_the_way if not self.down_from <= entry[0] / 1e9 < self.down_until
        ]
        super()._receive()


def flapping(down_from: float, down_until: float, **options: Unpack[TraceKeywords]) -> tuple[Flapping, Trace]:
    virtual = Flapping(Internet(load_scenario("chain")), DESTINATION, rate_pps=100.0, **options)
    virtual.down_from, virtual.down_until, virtual.refused_at = down_from, down_until, []
    return virtual, virtual.run()


def test_sends_pause_while_the_network_is_down_and_resume() -> None:
    virtual, trace = flapping(0.05, 2.5)
    states = {probe.state for hop in trace.hops for probe in hop.probes}
    assert trace.stop_reason is StopReason.REACHED
    assert states == {ProbeState.ANSWERED, ProbeState.LOCAL_ERROR}
    assert all(any(probe.reply for probe in hop.probes) for hop in trace.hops)
    gaps = [after - before for before, after in pairwise(virtual.refused_at)]
    assert len(virtual.refused_at) == 3
    assert min(gaps) >= NETWORK_DOWN_PAUSE_S


def test_a_network_that_stays_away_does_not_hold_the_trace_for_ever() -> None:
    virtual, trace = flapping(0.05, 1e9)
    assert virtual.now < 0.05 + (NETWORK_DOWN_TRIES + 1) * NETWORK_DOWN_PAUSE_S + 2.0
    assert not any(probe.state is ProbeState.TIMED_OUT for hop in trace.hops for probe in hop.probes)


def test_without_a_network_from_the_start_the_trace_ends_at_once() -> None:
    virtual, trace = flapping(0.0, 1e9)
    assert trace.stop_reason is StopReason.LOCAL_ERROR
    assert "no route" in (trace.error or "")
    assert len(virtual.refused_at) == 1
    assert virtual.now < 0.1


def test_silence_before_the_network_went_away_is_still_silence() -> None:
    virtual = VirtualTrace(Internet(load_scenario("silent_hops")), DESTINATION)
    trace = virtual.run()
    assert ProbeState.TIMED_OUT in {probe.state for hop in trace.hops for probe in hop.probes}
    assert ProbeState.LOCAL_ERROR not in {probe.state for hop in trace.hops for probe in hop.probes}


# Replies


NOISE = {
    4: {"source quench": (4, 0), "redirect": (5, 1), "echo request": (8, 0), "router advertisement": (9, 0)}
    | {"timestamp": (13, 0), "timestamp reply": (14, 0), "address mask": (17, 0)},
    6: {"echo request": (128, 0), "router solicitation": (133, 0), "router advertisement": (134, 0)}
    | {"neighbour solicitation": (135, 0), "neighbour advertisement": (136, 0), "redirect": (137, 0)},
}


@PROTOCOLS
@pytest.mark.parametrize(
    ("version", "kind"), [(version, kind) for version, kinds in NOISE.items() for kind in kinds.values()]
)
def test_noise_is_ignored_even_if_it_quotes_our_probe(protocol: Protocol, version: int, kind: tuple[int, int]) -> None:
    bench = Bench(plan_for(protocol, version))
    assert bench.receive(error_about(probe_of(bench.plan), kind=kind)) == []
    assert (bench.counters.foreign, bench.counters.malformed, bench.counters.forged) == (1, 0, 0)


@PROTOCOLS
@BOTH
def test_a_wrong_checksum_is_no_reply(protocol: Protocol, version: int) -> None:
    """And the same packet with the right one is: nothing else is wrong with it."""
    bench = Bench(plan_for(protocol, version))
    reply = error_about(probe_of(bench.plan))
    at = LAYOUTS[version].header_bytes + 2
    wrong = changed(reply, at, bytes((reply[at] ^ 0x40, reply[at + 1])))
    assert bench.receive(wrong) == []
    assert bench.counters.malformed == 1
    assert len(bench.receive(reply)) == 1


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        *((4, kind) for kind in ((12, 0), (3, 4), (3, 9), (3, 10), (3, 13), (11, 1))),
        *((6, kind) for kind in ((4, 0), (2, 0), (1, 1), (1, 5), (3, 1))),
    ],
)
def test_refusals_are_recorded_with_their_code(version: int, kind: tuple[int, int]) -> None:
    bench = Bench(plan_for(Protocol.UDP, version))
    (slot,) = bench.receive(error_about(probe_of(bench.plan), kind=kind))
    assert (bench.ledger.icmp_type[slot], bench.ledger.icmp_code[slot]) == kind
    assert bench.ledger.state[slot] == ANSWERED


def test_a_quote_that_names_us_by_the_ip_id_alone_is_not_believed() -> None:
    """The right ID, and ports and cookie of somebody else."""
    bench = Bench(plan_for(Protocol.UDP, 4))
    theirs = Bench(plan_for(Protocol.UDP, 4, source_port=50_000, key=0x1234))
    probe, other = probe_of(bench.plan), probe_of(theirs.plan)
    assert bench.receive(error_about(changed(other[:28], 4, probe[4:6]))) == []
    assert bench.counters.matched == 0


@pytest.mark.parametrize("less", [0, 20])
@pytest.mark.parametrize("order", ["big", "little"])
def test_the_host_byte_order_of_other_kernels_is_put_right(order: Literal["big", "little"], less: int) -> None:
    """macOS and the older BSDs hand ip_len over in the host's order, less the header."""
    bench = Bench(plan_for(Protocol.UDP, 4))
    reply = bytearray(error_about(probe_of(bench.plan)))
    reply[2:4] = (len(reply) - less).to_bytes(2, order)
    receiver = object.__new__(raw._Receiver)
    receiver.sock, receiver.family = OneReply(bytes(reply)), IPV4  # type: ignore[assignment]  # a stub of the one call it needs
    receiver._read_row = receiver._read_ipv4
    ring = Ring()
    receiver.drain(ring)
    assert len(bench.lane.record(bench.plan, bench.ledger, bench.lane.unpack(ring))) == 1


class OneReply:
    """A raw socket with one packet in it."""

    def __init__(self, packet: bytes) -> None:
        self._waiting = [packet]

    def recvmsg_into(self, buffers: list[memoryview], space: int, flags: int) -> tuple[int, list[object], int, object]:
        if not self._waiting:
            raise BlockingIOError
        data = self._waiting.pop()
        buffers[0][: len(data)] = data
        return len(data), [], 0, None


# Names that run out


@PROTOCOLS
@BOTH
def test_200_000_probes_from_one_port_keep_their_names(protocol: Protocol, version: int) -> None:
    """The 16 bits that name a probe come round again and again; what it answers is only ever the trace that sent it."""
    base = plan_for(protocol, version)
    traces, probes = 0, 0
    before: list[bytes] = []
    while probes < 200_000:
        plan = replace_secrets(base, traces)
        own = probe_of(plan, ttl=1 + traces % 30, attempt=traces % 3)
        if traces % 100 == 0:  # a sample: each takes a millisecond
            bench = Bench(plan)
            # Echo replies have no secret but the identifier, which is one socket's at a time: errors quote the probe.
            assert bench.receive(*(error_about(old) for old in before)) == []
            assert bench.receive(error_about(own)) == [plan.slot(0, 1 + traces % 30, traces % 3)]
            before = [*before[-8:], own]
        traces, probes = traces + 1, probes + 90
    assert traces > 2_000


def replace_secrets(plan: Plan, number: int) -> Plan:
    return Plan(
        layout=plan.layout,
        options=plan.options,
        destinations=plan.destinations,
        source=plan.source,
        source_ports=plan.source_ports,
        key=number * 40_503 & 0xFFFF,
        cookie=(number * 2_654_435_761 & 0xFFFFFFFF).to_bytes(4, "big"),
        size=plan.size,
    )


# Long paths


def long_internet(hops: int) -> Internet:
    routers = "\n".join(f'[routers.r{at}]\nipv4 = "10.1.{at // 200}.{at % 200 + 1}"' for at in range(1, hops))
    path = ", ".join(f'{{ router = "r{at}", rtt_ms = {at / 10} }}' for at in range(1, hops))
    text = f"""
schema = "allhops.scenario/1"
[vantage]
ipv4 = "192.0.2.1"
[defaults]
reply_ttl = 255
{routers}
[routers.host]
ipv4 = "{DESTINATION}"
[[paths]]
destination = "{DESTINATION}"
hops = [{path}, {{ router = "host", rtt_ms = 30.0 }}]
"""
    return Internet(parse_scenario(text))


@PROTOCOLS
def test_255_hops(protocol: Protocol) -> None:
    virtual = VirtualTrace(long_internet(255), DESTINATION, max_ttl=255, attempts=1, protocol=protocol)
    trace = virtual.run()
    assert trace.stop_reason is StopReason.REACHED
    assert len(trace.hops) == 255
    routers = [f"10.1.{at // 200}.{at % 200 + 1}" for at in range(1, 255)]
    heard = [str(hop.probes[0].reply and hop.probes[0].reply.address) for hop in trace.hops]
    assert heard == [*routers, DESTINATION]


def test_a_path_longer_than_asked_ends_at_the_largest_ttl() -> None:
    trace = VirtualTrace(long_internet(255), DESTINATION, max_ttl=254, attempts=1).run()
    assert (trace.stop_reason, len(trace.hops)) == (StopReason.MAX_TTL, 254)


def test_probes_beyond_the_destination_are_bounded() -> None:
    """Every TTL overshoots here, and the lowest that reached wins."""
    virtual = VirtualTrace(long_internet(3), DESTINATION, max_ttl=255, attempts=3)
    trace = virtual.run()
    assert len(trace.hops) == 3
    assert virtual.counters.sent <= 255 * 3 + 2 * 255


def test_a_path_that_changes_under_way_is_shown_with_both_responders() -> None:
    """Two responders at one TTL stay two: they are never joined to one link."""
    virtual = VirtualTrace(Internet(load_scenario("chain")), DESTINATION)
    elsewhere = Internet(load_scenario("diamond_packet"))
    first = virtual.internet
    sent = 0

    class Changing:
        scenario = first.scenario

        def packet_sent(self, data: bytes, now_ns: int) -> object:
            nonlocal sent
            sent += 1
            return (first if sent % 2 else elsewhere).packet_sent(data, now_ns)

    virtual.internet = Changing()  # type: ignore[assignment]  # all that a trace asks of an Internet
    trace = virtual.run()
    several = [hop for hop in trace.hops if len({probe.reply.address for probe in hop.probes if probe.reply}) > 1]
    assert several
    assert {hop.verdict for hop in several if hop.ttl < len(trace.hops)} == {Verdict.LOAD_BALANCED}
