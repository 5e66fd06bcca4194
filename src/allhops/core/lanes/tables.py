"""What a plan says about thousands of courses, laid out for look-up: checksums, addresses, marks.

Worked out once a plan, in array operations: no template is built but one. This file knows no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.answers import key_of
from allhops.core.ledger import ADDRESS_BYTES
from allhops.wire.checksum import MASK, fold
from allhops.wire.codec import balance, encode_mark
from allhops.wire.probes import build_template, patches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.core.plan import Plan

_PREPARED = "vector"
UNKNOWN = -1
_WORDS = 1 << 16
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SPARSENESS = 2
"""Binary logarithm of how many times more places the hash table has than destinations, at least: of 10,000 one in
fourteen is not where it is looked for first."""


def tables_of(plan: Plan) -> Tables:
    """A plan's tables; made once."""
    tables: Tables | None = plan.prepared.get(_PREPARED)
    if tables is None:
        tables = plan.prepared[_PREPARED] = Tables(plan)
    return tables


class Tables:
    """See the module. A *position* is a slot's place among those of its course."""

    def __init__(self, plan: Plan) -> None:
        family = plan.layout.family
        size = family.address_size
        packed = np.frombuffer(b"".join(plan.destinations), np.uint8).reshape(-1, size)
        # Words one after the other: a sum over an axis of two or eight is five times as slow.
        sums = np.ascontiguousarray(packed.view(">u2").T).sum(axis=0, dtype=np.int32)
        self._source_ports = plan.source_ports
        ports = np.array(plan.source_ports, np.uint16)
        # Destination and port are zero in it: they are added to its sums.
        self.base = build_template(plan.layout, plan.flow(bytes(size), 0))
        self.ports = np.tile(ports, len(sums))
        """(courses,)"""
        self.address_sums = _folded(sums)
        """(destinations,): of the words of the address."""
        covered = np.repeat(sums * plan.layout.has_pseudo_header, len(ports)) + self.ports
        checksums = _folded((self.base.checksum ^ MASK) + covered) ^ MASK
        self.checksums = np.where(checksums == 0, MASK, checksums).astype(np.uint16)
        """(courses,): as `build_template` has it."""
        self.addresses = packed.view(f"V{size}")[:, 0]
        """(destinations,)"""
        aligned = np.zeros((len(packed) + 1, ADDRESS_BYTES), np.uint8)
        aligned[:-1, :size] = packed
        self._halves = np.ascontiguousarray(aligned.view(np.uint64).T)
        self._is_short = size <= ADDRESS_BYTES // 2
        self._keys = self._key(self._halves.T)
        """(destinations + 1,): the last one is nobody's."""
        self._nobody = len(packed)
        bits = len(packed).bit_length() + _SPARSENESS
        self._shift = np.uint64(64 - bits)
        self._places = np.full(1 << bits, self._nobody, np.min_scalar_type(self._nobody))
        """Destinations by their keys' upper bits: of several the last, so of equal ones what a dictionary would say."""
        at, everybody = self._keys[:-1] >> self._shift, np.arange(self._nobody)
        self._places[at] = everybody
        crowded = np.flatnonzero(self._places[at] != everybody)
        crowded = crowded[np.argsort(self._keys[crowded], kind="stable")]
        self._crowded = np.append(self._nobody, crowded)
        """Those who found their place taken, by their keys; before them nobody, whose key is 0."""
        self._crowded_keys = self._keys[self._crowded]

        positions = np.arange(plan.slots_per_course)
        ttls = positions // plan.slots_per_row + plan.options.first_ttl
        marks: Any = encode_mark(ttls, positions % plan.slots_per_row, plan.key)  # type: ignore[arg-type]  # means the same for an array
        self._patches: dict[int, Any] = dict(patches(self.base, ttls, marks))  # type: ignore[arg-type]  # the same
        self._templates: dict[int, NDArray[np.void]] = {}
        self.header_sums = np.asarray(self._patches.get(family.checksum_offset or 0, MASK) ^ MASK, np.int32)
        """(positions,): of the words of the IP header without the destination; nothing that counts for IPv6."""
        self.balances: Any = balance(marks, plan.key)
        """(positions,)"""
        self.position = np.full(_WORDS, UNKNOWN, np.int16)
        """(65536,): of a mark; `UNKNOWN` for a mark that was never sent, as 0 is."""
        self.position[marks] = positions

        source = np.zeros(ADDRESS_BYTES, np.uint8)
        source[:size] = np.frombuffer(plan.source, np.uint8)
        self.source = source.view(np.uint64)
        self.cookie = int.from_bytes(plan.cookie, "big")
        self.may_respond = np.ones(256, np.bool_)
        """(256,): whether a responder's address can have this first byte."""
        self.may_respond[sorted(family.never_responds)] = False
        self.may_respond[packed[:, 0]] = True  # as Plan.first_bytes, ten times as fast

    def templates(self, headroom: int) -> NDArray[np.void]:
        """(positions,): probes that lack only destination and port, and are summed up without them."""
        templates = self._templates.get(headroom)
        if templates is None:
            packet = np.frombuffer(bytes(headroom) + self.base.packet, np.uint8)
            packets = np.tile(packet, (len(self.balances), 1))
            for offset, words in self._patches.items():
                packets[:, headroom + offset : headroom + offset + 2].view(">u2")[:, 0] = words
            templates = self._templates[headroom] = packets.view(f"V{len(packet)}")[:, 0]
        return templates

    def find_flow(self, flow: NDArray[Any]) -> NDArray[np.int32]:
        """(n,) source ports to places among those of the plan, or `UNKNOWN`."""
        places = np.full(len(flow), UNKNOWN, np.int32)
        for place, port in enumerate(self._source_ports):
            places[flow == port] = place
        return places

    def find_destination(self, halves: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(n, 2) addresses to (places among those of the plan or `UNKNOWN`, whether it surely has none such).

        An address that is not found and is not surely strange has the key of another.
        """
        keys = self._key(halves)
        place = self._places[keys >> self._shift]
        astray = np.flatnonzero(self._keys[place] != keys)
        if len(astray):
            wanted = keys[astray]
            found = self._crowded[np.searchsorted(self._crowded_keys, wanted, side="right") - 1]
            place[astray] = np.where(self._keys[found] == wanted, found, self._nobody)
        is_strange = place == self._nobody
        is_other = is_strange
        if not self._is_short:
            high, low = self._halves  # one at a time: rows of two are gathered ten times as slowly
            is_other = is_strange | (high[place] != halves[:, 0]) | (low[place] != halves[:, 1])
        found = place.astype(np.int64)
        found[is_other] = UNKNOWN
        return found, is_strange

    def _key(self, halves: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """(n, 2) addresses to (n,) keys whose upper bits are as good as random; no two of IPv4 have the same."""
        keys: NDArray[np.uint64] = (halves[:, 0] if self._is_short else key_of(halves)) * _GOLDEN
        return keys


def is_same_address(ones: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """(n,): whether (n, 2) or (2,) addresses are equal."""
    same: NDArray[np.bool_] = (ones[..., 0] == others[..., 0]) & (ones[..., 1] == others[..., 1])
    return same


def _folded(sums: NDArray[Any]) -> NDArray[Any]:
    """`fold` of each."""
    return np.asarray(fold(sums))  # type: ignore[arg-type]  # means the same for an array
