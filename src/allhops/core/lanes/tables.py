"""What a plan says about thousands of courses, laid out for look-up: checksums, addresses, marks.

Worked out once a plan, in array operations: no template is built but one. This file knows no clock.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.batch.survey import key_of
from allhops.core.ledger import ADDRESS_BYTES
from allhops.wire.checksum import MASK, fold
from allhops.wire.codec import balance, encode_mark
from allhops.wire.probes import build_template, patches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from allhops.core.plan import Plan

_PREPARED = "vector"
UNKNOWN = -1
_WORDS = 1 << 16
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LARGEST = np.uint64(0xFFFFFFFFFFFFFFFF)
_SPARSENESS = 2
"""Binary logarithm of how many times more starting points there are than destinations. A look-up takes three or four
steps from there, half of what a binary search among 20,000 costs."""


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
        sums = packed.view(">u2").sum(axis=1, dtype=np.int64)
        ports = np.array(plan.source_ports, np.int64)
        # Destination and port are zero in it: they are added to its sums.
        self.base = build_template(plan.layout, plan.flow(bytes(size), 0))
        self.header_sums = self.base.header_sum + sums
        """(destinations,): unfolded sum of the IP header without TTL and mark."""
        self.ports = np.tile(ports, len(sums))
        """(courses,)"""
        covered = np.repeat(sums * plan.layout.has_pseudo_header, len(ports)) + self.ports
        checksums: Any = fold((self.base.checksum ^ MASK) + covered) ^ MASK  # type: ignore[arg-type]  # means the same for an array
        self.checksums = np.where(checksums == 0, MASK, checksums)
        """(courses,): as `build_template` has it."""
        self.addresses = packed.view(f"V{size}")[:, 0]
        """(destinations,)"""
        aligned = np.zeros((len(packed), ADDRESS_BYTES), np.uint8)
        aligned[:, :size] = packed
        self._halves = np.ascontiguousarray(aligned.view(np.uint64).T)
        keys = _spread(aligned)
        # Among equals the last comes first: that is what a dictionary of addresses would say.
        order = len(keys) - 1 - np.argsort(keys[::-1], kind="stable")
        self._order, self._keys = np.append(order, 0), np.append(keys[order], _LARGEST)
        bits = len(keys).bit_length() + _SPARSENESS
        self._shift = np.uint64(64 - bits)
        self._start = np.searchsorted(self._keys[:-1] >> self._shift, np.arange(1 << bits, dtype=np.uint64))
        self._flow = np.full(_WORDS, UNKNOWN, np.int32)
        self._flow[ports] = np.arange(len(ports))

        positions = np.arange(plan.slots_per_course)
        ttls = positions // plan.slots_per_row + plan.options.first_ttl
        marks: Any = encode_mark(ttls, positions % plan.slots_per_row, plan.key)  # type: ignore[arg-type]  # the same
        self.ttls, self.marks = ttls, marks
        """(positions,)"""
        self.balances: Any = balance(marks, plan.key)
        """(positions,)"""
        self.position = np.full(_WORDS + 1, UNKNOWN, np.int32)
        """(65537,): of a mark; `UNKNOWN` for a mark that was never sent, and, last, for none."""
        self.position[marks] = positions

        source = np.zeros(ADDRESS_BYTES, np.uint8)
        source[:size] = np.frombuffer(plan.source, np.uint8)
        self.source = source.view(np.uint64)
        self.cookie = int.from_bytes(plan.cookie, "big")
        self.never_responds = np.zeros(256, np.bool_)
        """(256,): first bytes of addresses that no responder can have."""
        self.never_responds[sorted(family.never_responds - plan.first_bytes)] = True

    def patches(self, positions: NDArray[Any], destinations: NDArray[Any]) -> Iterator[tuple[int, Any]]:
        """(offset, (n,) words) of these probes' own bytes; see `probes.patches`."""
        template: Any = replace(self.base, header_sum=self.header_sums[destinations])
        return patches(template, self.ttls[positions], self.marks[positions])

    def find_flow(self, flow: NDArray[Any]) -> NDArray[np.int32]:
        """(n,) source ports to places among those of the plan, or `UNKNOWN`."""
        places: NDArray[np.int32] = self._flow[flow]
        return places

    def find_destination(self, halves: NDArray[np.uint64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """(n, 2) addresses to (places among those of the plan or `UNKNOWN`, whether it surely has none such).

        An address that is not found and is not surely strange has the key of another.
        """
        keys = _spread(halves)
        found = self._start[keys >> self._shift]
        while (is_before := self._keys[found] < keys).any():
            found += is_before
        is_strange = self._keys[found] != keys
        place = self._order[found]
        high, low = self._halves  # one at a time: rows of two are gathered ten times as slowly
        is_same = (high[place] == halves[:, 0]) & (low[place] == halves[:, 1])
        return np.where(is_same, place, UNKNOWN), is_strange


def _spread(addresses: NDArray[Any]) -> NDArray[np.uint64]:
    """Keys of addresses whose upper bits are as good as random."""
    keys: NDArray[np.uint64] = key_of(addresses) * _GOLDEN
    return keys


def is_same_address(ones: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """(n,): whether (n, 2) or (2,) addresses are equal."""
    same: NDArray[np.bool_] = (ones[..., 0] == others[..., 0]) & (ones[..., 1] == others[..., 1])
    return same
