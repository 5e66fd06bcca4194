"""The JSON Schema: shipped as it is made, and true of everything that is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from allhops.model import Address, Flow, Hop, Probe, ProbeState, Protocol, Reply, ReplyKind, StopReason, Trace
from allhops.output.json import line
from allhops.output.records import RECORDS
from allhops.output.schema import schema_text, trace_schema
from allhops.testing import Internet, bundled_scenarios, load_scenario
from allhops.testing.virtual import VirtualTrace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.output.records import Field

DOCS = Path(__file__).parents[2] / "docs"
VALIDATOR = Draft202012Validator(trace_schema())

BYTES = st.integers(0, 255)
TTLS = st.integers(1, 255)
PORTS = st.integers(0, 65_535)
NAMES = st.none() | st.text(max_size=20)
DURATIONS = st.integers(0, 60_000_000_000)
IP: st.SearchStrategy[Address] = st.ip_addresses()
REPLIES = st.builds(
    Reply,
    address=IP,
    kind=st.sampled_from(ReplyKind),
    rtt_ns=st.none() | DURATIONS,
    icmp_type=BYTES,
    icmp_code=BYTES,
    reply_ttl=st.none() | BYTES,
    quoted_ttl=st.none() | BYTES,
    name=NAMES,
)
PROBES = st.builds(
    Probe, attempt=st.integers(1, 10), probe_ttl=TTLS, state=st.sampled_from(ProbeState), reply=st.none() | REPLIES
)
HOPS = st.builds(Hop, ttl=TTLS, probes=st.lists(PROBES, max_size=3).map(tuple))
TRACES = st.builds(
    Trace,
    destination=st.text(max_size=20),
    address=st.none() | IP,
    source=st.none() | IP,
    protocol=st.sampled_from(Protocol),
    flow=st.none() | st.builds(Flow, source_port=PORTS, destination_port=PORTS),
    started_at_ns=st.integers(0, 4_102_444_800_000_000_000),
    duration_ns=DURATIONS,
    stop_reason=st.sampled_from(StopReason),
    hops=st.lists(HOPS, max_size=3).map(tuple),
    error=NAMES,
)


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(trace_schema())


def test_the_shipped_file_is_up_to_date() -> None:
    assert (DOCS / "trace.schema.json").read_text() == schema_text(), "run: make schema"


@given(TRACES)
def test_any_trace_fits(trace: Trace) -> None:
    VALIDATOR.validate(json.loads(line(trace)))


@pytest.mark.parametrize("scenario", bundled_scenarios())
def test_real_output_fits(scenario: str) -> None:
    internet = Internet(load_scenario(scenario))
    for network in internet.scenario.paths[0].destinations:
        VALIDATOR.validate(json.loads(line(VirtualTrace(internet, network[-1]).run())))


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


def documented() -> Iterator[str]:
    """The rows that docs/formats.md owes: name, type, unit, what it says, where it was read from."""
    for record in RECORDS:
        for field in record.fields:
            yield f"| `{field.name}` | {type_in_words(field)} | {field.unit} | {field.says} | {field.origin} |"


def type_in_words(field: Field[Any]) -> str:
    return _words(field.type)


def _words(schema: dict[str, Any]) -> str:
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return " ".join(f'"{value}"' for value in schema["enum"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if schema.get("type") == "array":
        return f"list of {_words(schema['items'])}s"
    if "anyOf" in schema and "type" not in schema:
        return " or ".join(_words(choice) for choice in schema["anyOf"])
    if "minimum" in schema and "maximum" in schema:
        return f"integer {schema['minimum']}-{schema['maximum']}"
    return "address" if "anyOf" in schema else str(schema["type"])


def test_every_field_is_documented() -> None:
    lines = (DOCS / "formats.md").read_text().splitlines()
    assert [row for row in documented() if row not in lines] == []
