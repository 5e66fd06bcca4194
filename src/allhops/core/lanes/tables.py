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
        self._halves = aligned.view(np.uint64)
        keys = key_of(aligned)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
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
        keys = key_of(np.ascontiguousarray(halves))
        # The last among equals: that is what a dictionary of addresses would say.
        found = np.searchsorted(self._keys, keys, side="right") - 1
        is_strange = self._keys[found] != keys
        place = self._order[found]
        is_same = (self._halves[place] == halves).all(axis=1)
        return np.where(is_same, place, UNKNOWN), is_strange
