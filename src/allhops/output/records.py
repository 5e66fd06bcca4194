"""What the JSON holds: one table per record, from which the writer writes and the schema is made.

    trace -> hops -> probes; a probe's reply is told by the probe's own fields, null or empty when there was none

This file knows no JSON text, no clock and no socket.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from allhops.enrich.clean import clean_text
from allhops.model import (
    Evidence,
    Flow,
    Hop,
    Inherited,
    PortState,
    Probe,
    ProbeState,
    Protocol,
    Reply,
    ReplyFlag,
    ReplyKind,
    StopReason,
    Trace,
    Verdict,
)
from allhops.output.extensions import EXTENSIONS, write_extension
from allhops.output.fields import (
    ADDRESS,
    BOOLEAN,
    BYTE,
    MILLISECONDS,
    TEXT,
    TIME,
    TTL,
    WORD,
    Field,
    Record,
    integer,
    list_of,
    one_of,
    or_null,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = "allhops.trace/1"


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


def _list_in_reply(read: Callable[[Reply], object]) -> Callable[[Probe], object]:
    """Empty for a probe without a reply."""
    return lambda probe: [] if probe.reply is None else read(probe.reply)


_REPLY_HEADER = "IP header of the reply"
_REPLY_ICMP = "ICMP header of the reply"
_QUOTED_HEADER = "IP header of the probe as quoted in the reply"
_QUOTE = "the probe as quoted in the reply; the destination's own answer"
_MS = "milliseconds, three decimals"
_STAMPS = "the kernel's receive stamp of the reply minus the send stamp of the probe"

PROBE: Record[Probe] = Record(
    "probe",
    "One packet that was sent, and the first reply to it. Without a reply, what a reply tells is null, "
    "an empty list or 0.",
    (
        Field(
            "attempt",
            integer(1, 255),
            lambda probe: probe.attempt,
            "How many times this TTL had been asked, this time included; more than -q on a row that was asked again.",
        ),
        Field(
            "probe_ttl",
            TTL,
            lambda probe: probe.probe_ttl,
            "TTL or hop limit as sent; on the destination's row it may be larger than the hop's.",
            unit="hops",
            origin="IP header of the probe as sent",
        ),
        Field("state", one_of(ProbeState), lambda probe: probe.state, "How the probe ended.", origin="this machine"),
        Field(
            "address",
            or_null(ADDRESS),
            _of_reply(lambda reply: str(reply.address)),
            "Source address: the responder.",
            origin=_REPLY_HEADER,
        ),
        Field(
            "name",
            or_null(TEXT),
            _of_reply(lambda reply: reply.name),
            r"The responder's name in [A-Za-z0-9._-], anything else as \DDD; null if none came in time or with -n.",
            origin="reverse DNS",
        ),
        Field(
            "rtt_ms",
            or_null(MILLISECONDS),
            _of_reply(lambda reply: None if reply.rtt_ns is None else milliseconds(reply.rtt_ns)),
            "Round-trip time; null also if the clock was stepped meanwhile.",
            unit=_MS,
            origin=_STAMPS,
        ),
        Field(
            "late_rtt_ms",
            or_null(MILLISECONDS),
            lambda probe: None if probe.late_rtt_ns is None else milliseconds(probe.late_rtt_ns),
            "Round-trip time of a reply that came after the probe was given up: it stays lost. Null if none came.",
            unit=_MS,
            origin=_STAMPS,
        ),
        Field(
            "kind",
            or_null(one_of(ReplyKind)),
            _of_reply(lambda reply: reply.kind),
            "What the reply says about the probe.",
            origin="IP and ICMP headers of the reply",
        ),
        Field(
            "icmp_type",
            or_null(BYTE),
            _of_reply(lambda reply: reply.icmp_type),
            "ICMP type; null for an answer that is no ICMP.",
            origin=_REPLY_ICMP,
        ),
        Field(
            "icmp_code",
            or_null(BYTE),
            _of_reply(lambda reply: reply.icmp_code),
            "ICMP code; null for an answer that is no ICMP.",
            origin=_REPLY_ICMP,
        ),
        Field(
            "reply_ttl",
            or_null(BYTE),
            _of_reply(lambda reply: reply.reply_ttl),
            "TTL or hop limit with which the reply arrived here.",
            unit="hops",
            origin=_REPLY_HEADER,
        ),
        Field(
            "quoted_ttl",
            or_null(BYTE),
            _of_reply(lambda reply: reply.quoted_ttl),
            "What was left of the probe's TTL or hop limit at the responder; 1 as a rule. "
            "Null for a direct answer, and without raw sockets.",
            unit="hops",
            origin=_QUOTED_HEADER,
        ),
        Field(
            "quoted_tos",
            or_null(BYTE),
            _of_reply(lambda reply: reply.quoted_tos),
            "Type of service or traffic class of the probe as it arrived at the responder: DSCP times 4 plus ECN. "
            "Null for a direct answer, and without raw sockets.",
            origin=_QUOTED_HEADER,
        ),
        Field(
            "mtu",
            or_null(WORD),
            _of_reply(lambda reply: reply.mtu),
            "Largest packet that the next link takes, when the probe was too big for it; null if that is not told.",
            unit="bytes",
            origin=_REPLY_ICMP,
        ),
        Field(
            "port_state",
            or_null(one_of(PortState)),
            _of_reply(lambda reply: reply.port_state),
            "Whether the destination's port takes connections; null for answers that say nothing about it.",
            origin="TCP or UDP header of the reply",
        ),
        Field(
            "extensions",
            list_of(*(record.reference for record in EXTENSIONS)),
            _list_in_reply(lambda reply: [write_extension(extension) for extension in reply.extensions]),
            "ICMP extensions (RFC 4884) in the order of the packet; one object for each MPLS label.",
            origin="ICMP extension structure of the reply",
        ),
        Field(
            "matched",
            list_of(one_of(Evidence)),
            _list_in_reply(lambda reply: list(reply.matched)),
            "Why the reply is believed to be this probe's: all that it shows exactly as it was sent.",
            origin=_QUOTE,
        ),
        Field(
            "flags",
            list_of(one_of(ReplyFlag)),
            _list_in_reply(lambda reply: list(reply.flags)),
            "What is odd about the reply.",
            origin=f"IP header of the reply; {_QUOTE}",
        ),
        Field(
            "duplicates",
            WORD,
            lambda probe: probe.reply.duplicates if probe.reply is not None else 0,
            "Further replies to this probe; the first one is told here.",
            unit="packets",
            origin="the replies that came later",
        ),
    ),
)

INHERITED: Record[Inherited] = Record(
    "inherited",
    "Who is at a TTL that this trace did not ask, according to another trace that was seen at one responder with it.",
    (
        Field(
            "address",
            ADDRESS,
            lambda inherited: str(inherited.address),
            "The responder.",
            origin="IP header of the reply to the other trace's probe",
        ),
        Field(
            "destination",
            ADDRESS,
            lambda inherited: str(inherited.destination),
            "Destination of the trace that measured it, with a flow of its own.",
            origin="IP header of the other trace's probes",
        ),
    ),
)

HOP: Record[Hop] = Record(
    "hop",
    "Everything heard at one TTL. The destination's hop may hold probes with a larger TTL that reached it too.",
    (
        Field("ttl", TTL, lambda hop: hop.ttl, "Distance from here.", unit="hops", origin="probes as sent"),
        Field(
            "probes",
            list_of(PROBE.reference),
            lambda hop: [PROBE.write(probe) for probe in hop.probes],
            "In order of attempt; none on a hop that is inherited or was not asked.",
        ),
        Field(
            "verdict",
            or_null(one_of(Verdict)),
            lambda hop: hop.verdict,
            "What a row that looked wrong turned out to be when it was asked again; null if nothing is wrong with it.",
            origin="the replies to those probes",
        ),
        Field(
            "nat",
            BOOLEAN,
            lambda hop: hop.is_behind_nat,
            "Whether a NAT changed the probes on their way to this hop.",
            origin="the probes as quoted in the replies",
        ),
        Field(
            "mtu",
            or_null(WORD),
            lambda hop: hop.mtu,
            "Largest whole packet known to reach this hop; null without --mtu, or if none is known to.",
            unit="bytes",
            origin="the size of answered probes as sent",
        ),
        Field(
            "inherited",
            or_null(INHERITED.reference),
            lambda hop: hop.inherited and INHERITED.write(hop.inherited),
            "Who is there according to another trace of the same batch; null for a hop that this trace asked itself.",
        ),
    ),
)

_PROBE_HEADER = "UDP, TCP or ICMP header of the probes"

FLOW: Record[Flow] = Record(
    "flow",
    "What load balancers hash, besides addresses and protocol: the same for every probe of the trace, "
    "unless `flow_constant` is false.",
    (
        Field(
            "source_port",
            WORD,
            lambda flow: flow.source_port,
            "Source port; the identifier if the probes are ICMP.",
            origin=_PROBE_HEADER,
        ),
        Field(
            "destination_port",
            or_null(WORD),
            lambda flow: flow.destination_port,
            "Destination port; null for ICMP, which has none.",
            origin=_PROBE_HEADER,
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
            TEXT,
            lambda trace: clean_text(trace.destination),
            "Name or address as it was asked for, without control characters.",
            origin="the caller",
        ),
        Field(
            "address",
            or_null(ADDRESS),
            lambda trace: trace.address and str(trace.address),
            "Destination address of the probes; null if there is none.",
            origin="the resolver; IP header of the probes",
        ),
        Field(
            "source",
            or_null(ADDRESS),
            lambda trace: trace.source and str(trace.source),
            "Source address of the probes; null if none could be sent.",
            origin="this machine's routes; IP header of the probes",
        ),
        Field(
            "protocol",
            one_of(Protocol),
            lambda trace: trace.protocol,
            "What the probes are made of.",
            origin="the caller",
        ),
        Field(
            "started_at",
            TIME,
            lambda trace: timestamp(trace.started_at_ns),
            "When the trace began: RFC 3339, UTC.",
            unit="microseconds",
            origin="this machine's wall clock",
        ),
        Field(
            "duration_ms",
            MILLISECONDS,
            lambda trace: milliseconds(trace.duration_ns),
            "How long the trace took, names not counted.",
            unit=_MS,
            origin="this machine's monotonic clock",
        ),
        Field("reached", BOOLEAN, lambda trace: trace.reached, "Whether the destination itself answered."),
        Field("stop_reason", one_of(StopReason), lambda trace: trace.stop_reason, "Why the trace ended."),
        Field(
            "error",
            or_null(TEXT),
            lambda trace: trace.error and clean_text(trace.error),
            "One sentence if this machine could not trace, null otherwise.",
            origin="this machine",
        ),
        Field(
            "flow",
            or_null(FLOW.reference),
            lambda trace: trace.flow and FLOW.write(trace.flow),
            "Ports or identifier of the probes; null if none could be sent.",
        ),
        Field(
            "backend",
            or_null({"enum": ["raw", "ring", "errqueue", "simulated"]}),
            lambda trace: trace.backend,
            "How the probes reached the wire; null if none could leave.",
            origin="this machine",
        ),
        Field(
            "flow_constant",
            BOOLEAN,
            lambda trace: trace.flow_constant,
            "Whether every probe had the flow told in `flow`; if not, rows may belong to different paths.",
            origin="this machine",
        ),
        Field(
            "path_mtu",
            or_null(WORD),
            lambda trace: trace.path_mtu,
            "Largest whole packet known to reach the destination; null without --mtu, or if it was not reached.",
            unit="bytes",
            origin="the size of answered probes as sent",
        ),
        Field("hops", list_of(HOP.reference), lambda trace: [HOP.write(hop) for hop in trace.hops], "In order of TTL."),
    ),
)

RECORDS: tuple[Record[Any], ...] = (TRACE, FLOW, HOP, INHERITED, PROBE, *EXTENSIONS)
