"""Harvests and single traces as sheets: the rows of a table of probes (columns.py), as arrays.

This file knows no Parquet and no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from allhops.core.evidence import DIRECT, FLAG_BIT, bits_of
from allhops.core.harvest import STOP_REASONS, joined
from allhops.core.lanes.hearsay import QUOTED_HEADER
from allhops.core.ledger import STATES
from allhops.enrich.clean import clean_text
from allhops.errors import explain_errno
from allhops.model import StopReason
from allhops.output.addresses import SIZED_ADDRESS
from allhops.output.columns import (
    COLUMNS_OF_ROW,
    HAS_HEADER,
    HAS_ICMP,
    HAS_PROBE,
    HAS_REPLY,
    INHERITED,
    ROW,
    TRACE,
    UNKNOWN,
    Sheet,
    stack,
)
from allhops.output.extensions import write_extension
from allhops.output.json import compact
from allhops.wire.classify import KINDS, NO_PORT, PORT_STATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from allhops.core.harvest import Harvest
    from allhops.model import Address, Extension, Hop, Probe, Trace


class Told(NamedTuple):
    """One trace by itself, and the place of its destination in the caller's list."""

    trace: Trace
    position: int | None


Rows = dict[str, NDArray[Any]]
"""Columns of `ROW`."""

_AS_THEY_ARE = ("state", "icmp_type", "icmp_code", "quoted_ttl", "quoted_tos", "matched", "duplicates")
"""Columns of the ledger that a row repeats."""
_UNKNOWN_IF_BLANK = ("rtt_ns", "late_rtt_ns")
_TTL_BITS = 8
_LOCAL_ERROR = STOP_REASONS.index(StopReason.LOCAL_ERROR)


def rows_of(told: Harvest | Told) -> int:
    """How many, or a few less: probes that no hop shows are not counted."""
    if isinstance(told, Told):
        return sum(len(hop.probes) for hop in told.trace.hops) or 1
    return len(told.shown().slot) + (0 if told.inherited is None else len(told.inherited.course))


def sheet_of(told: Iterable[Harvest | Told]) -> Sheet:
    """All of it, harvests of one window together: one of a busy batch is too small for arrays to pay."""
    windows: dict[int, list[Harvest]] = {}
    traces: list[Told] = []
    for one in told:
        if isinstance(one, Told):
            traces.append(one)
        else:
            windows.setdefault(id(one.ledger), []).append(one)
    sheets = [sheet_of_harvest(joined(harvests)) for harvests in windows.values()]
    return stack([*sheets, sheet_of_traces(traces)] if traces else sheets)


def sheet_of_harvest(harvest: Harvest) -> Sheet:
    """Every probe that was sent, in order of trace, TTL and attempt, inherited hops among them."""
    place, rows, extensions = _probe_rows(harvest)
    heir_place, heirs = _inherited_rows(harvest)
    counts = np.bincount(place, minlength=len(harvest)) + np.bincount(heir_place, minlength=len(harvest))
    has_none = np.flatnonzero(counts == 0)
    if len(heir_place) or len(has_none):
        parts = (rows, heirs, _blank(len(has_none)))
        rows = {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS_OF_ROW}
        ttl = np.where(rows["probe_ttl"] > 0, rows["probe_ttl"], rows["ttl"])
        # Stable, and a merge: probes stand in the order of their slots already, and the others in theirs.
        order = np.argsort((np.concatenate((place, heir_place, has_none)) << _TTL_BITS) + ttl, kind="stable")
        rows = {name: column[order] for name, column in rows.items()}
        counts[has_none] = 1
    errors = np.where(harvest.stop == _LOCAL_ERROR, harvest.errors.astype(np.int32), UNKNOWN).tolist()
    return Sheet(
        traces=_traces(harvest),
        destinations=[_storable(harvest.names[course]) for course in harvest.courses.tolist()],
        protocols=[harvest.plan.options.protocol] * len(harvest),
        backends=[harvest.backend] * len(harvest),
        errors=[None if code == UNKNOWN else explain_errno(code) for code in errors],
        rows=rows,
        counts=counts,
        extensions=extensions,
    )


def sheet_of_traces(gathered: Sequence[Told]) -> Sheet:
    """Traces from their values of the model."""
    traces = np.zeros(len(gathered), TRACE)
    extensions: list[str] = []
    rows: list[NDArray[Any]] = []
    counts = np.zeros(len(gathered), np.int64)
    for at, (trace, position) in enumerate(gathered):
        _tell(traces[at], trace, position)
        own = [row for hop in trace.hops for row in _hop_rows(hop, extensions)] or [_blank_row()]
        rows += own
        counts[at] = len(own)
    told = np.concatenate(rows)
    return Sheet(
        traces=traces,
        destinations=[_storable(trace.destination) for trace, _ in gathered],
        protocols=[trace.protocol for trace, _ in gathered],
        backends=[trace.backend for trace, _ in gathered],
        errors=[trace.error and clean_text(trace.error) for trace, _ in gathered],
        rows={name: told[name] for name in COLUMNS_OF_ROW},
        counts=counts,
        extensions=extensions,
    )


def _tell(told: Any, trace: Trace, position: int | None) -> None:
    """Fill one of `TRACE`."""
    told["position"] = UNKNOWN if position is None else position
    told["address"], told["source"] = _sized(trace.address), _sized(trace.source)
    told["source_port"] = told["destination_port"] = UNKNOWN
    if trace.flow is not None:
        told["source_port"] = trace.flow.source_port
        told["destination_port"] = _or_unknown(trace.flow.destination_port)
    told["started_ns"], told["duration_ns"] = trace.started_at_ns, trace.duration_ns
    told["stop"] = STOP_REASONS.index(trace.stop_reason)


def _traces(harvest: Harvest) -> NDArray[Any]:
    plan, courses = harvest.plan, harvest.courses
    traces = np.zeros(len(harvest), TRACE)
    traces["position"] = harvest.positions[courses]
    traces["address"] = _all_sized(harvest.destinations())
    traces["source"] = _all_sized(np.frombuffer(plan.source, np.uint8)[None])
    traces["source_port"] = harvest.source_ports()
    traces["destination_port"] = _or_unknown(plan.options.destination_port)
    traces["started_ns"], traces["duration_ns"] = harvest.started_ns, harvest.duration_ns
    traces["stop"] = harvest.stop
    return traces


def _probe_rows(harvest: Harvest) -> tuple[NDArray[np.int64], Rows, list[str]]:
    """(place, row) of every probe that was sent, in order of place and slot; the texts of extensions."""
    plan, sent = harvest.plan, harvest.sent()
    slot = sent.slot
    is_reply = harvest.is_reply(slot)
    flags, port_state = harvest.column("flags", slot), harvest.column("port_state", slot)
    has_header = (flags & DIRECT == 0) & (harvest.column("hearsay", slot) & QUOTED_HEADER == 0)
    sent_ns, late_ns = harvest.column("sent_ns", slot), harvest.column("late_ns", slot)
    numbers, texts = _extension_numbers(harvest, slot, is_reply)
    rows = _blank(
        len(slot),
        has=HAS_PROBE
        + is_reply * (HAS_REPLY + (port_state == NO_PORT) * np.uint8(HAS_ICMP) + has_header * np.uint8(HAS_HEADER)),
        ttl=sent.ttl,
        probe_ttl=slot // plan.slots_per_row % plan.ttls + plan.options.first_ttl,
        attempt=slot % plan.slots_per_row + 1,
        flags=flags,
        port_state=np.where(is_reply, port_state, NO_PORT),
        rtt_ns=np.where(is_reply, harvest.column("received_ns", slot) - sent_ns, UNKNOWN),
        late_rtt_ns=np.where(late_ns != 0, late_ns - sent_ns, UNKNOWN),
        responder=_all_sized(harvest.responders(slot), is_reply),
        extensions=numbers,
        **{name: harvest.column(name, slot) for name in _AS_THEY_ARE},
        **{name: harvest.column(name, slot) * is_reply for name in ("kind", "reply_ttl", "mtu")},
    )
    return sent.place, rows, texts


def _extension_numbers(
    harvest: Harvest, slot: NDArray[np.int64], is_reply: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], list[str]]:
    """For each slot the number of its text, from 1; the texts."""
    extensions = harvest.ledger.extensions
    numbers = np.zeros(len(slot), np.int32)
    number_of: dict[tuple[Extension, ...], int] = {}
    if extensions:
        for at, one in enumerate(slot.tolist()):
            if one in extensions and is_reply[at]:
                numbers[at] = number_of.setdefault(extensions[one], len(number_of) + 1)
    return numbers, [_extensions_text(told) for told in number_of]


def _inherited_rows(harvest: Harvest) -> tuple[NDArray[np.int64], Rows]:
    """(place, row) of every hop that another trace tells."""
    if harvest.inherited is None:
        return np.zeros(0, np.int64), _blank(0)
    hops = harvest.hops(harvest.shown())
    at = np.flatnonzero(hops.heir >= 0)
    size, heir = harvest.plan.layout.family.address_size, hops.heir[at]
    rows = _blank(
        len(at),
        ttl=hops.ttl[at],
        state=np.full(len(at), INHERITED),
        responder=_all_sized(harvest.inherited.responder[heir, :size]),
        donor=_all_sized(harvest.inherited.donor[heir, :size]),
    )
    return hops.place[at], rows


def _hop_rows(hop: Hop, extensions: list[str]) -> list[NDArray[Any]]:
    """One row for each probe, or for who is there according to another trace."""
    if hop.inherited is None:
        return [_probe_row(hop.ttl, probe, extensions) for probe in hop.probes]
    rows = _blank_row()
    rows["ttl"], rows["state"] = hop.ttl, INHERITED
    rows["responder"], rows["donor"] = _sized(hop.inherited.address), _sized(hop.inherited.destination)
    return [rows]


def _probe_row(ttl: int, probe: Probe, extensions: list[str]) -> NDArray[Any]:
    rows = _blank_row()
    row, reply = rows[0], probe.reply
    row["has"], row["ttl"], row["probe_ttl"], row["attempt"] = HAS_PROBE, ttl, probe.probe_ttl, probe.attempt
    row["state"], row["late_rtt_ns"] = STATES.index(probe.state), _or_unknown(probe.late_rtt_ns)
    if reply is None:
        return rows
    row["has"] |= HAS_REPLY
    if reply.icmp_type is not None:
        row["has"] |= HAS_ICMP
        row["icmp_type"], row["icmp_code"] = reply.icmp_type, reply.icmp_code
    if reply.quoted_ttl is not None:
        row["has"] |= HAS_HEADER
        row["quoted_ttl"], row["quoted_tos"] = reply.quoted_ttl, reply.quoted_tos or 0
    row["responder"], row["rtt_ns"] = _sized(reply.address), _or_unknown(reply.rtt_ns)
    row["kind"], row["port_state"] = KINDS.index(reply.kind), PORT_STATES.index(reply.port_state)
    row["reply_ttl"], row["mtu"], row["duplicates"] = reply.reply_ttl or 0, reply.mtu or 0, reply.duplicates
    row["flags"], row["matched"] = sum(FLAG_BIT[flag] for flag in reply.flags), bits_of(reply.matched)
    if reply.extensions:
        extensions.append(_extensions_text(reply.extensions))
        row["extensions"] = len(extensions)
    return rows


def _blank(count: int, **told: NDArray[Any]) -> Rows:
    """Rows that say nothing but what is told."""
    rows = {name: np.zeros(count, ROW[name]) for name in COLUMNS_OF_ROW if name not in told}
    for name in _UNKNOWN_IF_BLANK:
        if name in rows:
            rows[name][:] = UNKNOWN
    return rows | {name: column.astype(ROW[name].base, copy=False) for name, column in told.items()}


def _blank_row() -> NDArray[Any]:
    """One row of `ROW` that says nothing."""
    row = np.zeros(1, ROW)
    for name in _UNKNOWN_IF_BLANK:
        row[name] = UNKNOWN
    return row


def _or_unknown(value: int | None) -> int:
    return UNKNOWN if value is None else value


def _all_sized(packed: NDArray[np.uint8], known: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """(m, 4 or 16) packed addresses to (m, `SIZED_ADDRESS`); none where it is not known."""
    sized = np.zeros((len(packed), SIZED_ADDRESS), np.uint8)
    sized[:, 0] = packed.shape[1]
    sized[:, 1 : 1 + packed.shape[1]] = packed
    if known is not None:
        sized[~known] = 0
    return sized


def _sized(address: Address | None) -> NDArray[np.uint8]:
    """One of them: (`SIZED_ADDRESS`,)."""
    packed = b"" if address is None else address.packed
    return np.frombuffer(bytes([len(packed)]) + packed.ljust(SIZED_ADDRESS - 1, b"\0"), np.uint8)


def _extensions_text(extensions: Sequence[Extension]) -> str:
    return compact([write_extension(extension) for extension in extensions])


def _storable(text: str) -> str:
    r"""Text as it is, but for the bytes of a strange locale that are no UTF-8: those become `\udcXX`."""
    return text.encode("utf-8", "backslashreplace").decode() if not text.isascii() else text
