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

from allhops.model import Flow, Hop, Probe, ProbeState, Protocol, Reply, ReplyKind, StopReason, Trace
from allhops.output.json import JsonWriter, line
from allhops.output.records import FLOW, HOP, PROBE, TRACE, milliseconds, timestamp

if TYPE_CHECKING:
    from allhops.output.records import Record

GOLDEN = Path(__file__).parents[1] / "golden"

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
TRACE_REACHED = Trace(
    destination="demo.example.net",
    address=IPv4Address("203.0.113.9"),
    source=IPv4Address("192.0.2.1"),
    protocol=Protocol.UDP,
    flow=Flow(source_port=40_000, destination_port=33_434),
    started_at_ns=1_700_000_000_123_456_789,
    duration_ns=36_123_456,
    stop_reason=StopReason.REACHED,
    hops=(Hop(ttl=1, probes=(ANSWERED, SILENT)), Hop(ttl=2, probes=(ARRIVED,))),
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


def test_golden() -> None:
    lines: list[str] = []
    writer = JsonWriter(lines.append)
    for trace in (TRACE_REACHED, UNTRACED):
        writer.end(trace)
    assert "".join(lines) == (GOLDEN / "traces.jsonl").read_text()


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


RENAMED = {"rtt_ns": "rtt_ms", "started_at_ns": "started_at", "duration_ns": "duration_ms"}
LEFT_OUT = {
    *("mtu", "late_rtt_ns", "quoted_tos", "port_state", "extensions", "matched", "flags", "duplicates"),
    *("backend", "flow_constant"),
}  # the evidence: not told yet


@pytest.mark.parametrize(
    ("model", "record"), [(Trace, TRACE), (Flow, FLOW), (Hop, HOP), (Probe, PROBE), (Reply, PROBE)]
)
def test_no_field_of_the_model_is_forgotten(model: type, record: Record[Any]) -> None:
    told = {field.name for field in record.fields}
    model_fields = {RENAMED.get(field.name, field.name) for field in fields(model)}
    assert model_fields - LEFT_OUT - {"reply"} <= told


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
