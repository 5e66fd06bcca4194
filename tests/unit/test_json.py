"""JSON, schema "allhops.trace/1": what each field holds, and that any trace is one line of plain ASCII."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.model import (
    Evidence,
    Flow,
    Hop,
    InterfaceInfo,
    InterfaceRole,
    MplsLabel,
    PortState,
    Probe,
    ProbeState,
    Protocol,
    Reply,
    ReplyFlag,
    ReplyKind,
    StopReason,
    Trace,
    UnknownObject,
    Verdict,
)
from allhops.output.extensions import INTERFACE, MPLS, UNKNOWN
from allhops.output.json import JsonWriter, line
from allhops.output.records import FLOW, HOP, PROBE, TRACE, milliseconds, timestamp

if TYPE_CHECKING:
    from allhops.output.fields import Record

GOLDEN = Path(__file__).parents[1] / "golden"
"""Written anew by `python -m tests.golden`, to be read before it is committed."""

SILENT = Probe(attempt=2, probe_ttl=1, state=ProbeState.TIMED_OUT)
ANSWERED = Probe(
    attempt=1,
    probe_ttl=1,
    state=ProbeState.ANSWERED,
    reply=Reply(
        address=IPv4Address("10.0.0.1"),
        kind=ReplyKind.TIME_EXCEEDED,
        rtt_ns=812_499,
        icmp_type=11,
        icmp_code=0,
        reply_ttl=64,
        quoted_ttl=1,
        name="gw.example.net",
    ),
)
ARRIVED = Probe(
    attempt=1,
    probe_ttl=3,
    state=ProbeState.ANSWERED,
    reply=Reply(
        address=IPv4Address("203.0.113.9"),
        kind=ReplyKind.DESTINATION,
        rtt_ns=35_000_000,
        icmp_type=3,
        icmp_code=3,
        reply_ttl=None,
        quoted_ttl=None,
    ),
)
PROVEN = Probe(
    attempt=1,
    probe_ttl=2,
    state=ProbeState.ANSWERED,
    reply=Reply(
        address=IPv4Address("10.0.0.2"),
        kind=ReplyKind.UNREACHABLE,
        rtt_ns=5_000_000,
        icmp_type=3,
        icmp_code=4,
        reply_ttl=63,
        quoted_ttl=1,
        quoted_tos=184,
        mtu=1_400,
        extensions=(
            MplsLabel(label=24_015, traffic_class=5, bottom_of_stack=True, ttl=1),
            InterfaceInfo(
                role=InterfaceRole.INCOMING, index=3, address=IPv6Address("2001:db8::3"), name="xe-0/0/1", mtu=9_192
            ),
            InterfaceInfo(role=InterfaceRole.NEXT_HOP),
            UnknownObject(class_num=3, c_type=1, data="00010000c0000201"),
        ),
        matched=(Evidence.DST, Evidence.PORTS, Evidence.COOKIE),
        flags=(ReplyFlag.NAT, ReplyFlag.DUPLICATE),
        duplicates=2,
    ),
)
TRACE_REACHED = Trace(
    destination="demo.example.net",
    address=IPv4Address("203.0.113.9"),
    source=IPv4Address("192.0.2.1"),
    protocol=Protocol.UDP,
    flow=Flow(source_port=40_000, destination_port=33_434),
    started_at_ns=1_700_000_000_123_456_789,
    duration_ns=36_123_456,
    stop_reason=StopReason.REACHED,
    hops=(
        Hop(ttl=1, probes=(ANSWERED, SILENT), verdict=Verdict.RATE_LIMITED),
        Hop(ttl=2, probes=(PROVEN,)),
        Hop(ttl=3, probes=(ARRIVED,)),
    ),
    backend="raw",
)
UNTRACED = Trace(
    destination="nowhere.example",
    address=None,
    source=None,
    protocol=Protocol.UDP,
    flow=None,
    started_at_ns=0,
    duration_ns=0,
    stop_reason=StopReason.LOCAL_ERROR,
    hops=(),
    error="nowhere.example: no such name",
)


def golden_json() -> str:
    lines: list[str] = []
    writer = JsonWriter(lines.append)
    for trace in (TRACE_REACHED, UNTRACED):
        writer.end(trace)
    return "".join(lines)


def test_golden() -> None:
    assert golden_json() == (GOLDEN / "traces.jsonl").read_text()


@pytest.mark.parametrize(
    ("ns", "ms"), [(0, 0.0), (499, 0.0), (501, 0.001), (812_499, 0.812), (35_000_000, 35.0), (1_234_567_891, 1234.568)]
)
def test_milliseconds_have_three_decimals(ns: int, ms: float) -> None:
    assert milliseconds(ns) == ms


def test_timestamps_are_rfc_3339_to_the_microsecond() -> None:
    assert timestamp(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456Z"


def test_an_unknown_rtt_is_null() -> None:
    assert ANSWERED.reply is not None
    probe = replace(ANSWERED, reply=replace(ANSWERED.reply, rtt_ns=None))
    assert PROBE.write(probe)["rtt_ms"] is None


RENAMED = {
    "rtt_ns": "rtt_ms",
    "late_rtt_ns": "late_rtt_ms",
    "started_at_ns": "started_at",
    "duration_ns": "duration_ms",
}
OWN = {
    MplsLabel: MPLS,
    InterfaceInfo: INTERFACE,
    UnknownObject: UNKNOWN,
    Trace: TRACE,
    Flow: FLOW,
    Hop: HOP,
    Probe: PROBE,
    Reply: PROBE,
}


@pytest.mark.parametrize(("model", "record"), OWN.items())
def test_no_field_of_the_model_is_forgotten(model: type, record: Record[Any]) -> None:
    told = {field.name for field in record.fields}
    model_fields = {RENAMED.get(field.name, field.name) for field in fields(model)}
    assert model_fields - {"reply"} <= told  # a reply is told by the fields of its probe


def test_without_a_reply_what_it_tells_is_null_or_empty() -> None:
    told = PROBE.write(replace(SILENT, late_rtt_ns=2_500_000_000))
    assert {name: value for name, value in told.items() if value is not None} == {
        "attempt": 2,
        "probe_ttl": 1,
        "state": "timed_out",
        "late_rtt_ms": 2_500.0,
        "extensions": [],
        "matched": [],
        "flags": [],
        "duplicates": 0,
    }


def test_evidence() -> None:
    told = PROBE.write(PROVEN)
    assert told["matched"] == ["dst", "ports", "cookie"]
    assert told["flags"] == ["nat", "duplicate"]
    assert (told["duplicates"], told["quoted_tos"], told["mtu"], told["port_state"]) == (2, 184, 1400, None)


def test_a_tcp_answer_has_a_port_state_and_no_icmp() -> None:
    assert ARRIVED.reply is not None
    answer = replace(ARRIVED.reply, icmp_type=None, icmp_code=None, port_state=PortState.OPEN)
    told = PROBE.write(replace(ARRIVED, reply=answer))
    assert (told["port_state"], told["icmp_type"], told["icmp_code"]) == ("open", None, None)


def test_extensions_tell_their_type() -> None:
    assert PROBE.write(PROVEN)["extensions"] == [
        {"type": "mpls", "label": 24_015, "traffic_class": 5, "bottom_of_stack": True, "ttl": 1},
        {
            "type": "interface", "role": "incoming", "index": 3, "address": "2001:db8::3", "name": "xe-0/0/1",
            "mtu": 9_192,
        },
        {"type": "interface", "role": "next_hop", "index": None, "address": None, "name": None, "mtu": None},
        {"type": "unknown", "class_num": 3, "c_type": 1, "data": "00010000c0000201"},
    ]  # fmt: skip


@pytest.mark.parametrize("verdict", [None, *Verdict])
def test_a_verdict(verdict: Verdict | None) -> None:
    assert HOP.write(Hop(ttl=1, probes=(), verdict=verdict))["verdict"] == verdict


def test_a_flow_that_was_not_constant_is_told() -> None:
    told = TRACE.write(replace(TRACE_REACHED, backend="errqueue", flow_constant=False))
    assert (told["backend"], told["flow_constant"]) == ("errqueue", False)
    assert (TRACE.write(TRACE_REACHED)["backend"], TRACE.write(UNTRACED)["backend"]) == ("raw", None)


def test_icmp_has_an_identifier_and_no_port() -> None:
    assert FLOW.write(Flow(source_port=40_000, destination_port=None)) == {
        "source_port": 40_000,
        "destination_port": None,
    }


IP = st.builds(IPv4Address, st.integers(0, 2**32 - 1)) | st.builds(IPv6Address, st.integers(0, 2**128 - 1))


ANY_TEXT = st.text(st.characters(exclude_categories=()))


@given(ANY_TEXT, st.none() | ANY_TEXT, IP)
def test_any_words_become_one_line_of_ascii(destination: str, error: str | None, address: IPv4Address) -> None:
    text = line(replace(UNTRACED, destination=destination, error=error, address=address))
    assert text.isascii()
    assert text.index("\n") == len(text) - 1
    told = json.loads(text)
    assert told["destination"].isprintable()
    told["destination"].encode()  # raises on the surrogates that stand for bytes of a strange locale
    assert told["address"] == str(address)
