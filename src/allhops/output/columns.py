"""What a table of probes holds: one table of columns, from which the Parquet is written and its documentation checked.

    traces and their rows, as numpy has them -> columns of numbers, words or addresses

One row is one probe that was sent, one hop that was inherited, or a destination that has neither. This file knows no
Parquet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from allhops.core.evidence import DIRECT, evidence_in, flags_in
from allhops.core.harvest import STOP_REASONS
from allhops.core.ledger import STATES
from allhops.model import ProbeState
from allhops.output.addresses import SIZED_ADDRESS, Texts
from allhops.wire.classify import KINDS, PORT_STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

SCHEMA = "allhops.probes/1"
"""Names this table; a change that breaks readers changes it."""

UNKNOWN = -1
"""In a column of numbers that are never negative."""

TRACE = np.dtype(
    [
        ("position", "i8"),
        ("address", "u1", SIZED_ADDRESS),
        ("source", "u1", SIZED_ADDRESS),
        ("source_port", "i4"),
        ("destination_port", "i4"),
        ("started_ns", "i8"),
        ("duration_ns", "i8"),
        ("stop", "u1"),
    ]
)
"""One trace; the texts that it has stand beside it."""

HAS_PROBE, HAS_REPLY, HAS_ICMP, HAS_HEADER = 1, 2, 4, 8
"""What the numbers of a row say anything about: a probe, its reply, that one's ICMP and the header quoted in it."""
WORD_OF_STATE = (*(state or ProbeState.CANCELLED for state in STATES), "inherited")
INHERITED = len(STATES)
"""As the state of a row."""

ROW = np.dtype(
    [
        ("has", "u1"),
        ("ttl", "u1"),
        ("probe_ttl", "u1"),
        ("attempt", "u1"),
        ("state", "u1"),
        ("kind", "u1"),
        ("icmp_type", "u1"),
        ("icmp_code", "u1"),
        ("reply_ttl", "u1"),
        ("quoted_ttl", "u1"),
        ("quoted_tos", "u1"),
        ("port_state", "u1"),
        ("flags", "u1"),
        ("matched", "u2"),
        ("mtu", "u2"),
        ("duplicates", "u2"),
        ("rtt_ns", "i8"),
        ("late_rtt_ns", "i8"),
        ("responder", "u1", SIZED_ADDRESS),
        ("donor", "u1", SIZED_ADDRESS),
        ("extensions", "i4"),
    ]
)
"""One row; `extensions` is the number of a text beside it, from 1."""
COLUMNS_OF_ROW = tuple(ROW.fields or ())


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """n traces and their m rows."""

    traces: NDArray[Any]
    """(n,) of `TRACE`"""
    destinations: Sequence[str]
    protocols: Sequence[str]
    backends: Sequence[str | None]
    errors: Sequence[str | None]
    rows: Mapping[str, NDArray[Any]]
    """(m,) of each column of `ROW`, those of one trace side by side, in the order of the traces."""
    counts: NDArray[np.int64]
    """(n,): rows of each trace."""
    extensions: Sequence[str]

    def __len__(self) -> int:
        return len(self.rows["has"])


def stack(sheets: Sequence[Sheet]) -> Sheet:
    """One sheet of several."""
    if len(sheets) == 1:
        return sheets[0]
    rows = {
        name: np.concatenate([np.zeros(0, ROW[name]), *(sheet.rows[name] for sheet in sheets)])
        for name in COLUMNS_OF_ROW
    }
    texts = np.array([len(sheet.extensions) for sheet in sheets], np.int64)
    before = np.repeat(np.cumsum(texts) - texts, [len(sheet) for sheet in sheets])
    rows["extensions"] += np.where(rows["extensions"] > 0, before, 0).astype(np.int32)
    return Sheet(
        traces=np.concatenate([np.zeros(0, TRACE), *(sheet.traces for sheet in sheets)]),
        destinations=[text for sheet in sheets for text in sheet.destinations],
        protocols=[text for sheet in sheets for text in sheet.protocols],
        backends=[text for sheet in sheets for text in sheet.backends],
        errors=[text for sheet in sheets for text in sheet.errors],
        rows=rows,
        counts=np.concatenate([np.zeros(0, np.int64), *(sheet.counts for sheet in sheets)]),
        extensions=[text for sheet in sheets for text in sheet.extensions],
    )


class Numbers(NamedTuple):
    """A column of numbers."""

    values: NDArray[Any]
    known: NDArray[np.bool_] | None = None
    """None: all of them."""


class Words(NamedTuple):
    """A column of words out of a list."""

    codes: NDArray[Any]
    words: Sequence[str] | Texts
    known: NDArray[np.bool_] | None = None


class Addresses(NamedTuple):
    """A column of addresses: (m, `SIZED_ADDRESS`)."""

    sized: NDArray[np.uint8]


Values = Numbers | Words | Addresses


class Column(NamedTuple):
    """One column: its type, what it says, and how it is read from a sheet."""

    name: str
    type: str
    """`text`, `timestamp`, or a kind of integer."""
    read: Callable[[Sheet], Values]
    says: str
    unit: str = ""
    origin: str = ""
    """Which packet, or which part of this machine, the value was read from."""
    is_of_trace: bool = False
    """Whether it is the same on all rows of a trace; then `read` gives one value for each trace."""


def _positive(name: str) -> Callable[[Sheet], Numbers]:
    """A number of the row whose 0 says that there is none."""
    return lambda sheet: Numbers(sheet.rows[name], sheet.rows[name] > 0)


def _known(name: str) -> Callable[[Sheet], Numbers]:
    """A number of the row that is negative where nobody knows."""
    return lambda sheet: Numbers(sheet.rows[name], sheet.rows[name] >= 0)


def _if(has: int, name: str) -> Callable[[Sheet], Numbers]:
    """A number of the row that says something only about what the row has."""
    return lambda sheet: Numbers(sheet.rows[name], sheet.rows["has"] & has > 0)


def _one_of(name: str, words: Sequence[str | None]) -> Callable[[Sheet], Words]:
    """A word of the row by its place in a list; where that holds none, null.

    Each word has one code: with two, pyarrow writes the words themselves into every row.
    """
    texts = [*dict.fromkeys(word for word in words if word is not None)]
    is_word = np.array([word is not None for word in words])
    codes = np.array([0 if word is None else texts.index(word) for word in words], np.int32)
    return lambda sheet: Words(codes[sheet.rows[name]], texts, is_word[sheet.rows[name]])


def _bits(name: str, read: Callable[[int], Sequence[str]]) -> Callable[[Sheet], Words]:
    """Bits of a reply as words with commas between them."""

    def of(sheet: Sheet) -> Words:
        held = sheet.rows[name]
        bits = np.flatnonzero(np.bincount(held))
        codes = np.zeros(bits.max(initial=0) + 1, np.int32)
        codes[bits] = np.arange(len(bits))
        return Words(codes[held], [",".join(read(value)) for value in bits.tolist()], sheet.rows["has"] & HAS_REPLY > 0)

    return of


def _texts(read: Callable[[Sheet], Sequence[str | None]]) -> Callable[[Sheet], Words]:
    """A text of each trace."""

    def of(sheet: Sheet) -> Words:
        texts = read(sheet)
        number = {text: code for code, text in enumerate(dict.fromkeys(texts))}
        codes = np.fromiter(map(number.__getitem__, texts), np.int32, len(texts))
        known = None if None not in number else codes != number[None]
        return Words(codes, [text or "" for text in number], known)

    return of


_word_of_state = _one_of("state", WORD_OF_STATE)


def _state(sheet: Sheet) -> Words:
    said = (sheet.rows["has"] & HAS_PROBE > 0) | (sheet.rows["state"] == INHERITED)
    return _word_of_state(sheet)._replace(known=said)


_THE_CALLER = "the caller"
_REPLY_HEADER = "IP header of the reply"
_REPLY_ICMP = "ICMP header of the reply"
_QUOTED_HEADER = "IP header of the probe as quoted in the reply"
_PROBE_HEADER = "UDP, TCP or ICMP header of the probes"
_STAMPS = "the kernel's receive stamp of the reply minus the send stamp of the probe"
_QUOTE = "the probe as quoted in the reply; the destination's own answer"

COLUMNS: tuple[Column, ...] = (
    Column(
        "destination",
        "text",
        _texts(lambda sheet: sheet.destinations),
        "Name or address as it was asked for.",
        origin=_THE_CALLER,
        is_of_trace=True,
    ),
    Column(
        "position",
        "int64",
        lambda sheet: Numbers(sheet.traces["position"], sheet.traces["position"] >= 0),
        "Its place in the list of destinations, from 0; null if it was traced outside a list.",
        origin=_THE_CALLER,
        is_of_trace=True,
    ),
    Column(
        "address",
        "text",
        lambda sheet: Addresses(sheet.traces["address"]),
        "Destination address of the probes; null if there is none.",
        origin="the resolver; IP header of the probes",
        is_of_trace=True,
    ),
    Column(
        "source",
        "text",
        lambda sheet: Addresses(sheet.traces["source"]),
        "Source address of the probes; null if none could be sent.",
        origin="this machine's routes; IP header of the probes",
        is_of_trace=True,
    ),
    Column(
        "protocol",
        "text",
        _texts(lambda sheet: sheet.protocols),
        "What the probes are made of: `udp`, `icmp` or `tcp`.",
        origin=_THE_CALLER,
        is_of_trace=True,
    ),
    Column(
        "source_port",
        "uint16",
        lambda sheet: Numbers(sheet.traces["source_port"], sheet.traces["source_port"] >= 0),
        "Source port; the identifier if the probes are ICMP; null if none could be sent.",
        origin=_PROBE_HEADER,
        is_of_trace=True,
    ),
    Column(
        "destination_port",
        "uint16",
        lambda sheet: Numbers(sheet.traces["destination_port"], sheet.traces["destination_port"] >= 0),
        "Destination port; null for ICMP, which has none.",
        origin=_PROBE_HEADER,
        is_of_trace=True,
    ),
    Column(
        "started_at",
        "timestamp",
        lambda sheet: Numbers(sheet.traces["started_ns"]),
        "When the trace began, UTC.",
        unit="nanoseconds",
        origin="this machine's wall clock",
        is_of_trace=True,
    ),
    Column(
        "duration_ns",
        "int64",
        lambda sheet: Numbers(sheet.traces["duration_ns"]),
        "How long the trace took.",
        unit="nanoseconds",
        origin="this machine's monotonic clock",
        is_of_trace=True,
    ),
    Column(
        "stop_reason",
        "text",
        lambda sheet: Words(sheet.traces["stop"], [str(reason) for reason in STOP_REASONS]),
        "Why the trace ended, in the JSON's words.",
        is_of_trace=True,
    ),
    Column(
        "error",
        "text",
        _texts(lambda sheet: sheet.errors),
        "One sentence if this machine could not trace, null otherwise.",
        origin="this machine",
        is_of_trace=True,
    ),
    Column(
        "backend",
        "text",
        _texts(lambda sheet: sheet.backends),
        "How the probes reached the wire; null if none could leave.",
        origin="this machine",
        is_of_trace=True,
    ),
    Column(
        "ttl",
        "uint8",
        _positive("ttl"),
        "TTL of the hop that shows the probe, as in the JSON; null if none does.",
        unit="hops",
    ),
    Column(
        "probe_ttl",
        "uint8",
        _positive("probe_ttl"),
        "TTL or hop limit as sent; null on a row without a probe.",
        unit="hops",
        origin="IP header of the probe as sent",
    ),
    Column("attempt", "uint8", _positive("attempt"), "How many times this TTL had been asked, this time included."),
    Column(
        "state",
        "text",
        _state,
        "How the probe ended: `answered`, `timed_out`, `local_error`, `cancelled`; or `inherited`: no probe asked, "
        "another trace tells who is there; null for a destination that was sent nothing.",
        origin="this machine",
    ),
    Column(
        "responder",
        "text",
        lambda sheet: Addresses(sheet.rows["responder"]),
        "Source address of the reply; null if there was none.",
        origin=_REPLY_HEADER,
    ),
    Column(
        "rtt_ns",
        "int64",
        _known("rtt_ns"),
        "Round-trip time; null also if the clock was stepped meanwhile.",
        unit="nanoseconds",
        origin=_STAMPS,
    ),
    Column(
        "late_rtt_ns",
        "int64",
        _known("late_rtt_ns"),
        "Round-trip time of a reply that came after the probe was given up, if it came before the row was written.",
        unit="nanoseconds",
        origin=_STAMPS,
    ),
    Column(
        "kind",
        "text",
        _one_of("kind", KINDS),
        "What the reply says about the probe: `time_exceeded`, `destination`, `unreachable`.",
        origin="IP and ICMP headers of the reply",
    ),
    Column(
        "icmp_type",
        "uint8",
        _if(HAS_ICMP, "icmp_type"),
        "ICMP type; null for an answer that is no ICMP.",
        origin=_REPLY_ICMP,
    ),
    Column(
        "icmp_code",
        "uint8",
        _if(HAS_ICMP, "icmp_code"),
        "ICMP code; null for an answer that is no ICMP.",
        origin=_REPLY_ICMP,
    ),
    Column(
        "reply_ttl",
        "uint8",
        _positive("reply_ttl"),
        "TTL or hop limit with which the reply arrived here.",
        unit="hops",
        origin=_REPLY_HEADER,
    ),
    Column(
        "quoted_ttl",
        "uint8",
        _if(HAS_HEADER, "quoted_ttl"),
        "What was left of the probe's TTL at the responder. Null for a direct answer, and without raw sockets.",
        unit="hops",
        origin=_QUOTED_HEADER,
    ),
    Column(
        "quoted_tos",
        "uint8",
        _if(HAS_HEADER, "quoted_tos"),
        "Type of service or traffic class of the probe at the responder. Null as `quoted_ttl`.",
        origin=_QUOTED_HEADER,
    ),
    Column(
        "mtu",
        "uint16",
        _positive("mtu"),
        "Largest packet that the next link takes, when the probe was too big for it.",
        unit="bytes",
        origin=_REPLY_ICMP,
    ),
    Column(
        "port_state",
        "text",
        _one_of("port_state", PORT_STATES),
        "Whether the destination's port takes connections: `open`, `closed`; null for answers that do not say.",
        origin="TCP or UDP header of the reply",
    ),
    Column(
        "flags",
        "text",
        _bits("flags", lambda bits: flags_in(bits & ~DIRECT)),
        "What is odd about the reply: the JSON's words, commas between them; empty if nothing is.",
        origin=f"IP header of the reply; {_QUOTE}",
    ),
    Column(
        "matched",
        "text",
        _bits("matched", evidence_in),
        "Why the reply is believed to be this probe's: the JSON's words, commas between them.",
        origin=_QUOTE,
    ),
    Column(
        "duplicates",
        "uint16",
        _if(HAS_REPLY, "duplicates"),
        "Further replies to this probe.",
        unit="packets",
        origin="the replies that came later",
    ),
    Column(
        "extensions",
        "text",
        lambda sheet: Words(sheet.rows["extensions"] - 1, sheet.extensions, sheet.rows["extensions"] > 0),
        "ICMP extensions as the JSON has them, a list; null if there are none.",
        origin="ICMP extension structure of the reply",
    ),
    Column(
        "inherited_from",
        "text",
        lambda sheet: Addresses(sheet.rows["donor"]),
        "On an inherited row, destination address of the trace that measured it; null elsewhere.",
        origin="IP header of the other trace's probes",
    ),
)
