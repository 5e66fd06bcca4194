"""The session against a network that misbehaves: full queues, local errors, late and repeated packets."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.core.events import TraceEnded
from allhops.core.lanes import Ring
from allhops.core.lanes.scalar import ScalarLane
from allhops.core.ledger import Counters
from allhops.core.session import FULL_QUEUE_TRIES
from allhops.model import ProbeState, StopReason, Trace
from allhops.testing.internet import Internet
from allhops.testing.scenario_file import load_scenario
from allhops.testing.virtual import VirtualTrace

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence
    from typing import Unpack

    from allhops.core.lanes.scalar import ReplyRow
    from allhops.core.session import Session
    from allhops.options import TraceKeywords

DESTINATION = "203.0.113.9"


def new(scenario: str = "chain", **options: Unpack[TraceKeywords]) -> VirtualTrace:
    return VirtualTrace(Internet(load_scenario(scenario)), DESTINATION, **options)


def ended(session: Session[Sequence[ReplyRow]]) -> Trace:
    traces = []
    while (event := session.next_event()) is not None:
        if isinstance(event, TraceEnded):
            traces.append(event.trace)
    (trace,) = traces
    return trace


@pytest.mark.parametrize(
    ("code", "sentence"),
    [(errno.EPERM, "firewall"), (errno.ENETUNREACH, "no route"), (errno.EACCES, "prohibited"), (errno.EINVAL, "black")],
)
def test_a_machine_that_cannot_send_says_why(code: int, sentence: str) -> None:
    session = new().session
    block = session.probes_to_send(0.0)
    assert block is not None
    for position in range(len(block)):
        block.errors[position] = code
    block.handed = len(block)
    session.probes_sent(block, 0.0)
    trace = ended(session)
    assert trace.stop_reason is StopReason.LOCAL_ERROR
    assert sentence in (trace.error or "")
    assert trace.hops == ()
    assert session.probes_to_send(0.1) is None


def test_one_local_error_is_that_probes_alone() -> None:
    virtual = new()
    session = virtual.session
    block = session.probes_to_send(0.0)
    assert block is not None
    block.errors[0] = errno.ENOBUFS
    for position in range(1, len(block)):
        virtual._send_one(block, position)
    block.handed = len(block)
    session.probes_sent(block, 0.0)
    trace = virtual.run()
    assert trace.stop_reason is StopReason.REACHED
    states = [probe.state for probe in trace.hops[0].probes]
    assert states == [ProbeState.LOCAL_ERROR, ProbeState.ANSWERED, ProbeState.ANSWERED]


def test_a_full_queue_is_not_silence() -> None:
    """The same probe is tried again, later, and stamped anew."""
    virtual = new()
    session = virtual.session
    now = 0.0
    for _ in range(FULL_QUEUE_TRIES - 1):
        block = session.probes_to_send(now)
        assert block is not None
        assert block.slots[0] == 0
        session.probes_sent(block, now)
        assert session.probes_to_send(now) is None
        deadline = session.next_deadline()
        assert deadline is not None
        assert deadline > now
        now = deadline
    virtual._now_ns = round(now * 1e9)
    trace = virtual.run()
    assert all(probe.state is ProbeState.ANSWERED for hop in trace.hops for probe in hop.probes)


def test_a_queue_that_stays_full_is_a_local_error() -> None:
    session = new(attempts=1, max_ttl=1).session
    now = 0.0
    for _ in range(FULL_QUEUE_TRIES):
        block = session.probes_to_send(now)
        assert block is not None
        session.probes_sent(block, now)
        now += 1.0
    trace = ended(session)
    assert trace.stop_reason is StopReason.LOCAL_ERROR
    assert "queue" in (trace.error or "")


def replies_of(virtual: VirtualTrace) -> list[tuple[int, bytes]]:
    """Every reply to every probe of a trace, in order of arrival."""
    virtual._send()
    return [(at_ns, packet) for at_ns, _, packet in sorted(virtual._on_the_way)]


def recorded(packets: Sequence[tuple[int, bytes]]) -> Iterator[bytes]:
    """What the ledger holds after these replies to a trace's probes."""
    virtual = new("lossy")
    virtual._send()
    lane = ScalarLane(Counters())
    for at_ns, packet in packets:
        ring = Ring(capacity=1)
        ring.append(packet, at_ns)
        lane.record(virtual.session.plan, virtual.session.ledger, lane.unpack(ring))
    ledger = virtual.session.ledger
    yield from (bytes(ledger.state), bytes(ledger.answers))


ALL_REPLIES = replies_of(new("lossy"))


@given(st.randoms(use_true_random=False))
def test_the_ledger_does_not_depend_on_the_order_of_replies(chance: random.Random) -> None:
    shuffled = ALL_REPLIES[:]
    chance.shuffle(shuffled)
    assert list(recorded(shuffled)) == list(recorded(ALL_REPLIES))


def test_the_first_reply_counts_and_the_rest_are_duplicates() -> None:
    virtual = new("duplicates")
    trace = virtual.run()
    assert virtual.counters.duplicate > 0
    truth = virtual.internet.truth(DESTINATION)
    assert [hop.probes[0].reply and hop.probes[0].reply.rtt_ns for hop in trace.hops] == [hop.rtt_ns for hop in truth]


def test_a_late_reply_leaves_its_row_lost() -> None:
    virtual = VirtualTrace(Internet(load_scenario("slow_first_hop")), DESTINATION, timeout=0.4)
    trace = virtual.run()
    assert [probe.state for probe in trace.hops[0].probes] == [ProbeState.TIMED_OUT] * 3
    late = [packet for at_ns, _, packet in virtual._on_the_way]
    ring = Ring()
    for packet in late[:3]:
        ring.append(packet, 0)
    virtual.session.replies_received(virtual._lane.unpack(ring), 10.0)
    assert virtual.counters.late == len(late[:3]) > 0
    assert next(virtual.session.snapshot()).hops[0] == trace.hops[0]


def test_a_session_that_ended_asks_for_nothing() -> None:
    virtual = new()
    virtual.run()
    assert virtual.session.probes_to_send(99.0) is None
    assert virtual.session.next_deadline() is None
    assert virtual.session.next_event() is None
    assert "0 of 1 courses open" in repr(virtual.session)
