"""What the JSON holds: one table per record, from which the writer writes and the schema is made.

    trace -> hops -> probes; a probe's reply is told by the probe's own fields, null when there was none

This file knows no JSON text, no clock and no socket.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from allhops.enrich.clean import clean_text
from allhops.model import Flow, Hop, Probe, ProbeState, Protocol, Reply, ReplyKind, StopReason, Trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import StrEnum

SCHEMA = "allhops.trace/1"

Schema = dict[str, Any]
Source = TypeVar("Source")


class Field(NamedTuple, Generic[Source]):
    """One member of a JSON object: its type as JSON Schema, how to read it, and what it says."""

    name: str
    type: Schema
    read: Callable[[Source], object]
    says: str
    unit: str = ""
    origin: str = ""
    """Which packet, or which part of this machine, the value was read from."""


class Record(Generic[Source]):
    """A JSON object made of fields."""

    def __init__(self, name: str, says: str, fields: tuple[Field[Source], ...]) -> None:
        self.name = name
        self.says = says
        self.fields = fields
        self._readers = tuple((field.name, field.read) for field in fields)

    def write(self, source: Source) -> dict[str, object]:
        """The object for one value of the model, ready for `json.dumps`."""
        return {name: read(source) for name, read in self._readers}

    def schema(self) -> Schema:
        """Its JSON Schema."""
        return {
            "type": "object",
            "description": self.says,
            "properties": {field.name: field.type | {"description": _sentence(field)} for field in self.fields},
            "required": [field.name for field in self.fields],
            "additionalProperties": False,
        }

    @property
    def reference(self) -> Schema:
        """How another record's schema names this one."""
        return {"$ref": f"#/$defs/{self.name}"}


def _sentence(field: Field[Any]) -> str:
    unit = f" Unit: {field.unit}." if field.unit else ""
    return f"{field.says}{unit} From: {field.origin}." if field.origin else field.says + unit


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _one_of(kind: type[StrEnum]) -> Schema:
    return {"enum": [member.value for member in kind]}


def _integer(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def _list_of(record: Record[Any]) -> Schema:
    return {"type": "array", "items": record.reference}


_TEXT: Schema = {"type": "string"}
_BOOLEAN: Schema = {"type": "boolean"}
_BYTE = _integer(0, 255)
_TTL = _integer(1, 255)
_PORT = _integer(0, 65_535)
_MILLISECONDS: Schema = {"type": "number", "minimum": 0}
_ADDRESS: Schema = {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}
_TIME: Schema = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$",
}


def milliseconds(duration_ns: int) -> float:
    """To the microsecond, the finest that the stamps are good for."""
    return round(duration_ns / 1e6, 3)


def timestamp(stamp_ns: int) -> str:
    """RFC 3339, UTC, microseconds.

    >>> timestamp(1_700_000_000_000_001_999)
    '2023-11-14T22:13:20.000001Z'
    """
    seconds, rest_ns = divmod(stamp_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest_ns // 1_000:06d}Z"


def _of_reply(read: Callable[[Reply], object]) -> Callable[[Probe], object]:
    """Null for a probe without a reply."""
    return lambda probe: None if probe.reply is None else read(probe.reply)


_REPLY_HEADER = "IP header of the reply"
_REPLY_ICMP = "ICMP header of the reply"

PROBE: Record[Probe] = Record(
    "probe",
    "One packet that was sent, and the first reply to it. Without a reply, what a reply tells is null.",
    (
        Field("attempt", _integer(1, 255), lambda probe: probe.attempt, "Position on its hop's row, from 1."),
        Field(
            "probe_ttl",
            _TTL,
            lambda probe: probe.probe_ttl,
            "TTL or hop limit as sent; on the destination's row it may be larger than the hop's.",
            unit="hops",
            origin="IP header of the probe as sent",
        ),
        Field("state", _one_of(ProbeState), lambda probe: probe.state, "How the probe ended.", origin="this machine"),
        Field(
            "address",
            _or_null(_ADDRESS),
            _of_reply(lambda reply: str(reply.address)),
            "Source address: the responder.",
            origin=_REPLY_HEADER,
        ),
        Field(
            "name",
            _or_null(_TEXT),
            _of_reply(lambda reply: reply.name),
            r"The responder's name in [A-Za-z0-9._-], anything else as \DDD; null if none came in time or with -n.",
            origin="reverse DNS",
        ),
        Field(
            "rtt_ms",
            _or_null(_MILLISECONDS),
            _of_reply(lambda reply: None if reply.rtt_ns is None else milliseconds(reply.rtt_ns)),
            "Round-trip time; null also if the clock was stepped meanwhile.",
            unit="milliseconds, three decimals",
            origin="the kernel's receive stamp of the reply minus the send stamp of the probe",
        ),
        Field(
            "kind",
            _or_null(_one_of(ReplyKind)),
            _of_reply(lambda reply: reply.kind),
            "What the reply says about the probe.",
            origin="IP and ICMP headers of the reply",
        ),
        Field("icmp_type", _or_null(_BYTE), _of_reply(lambda reply: reply.icmp_type), "ICMP type.", origin=_REPLY_ICMP),
        Field("icmp_code", _or_null(_BYTE), _of_reply(lambda reply: reply.icmp_code), "ICMP code.", origin=_REPLY_ICMP),
        Field(
            "reply_ttl",
            _or_null(_BYTE),
            _of_reply(lambda reply: reply.reply_ttl),
            "TTL or hop limit with which the reply arrived here.",
            unit="hops",
            origin=_REPLY_HEADER,
        ),
        Field(
            "quoted_ttl",
            _or_null(_BYTE),
            _of_reply(lambda reply: reply.quoted_ttl),
            "What was left of the probe's TTL or hop limit at the responder; 1 as a rule.",
            unit="hops",
            origin="IP header of the probe as quoted in the reply",
        ),
    ),
)

HOP: Record[Hop] = Record(
    "hop",
    "Everything heard at one TTL. The destination's hop may hold probes with a larger TTL that reached it too.",
    (
        Field("ttl", _TTL, lambda hop: hop.ttl, "Distance from here.", unit="hops", origin="probes as sent"),
        Field(
            "probes", _list_of(PROBE), lambda hop: [PROBE.write(probe) for probe in hop.probes], "In order of attempt."
        ),
    ),
)

FLOW: Record[Flow] = Record(
    "flow",
    "What load balancers hash, besides addresses and protocol: the same for every probe of the trace.",
    (
        Field("source_port", _PORT, lambda flow: flow.source_port, "Source port.", origin="UDP header of the probes"),
        Field(
            "destination_port",
            _or_null(_PORT),
            lambda flow: flow.destination_port,
            "Destination port.",
            origin="UDP header of the probes",
        ),
    ),
)

TRACE: Record[Trace] = Record(
    "trace",
    "The path to one destination.",
    (
        Field(
            "schema",
            {"const": SCHEMA},
            lambda trace: SCHEMA,
            "Names this format; a change that breaks readers changes it.",
        ),
        Field(
            "destination",
            _TEXT,
            lambda trace: clean_text(trace.destination),
            "Name or address as it was asked for, without control characters.",
            origin="the caller",
        ),
        Field(
            "address",
            _or_null(_ADDRESS),
            lambda trace: trace.address and str(trace.address),
            "Destination address of the probes; null if there is none.",
            origin="the resolver; IP header of the probes",
        ),
        Field(
            "source",
            _or_null(_ADDRESS),
            lambda trace: trace.source and str(trace.source),
            "Source address of the probes; null if none could be sent.",
            origin="this machine's routes; IP header of the probes",
        ),
        Field(
            "protocol",
            _one_of(Protocol),
            lambda trace: trace.protocol,
            "What the probes are made of.",
            origin="the caller",
        ),
        Field(
            "started_at",
            _TIME,
            lambda trace: timestamp(trace.started_at_ns),
            "When the trace began: RFC 3339, UTC.",
            unit="microseconds",
            origin="this machine's wall clock",
        ),
        Field(
            "duration_ms",
            _MILLISECONDS,
            lambda trace: milliseconds(trace.duration_ns),
            "How long the trace took, names not counted.",
            unit="milliseconds, three decimals",
            origin="this machine's monotonic clock",
        ),
        Field("reached", _BOOLEAN, lambda trace: trace.reached, "Whether the destination itself answered."),
        Field("stop_reason", _one_of(StopReason), lambda trace: trace.stop_reason, "Why the trace ended."),
        Field(
            "error",
            _or_null(_TEXT),
            lambda trace: trace.error and clean_text(trace.error),
            "One sentence if this machine could not trace, null otherwise.",
            origin="this machine",
        ),
        Field(
            "flow",
            _or_null(FLOW.reference),
            lambda trace: trace.flow and FLOW.write(trace.flow),
            "Ports of the probes; null if none could be sent.",
        ),
        Field("hops", _list_of(HOP), lambda trace: [HOP.write(hop) for hop in trace.hops], "In order of TTL."),
    ),
)

RECORDS: tuple[Record[Any], ...] = (TRACE, FLOW, HOP, PROBE)
