"""The hops of a harvest as JSON text, to the byte what the records say of them.

    before the responder | responder | whole milliseconds | thousandths | behind

A probe is these five pieces. All but the responder are among a few that were made before, by the readers of
`records.py`: the first and the last are looked up by all columns that they depend on at once. What opens a hop belongs
to its first probe, what closes it to its last. This file knows no clock.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from allhops.core.evidence import NAT
from allhops.core.ledger import ANSWER, ANSWER_SIZE
from allhops.core.paths import hop_from, probe_from
from allhops.model import Hop
from allhops.output.fragments import cut
from allhops.output.json import compact
from allhops.output.records import HOP, INHERITED, PROBE, milliseconds
from allhops.output.remembered import Remembered, remembered_address_texts
from allhops.output.rounding import THOUSANDTHS, rounded

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    from allhops.core.harvest import Harvest, Hops, Rows
    from allhops.model import Probe

PIECES = 5

_NULL = "null"
_SENT, _RESPONDER, _NAME, _RTT, _LATE_RTT, _REPLY = cut(
    PROBE,
    ("attempt", "probe_ttl", "state"),
    ("address",),
    ("name",),
    ("rtt_ms",),
    ("late_rtt_ms",),
    (
        "kind", "icmp_type", "icmp_code", "reply_ttl", "quoted_ttl", "quoted_tos", "mtu", "port_state", "extensions",
        "matched", "flags", "duplicates",
    ),
)  # fmt: skip
_TTL, _PROBES, _SAYS, _INHERITED = cut(HOP, ("ttl",), ("probes",), ("verdict", "nat", "mtu"), ("inherited",))
_EXTENSIONS = next(field for field in PROBE.fields if field.name == "extensions")
_EXTENSIONS_NAME = f"{compact(_EXTENSIONS.name)}:"
_NO_EXTENSIONS = f"{_EXTENSIONS_NAME}{compact([])}"
_INHERITED_ADDRESS, _INHERITED_DONOR = cut(INHERITED, ("address",), ("destination",))

_SAID = ANSWER["matched"][1]
"""Where in an answer of the ledger those fields begin that the text behind a probe's times depends on: to its end."""
_SAID_SIZE = ANSWER_SIZE - _SAID
_FLAGS = ANSWER["flags"][1] - _SAID
_LAST, _BEHIND_NAT = 8, 16
"""Beside a probe's state: that it is the last of its hop; that a NAT stands before the hop."""

_MOST_MS = 4_096
"""Whole milliseconds whose text is at hand: 0.3 MB. An RTT that has more is written out."""
_RTT_LABEL = f",{_NAME.name}{_NULL},{_RTT.name}"
_WHOLE = np.array([f"{_RTT_LABEL}{whole}" for whole in (*range(_MOST_MS), _NULL)], object)
_NEVER_LATE = f",{_LATE_RTT.name}{_NULL}"
_THOUSANDTHS = np.array([*(THOUSANDTHS + _NEVER_LATE), _NEVER_LATE], object)

_BEFORE: defaultdict[Hashable, Remembered] = defaultdict(Remembered)
_UNASKED: defaultdict[Hashable, Remembered] = defaultdict(Remembered)
_BEHIND = Remembered(_SAID_SIZE // 8)


def probe_pieces(
    harvest: Harvest, rows: Rows, hops: Hops, packed: NDArray[np.uint8], destinations: Sequence[str]
) -> list[str]:
    """`PIECES` for each probe; those of a hop begin and end with what the hop has around them.

    `packed`, `destinations`: n, each one's address, and the text of that.
    """
    if not len(rows.slot):
        return []
    slot, is_reply = rows.slot, harvest.is_reply(rows.slot)
    pieces = [""] * (PIECES * len(slot))
    pieces[0::PIECES] = _before(harvest, slot, hops)
    pieces[1::PIECES] = _responders(harvest, rows, is_reply, packed, destinations)
    pieces[2::PIECES], pieces[3::PIECES] = _times(harvest, slot, is_reply)
    pieces[4::PIECES] = _behind(harvest, slot, is_reply, hops)
    return pieces


def unasked_texts(harvest: Harvest, hops: Hops, which: NDArray[np.int64]) -> list[str]:
    """Those of the hops that have no probe."""
    first_ttl, heir = harvest.plan.options.first_ttl, hops.heir[which]
    keys = (hops.ttl[which].astype(np.int64) << 1 | (heir >= 0)).view(np.uint64)
    texts: list[str] = _UNASKED[first_ttl].texts(keys, lambda at: _unasked(int(keys[at]), first_ttl)).tolist()
    if harvest.inherited is None:
        return texts
    told = np.flatnonzero(heir >= 0)
    size = harvest.plan.layout.family.address_size
    responders, donors = (
        remembered_address_texts(column[heir[told], :size]).tolist()
        for column in (harvest.inherited.responder, harvest.inherited.donor)
    )
    for at, responder, donor in zip(told.tolist(), responders, donors, strict=True):
        texts[at] += f"{responder},{_INHERITED_DONOR.name}{donor}}}}}"
    return texts


def _before(harvest: Harvest, slot: NDArray[np.int64], hops: Hops) -> list[str]:
    """Each probe up to its responder."""
    plan, first_ttl = harvest.plan, harvest.plan.options.first_ttl
    opens = np.zeros(len(slot) + 1, np.int64)
    opens[hops.begin] = hops.ttl  # a hop without probes begins where the next one does, which is the one that counts
    keys = (slot % plan.slots_per_course << 8 | harvest.column("state", slot)) << 8 | opens[:-1]

    def make(at: int) -> str:
        text = f"{{{_SENT.text(probe_from(plan, harvest.ledger, int(slot[at])))},{_RESPONDER.name}"
        return f"{_opening(int(opens[at]), first_ttl)}{text}" if opens[at] else f",{text}"

    texts: list[str] = _BEFORE[first_ttl, plan.slots_per_row].texts(keys.view(np.uint64), make).tolist()
    return texts


def _responders(
    harvest: Harvest, rows: Rows, is_reply: NDArray[np.bool_], packed: NDArray[np.uint8], destinations: Sequence[str]
) -> list[str]:
    """Who answered each probe, or null; what destinations answer themselves would only push routers out of memory."""
    words = np.ascontiguousarray(harvest.responders(rows.slot)).view(np.uint32)
    is_own = is_reply & (words == packed.view(np.uint32)[rows.place]).all(axis=1)
    texts = remembered_address_texts((words * (is_reply & ~is_own)[:, None]).view(np.uint8))
    texts[is_own] = np.array(destinations, object)[rows.place[is_own]]
    texts[~is_reply] = _NULL
    told: list[str] = texts.tolist()
    return told


def _times(harvest: Harvest, slot: NDArray[np.int64], is_reply: NDArray[np.bool_]) -> tuple[list[str], list[str]]:
    """Whole milliseconds of each RTT; what is behind their point, and the RTT of a late reply."""
    sent_ns, late_ns = harvest.column("sent_ns", slot), harvest.column("late_ns", slot)
    rtt_ns = harvest.column("received_ns", slot) - sent_ns
    is_known = is_reply & (rtt_ns >= 0)
    rtt = rounded(np.where(is_known, rtt_ns, _MOST_MS * 1_000_000))
    whole: list[str] = _WHOLE.take(rtt.whole, mode="clip").tolist()
    thousandths: list[str] = _THOUSANDTHS[np.where(is_known, rtt.thousandths, len(THOUSANDTHS))].tolist()
    for at in np.flatnonzero(is_known & (rtt.is_doubtful | (rtt.whole >= _MOST_MS))).tolist():
        whole[at] = f"{_RTT_LABEL}{milliseconds(int(rtt_ns[at]))!r}"
        thousandths[at] = _NEVER_LATE
    for at in np.flatnonzero((late_ns != 0) & (late_ns >= sent_ns)).tolist():
        late = milliseconds(int(late_ns[at] - sent_ns[at]))
        thousandths[at] = f"{thousandths[at].removesuffix(_NULL)}{late!r}"
    return whole, thousandths


def _behind(harvest: Harvest, slot: NDArray[np.int64], is_reply: NDArray[np.bool_], hops: Hops) -> list[str]:
    """Each probe from behind its times."""
    plan, ledger = harvest.plan, harvest.ledger
    keys = np.ndarray((plan.slots,), f"V{_SAID_SIZE}", ledger.answers, _SAID, (ANSWER_SIZE,))[slot]
    said = keys.view(np.uint8).reshape(-1, _SAID_SIZE)
    closing = said[:, -1]  # a byte that is nobody's
    closing[:] = harvest.column("state", slot)
    closing[hops.end - 1] |= _LAST  # a hop without probes ends where the one before does
    if (is_nat := is_reply & (said[:, _FLAGS] & NAT > 0)).any():
        has_probes = hops.begin < hops.end
        is_behind = np.logical_or.reduceat(is_nat, hops.begin[has_probes])
        closing[hops.end[has_probes][is_behind] - 1] |= _BEHIND_NAT

    def make(at: int) -> str:
        text = f",{_REPLY.text(_without_extensions(probe_from(plan, ledger, int(slot[at]))))}}}"
        if not closing[at] & _LAST:
            return text
        hop = int(np.searchsorted(hops.end, at, side="right"))
        slots = slot[hops.begin[hop] : hops.end[hop]].tolist()
        return f"{text}{_closing(hop_from(plan, ledger, int(hops.ttl[hop]), slots))}{_NULL}}}"

    texts: list[str] = _BEHIND.texts(said.view(np.uint64), make).tolist()
    if ledger.extensions:
        for at, one in enumerate(slot.tolist()):
            if one in ledger.extensions and is_reply[at]:
                text = compact(_EXTENSIONS.read(probe_from(plan, ledger, one)))
                texts[at] = texts[at].replace(_NO_EXTENSIONS, f"{_EXTENSIONS_NAME}{text}", 1)
    return texts


def _without_extensions(probe: Probe) -> Probe:
    """The same, so that what the network may make up at will is not remembered."""
    return probe if probe.reply is None else replace(probe, reply=replace(probe.reply, extensions=()))


def _opening(ttl: int, first_ttl: int) -> str:
    """What stands before the probes of a hop."""
    return f"{'' if ttl == first_ttl else ','}{{{_TTL.text(Hop(ttl=ttl, probes=()))},{_PROBES.name}["


def _closing(hop: Hop) -> str:
    """What stands behind the probes of a hop, up to what it inherits."""
    return f"],{_SAYS.text(hop)},{_INHERITED.name}"


def _unasked(key: int, first_ttl: int) -> str:
    """A hop without probes; up to who is there, if another trace has told."""
    ttl, is_told = divmod(key, 2)
    text = f"{_opening(ttl, first_ttl)}{_closing(Hop(ttl=ttl, probes=()))}"
    return text + (f"{{{_INHERITED_ADDRESS.name}" if is_told else f"{_NULL}}}")
