"""The JSON Schema: shipped as it is made, and true of everything that is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from allhops.model import (
    Address,
    Evidence,
    Extension,
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
from allhops.output.columns import COLUMNS
from allhops.output.json import line
from allhops.output.records import RECORDS
from allhops.output.schema import schema_text, trace_schema
from allhops.testing import Internet, bundled_scenarios, load_scenario
from allhops.testing.virtual import VirtualTrace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.output.fields import Record

DOCS = Path(__file__).parents[2] / "docs"
VALIDATOR = Draft202012Validator(trace_schema())

BYTES = st.integers(0, 255)
TTLS = st.integers(1, 255)
PORTS = st.integers(0, 65_535)
NAMES = st.none() | st.text(max_size=20)
DURATIONS = st.integers(0, 60_000_000_000)
IP: st.SearchStrategy[Address] = st.ip_addresses()
LONGS = st.integers(0, 2**32 - 1)
EXTENSIONS: st.SearchStrategy[Extension] = st.one_of(
    st.builds(
        MplsLabel,
        label=st.integers(0, 2**20 - 1),
        traffic_class=st.integers(0, 7),
        bottom_of_stack=st.booleans(),
        ttl=BYTES,
    ),
    st.builds(
        InterfaceInfo,
        role=st.sampled_from(InterfaceRole),
        index=st.none() | LONGS,
        address=st.none() | IP,
        name=NAMES,
        mtu=st.none() | LONGS,
    ),
    st.builds(UnknownObject, class_num=BYTES, c_type=BYTES, data=st.binary(max_size=9).map(bytes.hex)),
)
REPLIES = st.builds(
    Reply,
    address=IP,
    kind=st.sampled_from(ReplyKind),
    rtt_ns=st.none() | DURATIONS,
    icmp_type=st.none() | BYTES,
    icmp_code=st.none() | BYTES,
    reply_ttl=st.none() | BYTES,
    quoted_ttl=st.none() | BYTES,
    quoted_tos=st.none() | BYTES,
    mtu=st.none() | PORTS,
    port_state=st.none() | st.sampled_from(PortState),
    extensions=st.lists(EXTENSIONS, max_size=3).map(tuple),
    matched=st.lists(st.sampled_from(Evidence), unique=True).map(tuple),
    flags=st.lists(st.sampled_from(ReplyFlag), unique=True).map(tuple),
    duplicates=PORTS,
    name=NAMES,
)
PROBES = st.builds(
    Probe,
    attempt=st.integers(1, 10),
    probe_ttl=TTLS,
    state=st.sampled_from(ProbeState),
    reply=st.none() | REPLIES,
    late_rtt_ns=st.none() | DURATIONS,
)
HOPS = st.builds(
    Hop, ttl=TTLS, probes=st.lists(PROBES, max_size=3).map(tuple), verdict=st.none() | st.sampled_from(Verdict)
)
TRACES = st.builds(
    Trace,
    destination=st.text(max_size=20),
    address=st.none() | IP,
    source=st.none() | IP,
    protocol=st.sampled_from(Protocol),
    flow=st.none() | st.builds(Flow, source_port=PORTS, destination_port=st.none() | PORTS),
    started_at_ns=st.integers(0, 4_102_444_800_000_000_000),
    duration_ns=DURATIONS,
    stop_reason=st.sampled_from(StopReason),
    hops=st.lists(HOPS, max_size=3).map(tuple),
    error=NAMES,
    backend=st.sampled_from([None, "raw", "errqueue", "simulated"]),
    flow_constant=st.booleans(),
)


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(trace_schema())


def test_the_shipped_file_is_up_to_date() -> None:
    assert (DOCS / "trace.schema.json").read_text() == schema_text(), "run: make schema"


@given(TRACES)
def test_any_trace_fits(trace: Trace) -> None:
    VALIDATOR.validate(json.loads(line(trace)))


@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize("scenario", bundled_scenarios())
def test_real_output_fits(scenario: str, protocol: Protocol) -> None:
    internet = Internet(load_scenario(scenario))
    for network in internet.scenario.paths[0].destinations:
        VALIDATOR.validate(json.loads(line(VirtualTrace(internet, network[-1], protocol=protocol).run())))


def real() -> Any:
    return json.loads(line(VirtualTrace(Internet(load_scenario("demo")), "203.0.113.9").run()))


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("schema", "allhops.trace/2"),
        ("duration_ms", "36.1"),
        ("duration_ms", -1),
        ("reached", 1),
        ("stop_reason", "completed"),
        ("started_at", "2023-11-14 22:13:20"),
        ("hops", {}),
        ("surprise", 1),
    ],
)
def test_it_refuses_what_is_not_written(field: str, wrong: object) -> None:
    assert VALIDATOR.is_valid(real())
    assert not VALIDATOR.is_valid(real() | {field: wrong})


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("matched", ["destination"]),
        ("matched", None),
        ("flags", ["odd"]),
        ("duplicates", None),
        ("mtu", 1e9),
        ("port_state", "filtered"),
        ("extensions", [{"type": "mpls"}]),
        ("extensions", [{"type": "unknown", "class_num": 1, "c_type": 1, "data": "0"}]),
        ("late_rtt_ms", -1),
    ],
)
def test_it_refuses_evidence_that_is_not_written(field: str, wrong: object) -> None:
    told = real()
    told["hops"][0]["probes"][0][field] = wrong
    assert not VALIDATOR.is_valid(told)


def documented() -> Iterator[str]:
    """The rows that docs/formats.md owes: name, type, unit, what it says, where it was read from."""
    for record in RECORDS:
        yield from table_of(record)
    for column in COLUMNS:
        yield f"| `{column.name}` | {column.type} | {column.unit} | {column.says} | {column.origin} |"


def table_of(record: Record[Any]) -> Iterator[str]:
    for field in record.fields:
        yield f"| `{field.name}` | {_words(field.type)} | {field.unit} | {field.says} | {field.origin} |"


def _words(schema: dict[str, Any]) -> str:
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return " ".join(f'"{value}"' for value in schema["enum"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if schema.get("type") == "array":
        return f"list of {_plural(schema['items'])}"
    if "anyOf" in schema and "type" not in schema:
        return " or ".join(_words(choice) for choice in schema["anyOf"])
    if "minimum" in schema and "maximum" in schema:
        return f"integer {schema['minimum']}-{schema['maximum']}"
    return "address" if "anyOf" in schema else str(schema["type"])


def _plural(members: dict[str, Any]) -> str:
    """What a list is of: records by name, values as they are."""
    if "anyOf" in members:
        return ", ".join(_words(choice) for choice in members["anyOf"])
    return _words(members) if "enum" in members else f"{_words(members)}s"


def test_every_field_is_documented() -> None:
    lines = (DOCS / "formats.md").read_text().splitlines()
    assert [row for row in documented() if row not in lines] == []
    assert [line for line in lines if line.startswith("| `") and line.count("|") == 6] == [*documented()]
