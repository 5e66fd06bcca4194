"""JSON Lines of a batch, made straight from its columns: to the byte what `--json` writes for each trace.

Values of the model for every probe, and `json.dumps` of them, take ten times as long. Here a record of `records.py` is
cut into runs of fields that depend on the same few columns, whose text is remembered (fragments.py); only what
differs from probe to probe is written out for each. This file knows no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.evidence import NAT
from allhops.core.paths import address_text, probe_from
from allhops.enrich.clean import clean_text
from allhops.model import Hop
from allhops.output.fragments import AddressTexts, cut
from allhops.output.json import compact, line
from allhops.output.records import HOP, INHERITED, PROBE, SCHEMA, TRACE, milliseconds, timestamp
from allhops.wire.classify import DESTINATION

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from allhops.core.harvest import Harvest, Hops, Rows
    from allhops.model import Extension, Probe, Trace

MOST_AT_ONCE = 128
"""Courses written at once: 1,500 probes, 3 ms, 0.8 MB of text."""

_NULL = "null"
_PROBE_SENT, _RESPONDER, _NAME, _RTT, _LATE_RTT, _REPLY, _EXTENSIONS, _EVIDENCE = cut(
    PROBE,
    ("attempt", "probe_ttl", "state"),
    ("address",),
    ("name",),
    ("rtt_ms",),
    ("late_rtt_ms",),
    ("kind", "icmp_type", "icmp_code", "reply_ttl", "quoted_ttl", "quoted_tos", "mtu", "port_state"),
    ("extensions",),
    ("matched", "flags", "duplicates"),
)
_REPLY_COLUMNS = (
    "state", "kind", "icmp_type", "icmp_code", "reply_ttl", "quoted_ttl", "quoted_tos", "mtu", "port_state", "flags",
    "hearsay",
)  # fmt: skip
_EVIDENCE_COLUMNS = ("state", "kind", "matched", "flags", "duplicates")
_HOP_TTL, _HOP_PROBES, _HOP_SAYS, _HOP_INHERITED = cut(
    HOP, ("ttl",), ("probes",), ("verdict", "nat", "mtu"), ("inherited",)
)
_INHERITED_ADDRESS, _INHERITED_DONOR = cut(INHERITED, ("address",), ("destination",))
_SCHEMA, _DESTINATION, _ADDRESS, _ORIGIN, _STARTED, _DURATION, _REACHED, _STOP, _FLOW, _HOPS = cut(
    TRACE,
    ("schema",),
    ("destination",),
    ("address",),
    ("source", "protocol"),
    ("started_at",),
    ("duration_ms",),
    ("reached",),
    ("stop_reason", "error"),
    ("flow", "backend", "flow_constant", "path_mtu"),
    ("hops",),
)
_ADDRESSES = AddressTexts()
_TRUTH = {False: "false", True: "true"}


class JsonLines:
    """Writes one line for each trace; `write` is given whole lines."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def harvest(self, harvest: Harvest) -> None:
        """One line for each course. Who must not hold an event loop for longer than `MOST_AT_ONCE` take splits it."""
        for part in harvest.split(MOST_AT_ONCE):
            self._write("".join(_lines(part)).encode("ascii"))

    def trace(self, trace: Trace) -> None:
        """The line of a destination that the batch did not trace itself."""
        self._write(line(trace).encode("ascii"))

    def flush(self) -> None:
        """Nothing: a line is written as soon as it is made."""

    def close(self) -> None:
        """Nothing: what is behind `write` is its owner's."""


def _lines(harvest: Harvest) -> list[str]:
    """One line for each course."""
    rows = harvest.shown()
    hops = harvest.hops(rows)
    hop_texts = _hop_texts(harvest, hops, rows)
    bounds = np.searchsorted(hops.place, np.arange(len(harvest) + 1)).tolist()
    return [
        f"{head},{_HOPS.name}[{','.join(hop_texts[begin:end])}]}}\n"
        for head, begin, end in zip(_heads(harvest, rows), bounds, bounds[1:], strict=False)
    ]


def _heads(harvest: Harvest, rows: Rows) -> list[str]:
    """Each trace up to its hops."""
    plan, read = harvest.plan, harvest.trace
    courses = harvest.courses.tolist()
    ports = [plan.source_port_of(course) for course in courses]
    options, backend = plan.options, harvest.backend
    schema = f"{_SCHEMA.name}{compact(SCHEMA)}"
    columns = (
        [f"{{{schema},{_DESTINATION.name}{compact(clean_text(harvest.names[course]))}" for course in courses],
        [f'{_ADDRESS.name}"{address_text(plan.destination_of(course))}"' for course in courses],
        _ORIGIN.texts([(plan.source, options.protocol)] * len(courses), read),
        [f'{_STARTED.name}"{timestamp(stamp_ns)}"' for stamp_ns in harvest.started_ns.tolist()],
        _in_milliseconds(_DURATION.name, harvest.duration_ns),
        [_REACHED.name + _TRUTH[is_reached] for is_reached in _reached(harvest, rows)],
        _STOP.texts(list(zip(harvest.stop.tolist(), harvest.errors.tolist(), strict=True)), read),
        _FLOW.texts([(port, options.destination_port, backend) for port in ports], read),
    )
    return [",".join(parts) for parts in zip(*columns, strict=True)]


def _reached(harvest: Harvest, rows: Rows) -> list[bool]:
    """Whether the last hop of each course shows the destination's own answer."""
    arrived = harvest.is_reply(rows.slot) & (harvest.column("kind", rows.slot) == DESTINATION)
    reached = np.zeros(len(harvest), np.bool_)
    reached[rows.place[arrived & (rows.ttl == harvest.last_ttl[rows.place])]] = True
    flags: list[bool] = reached.tolist()
    return flags


def _hop_texts(harvest: Harvest, hops: Hops, rows: Rows) -> list[str]:
    """Each hop as an object."""
    probes = _probe_texts(harvest, rows.slot)
    nat = harvest.is_reply(rows.slot) & (harvest.column("flags", rows.slot) & NAT > 0)
    nat_before = np.concatenate(([0], np.cumsum(nat)))
    is_nat = (nat_before[hops.end] > nat_before[hops.begin]).tolist()
    slots = rows.slot.tolist()
    begins, ends = hops.begin.tolist(), hops.end.tolist()
    ttls = hops.ttl.tolist()

    def read_says(at: int) -> Hop:
        return Hop(ttl=ttls[at], probes=tuple(_probe(harvest, slot) for slot in slots[begins[at] : ends[at]]))

    opening = _HOP_TTL.texts(ttls, lambda at: Hop(ttl=ttls[at], probes=()))
    closing = _HOP_SAYS.texts(is_nat, read_says)
    inherited = _inherited_texts(harvest, hops.heir)
    label, heir_label = _HOP_PROBES.name, _HOP_INHERITED.name
    return [
        f"{{{ttl},{label}[{{{'},{'.join(probes[begin:end])}}}],{says},{heir_label}{heir}}}"
        if begin < end
        else f"{{{ttl},{label}[],{says},{heir_label}{heir}}}"
        for ttl, begin, end, says, heir in zip(opening, begins, ends, closing, inherited, strict=True)
    ]


def _inherited_texts(harvest: Harvest, heirs: NDArray[np.int64]) -> list[str]:
    """Who is at each hop according to another trace, as an object or null."""
    texts = [_NULL] * len(heirs)
    if harvest.inherited is None:
        return texts
    places = np.flatnonzero(heirs >= 0)
    told = heirs[places]
    size = harvest.plan.layout.family.address_size
    responders, donors = (
        _keys(column[told, :size]) for column in (harvest.inherited.responder, harvest.inherited.donor)
    )
    for place, responder, donor in zip(places.tolist(), responders, donors, strict=True):
        texts[place] = (
            f'{{{_INHERITED_ADDRESS.name}"{_ADDRESSES[responder]}",{_INHERITED_DONOR.name}"{_ADDRESSES[donor]}"}}'
        )
    return texts


def _probe_texts(harvest: Harvest, slot: NDArray[np.int64]) -> list[str]:
    """What is between the braces of each probe."""
    plan = harvest.plan
    slots = slot.tolist()
    is_reply = harvest.is_reply(slot)

    def read(at: int) -> Probe:
        return _probe(harvest, slots[at])

    def keys(columns: tuple[str, ...]) -> list[bytes]:
        return _keys(*(harvest.column(name, slot) for name in columns))

    attempt, ttl = slot % plan.slots_per_row, slot // plan.slots_per_row % plan.ttls + plan.options.first_ttl
    sent, received, late = (harvest.column(name, slot) for name in ("sent_ns", "received_ns", "late_ns"))
    columns = (
        _PROBE_SENT.texts(_keys(attempt, ttl, harvest.column("state", slot)), read),
        _responder_texts(harvest, slot, is_reply),
        _in_milliseconds(f"{_NAME.name}{_NULL},{_RTT.name}", received - sent, is_reply & (received >= sent)),
        _in_milliseconds(_LATE_RTT.name, late - sent, (late != 0) & (late >= sent)),
        _REPLY.texts(keys(_REPLY_COLUMNS), read),
        _EXTENSIONS.texts(_extensions(harvest, slots, is_reply), read),
        _EVIDENCE.texts(keys(_EVIDENCE_COLUMNS), read),
    )
    return [*map(",".join, zip(*columns, strict=True))]


def _responder_texts(harvest: Harvest, slot: NDArray[np.int64], is_reply: NDArray[np.bool_]) -> list[str]:
    """Who answered each probe, or null."""
    label, silent = _RESPONDER.name, _RESPONDER.name + _NULL
    return [
        f'{label}"{_ADDRESSES[packed]}"' if answered else silent
        for packed, answered in zip(_keys(harvest.responders(slot)), is_reply.tolist(), strict=True)
    ]


def _extensions(harvest: Harvest, slots: list[int], is_reply: NDArray[np.bool_]) -> list[tuple[Extension, ...]]:
    """What each reply brought; nothing without a reply."""
    extensions = harvest.ledger.extensions
    if not extensions:
        return [()] * len(slots)
    return [extensions.get(at, ()) if said else () for at, said in zip(slots, is_reply.tolist(), strict=True)]


def _probe(harvest: Harvest, slot: int) -> Probe:
    return probe_from(harvest.plan, harvest.ledger, slot)


def _keys(*columns: NDArray[Any]) -> list[bytes]:
    """Each row of these columns as one value that can be looked up."""
    parts = [np.ascontiguousarray(column if column.ndim > 1 else column[:, None]).view(np.uint8) for column in columns]
    rows = np.ascontiguousarray(np.concatenate(parts, axis=1))
    keys: list[bytes] = rows.view(f"V{rows.shape[1]}").ravel().tolist()
    return keys


def _in_milliseconds(name: str, duration_ns: NDArray[np.int64], is_known: NDArray[np.bool_] | None = None) -> list[str]:
    """`name` with what `records.milliseconds` says of each duration, null where it is not known."""
    # In whole numbers, unless it is just between two microseconds: there the float decides.
    if is_known is not None and not is_known.any():
        return [name + _NULL] * len(duration_ns)
    micro, rest = np.divmod(duration_ns + 500, 1_000)
    texts = [f"{name}{value!r}" for value in (micro / 1_000).tolist()]
    if is_known is not None:
        for at in np.flatnonzero(~is_known).tolist():
            texts[at] = name + _NULL
    for at in np.flatnonzero((rest == 0) if is_known is None else (rest == 0) & is_known).tolist():
        texts[at] = f"{name}{milliseconds(int(duration_ns[at]))!r}"
    return texts
