"""What a tool found, as columns, and how much of it is true.

Each tool's rows are read into the same columns and judged by the same rules. This file knows no tool.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_RTT = -1


COLUMNS = ("destination", "source_port", "destination_port", "ttl", "responder", "rtt_ns")
"""Of a table of answered probes, addresses as numbers; `rtt_ns` is `NO_RTT` if the tool does not tell."""
FLOW_COLUMNS = COLUMNS[:3]
"""Of a table of flows: one for each destination that a tool has asked, answered or not."""


class Truth(Protocol):
    """Who answers at TTL 1, 2, ... of n flows."""

    def __call__(
        self, destination: NDArray[np.uint32], source_port: NDArray[np.uint16], destination_port: NDArray[np.uint16]
    ) -> NDArray[np.uint32]:
        """(n, T) addresses, 0 for silence and beyond the end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Answered (destination, TTL) pairs, each responder once, ordered by destination and TTL."""

    destination: NDArray[np.uint32]
    source_port: NDArray[np.uint16]
    destination_port: NDArray[np.uint16]
    ttl: NDArray[np.uint8]
    responder: NDArray[np.uint32]
    rtt_ns: NDArray[np.int64]

    def addresses(self) -> int:
        """How many different responders, destinations included."""
        return len(np.unique(self.responder))

    def links(self) -> int:
        """How many different pairs of responders one TTL apart on the way to one destination."""
        near, far = slice(None, -1), slice(1, None)
        follows = self.destination[near] == self.destination[far]
        follows &= self.ttl[near].astype(np.int16) + 1 == self.ttl[far]
        pairs = self.responder[near].astype(np.uint64) << np.uint64(32) | self.responder[far]
        return len(np.unique(pairs[follows]))


class Verdict(NamedTuple):
    """Findings against the truth."""

    right: int
    wrong: int
    missed: int
    """Answering hops, up to the largest TTL asked, that were not found."""
    complete: int
    """Destinations of which no answering hop was missed."""


class Coverage(NamedTuple):
    """Addresses, routers and destinations alike, that answer on the flows that a tool has used."""

    findable: int
    found: int

    @property
    def percent(self) -> float:
        """Of those that could be found, how many were."""
        return 100 * self.found / max(1, self.findable)


def gather(table: NDArray[np.int64]) -> Findings:
    """Rows of `COLUMNS` in any order; drops what a destination answers beyond its own TTL, and what is said twice."""
    table = table[np.lexsort((table[:, 5], table[:, 4], table[:, 3], table[:, 0]))]
    own = table[:, 0] == table[:, 4]
    same = np.zeros(len(table), np.bool_)
    same[1:] = (table[1:, (0, 3, 4)] == table[:-1, (0, 3, 4)]).all(axis=1)
    # In this order a destination's own answers follow each other: the first has its distance.
    reached, first = np.unique(table[own, 0], return_index=True)
    distance = table[own, 3][first]
    at = np.searchsorted(reached, table[:, 0])
    nearest = distance[np.minimum(at, len(distance) - 1)] if len(distance) else table[:, 3]
    table = table[~same & ~(own & (table[:, 3] > nearest))]
    return Findings(
        destination=table[:, 0].astype(np.uint32),
        source_port=table[:, 1].astype(np.uint16),
        destination_port=table[:, 2].astype(np.uint16),
        ttl=table[:, 3].astype(np.uint8),
        responder=table[:, 4].astype(np.uint32),
        rtt_ns=table[:, 5],
    )


def judge(findings: Findings, truth: Truth, destinations: NDArray[np.uint32], max_ttl: int) -> Verdict:
    """Every row against who stands there on that flow; `destinations` are those that the tool was asked about.

    A destination without rows has no flow that we know: whatever answers on any one is missed.
    """
    asked = np.sort(destinations)
    ports = np.zeros((2, len(asked)), np.uint16)
    at = np.searchsorted(asked, findings.destination)
    known = (at < len(asked)) & (asked[np.minimum(at, len(asked) - 1)] == findings.destination)
    ports[0, at[known]], ports[1, at[known]] = findings.source_port[known], findings.destination_port[known]
    expected = truth(asked, ports[0], ports[1])[:, :max_ttl]
    inside = known & (findings.ttl >= 1) & (findings.ttl <= expected.shape[1])
    row, column = at[inside], findings.ttl[inside].astype(np.intp) - 1
    is_right = expected[row, column] == findings.responder[inside]
    found = np.zeros(expected.shape, np.bool_)
    found[row[is_right], column[is_right]] = True
    missed = (expected != 0) & ~found
    right = int(is_right.sum())
    return Verdict(
        right=right,
        wrong=len(findings.ttl) - right,
        missed=int(missed.sum()),
        complete=int((~missed.any(axis=1)).sum()),
    )


def coverage(findings: Findings, flows: NDArray[np.int64], truth: Truth, max_ttl: int) -> Coverage:
    """What was found of all that answers on the tool's own flows up to a TTL; `flows` are rows of `FLOW_COLUMNS`.

    Load balancers go by the ports, so flows of other ports meet other routers: each tool is judged by its own. What was
    found and is on none of them does not count.
    """
    destination, source_port, destination_port = flows.T
    paths = truth(destination.astype(np.uint32), source_port.astype(np.uint16), destination_port.astype(np.uint16))[
        :, :max_ttl
    ]
    findable = np.unique(paths[paths != 0])
    return Coverage(findable=len(findable), found=len(np.intersect1d(findings.responder, findable)))
