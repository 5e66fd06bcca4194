"""What an ICMP error about somebody else's packet costs the scalar lane, microseconds: with its sieve and without."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from allhops.core.lanes import Ring
from allhops.core.lanes.scalar import ScalarLane
from allhops.core.lanes.sieve import Sieve
from allhops.core.ledger import Counters
from allhops.model import Protocol
from benchmarks.replies import COOKIE, error_about, plan_for, probe_of

if TYPE_CHECKING:
    from collections.abc import Callable

FLOWS = 100
"""Leased meanwhile."""
ROUNDS = 500


def run(progress: Callable[[str], None]) -> dict[str, object]:
    """Every sort of probe, quoted in full and in 8 bytes of its transport header; the fastest of many rounds."""
    rows = []
    for protocol in Protocol:
        for version in (4, 6):
            progress(f"{protocol} IPv{version}")
            plan = plan_for(protocol, version, source_port=1_000)
            probe = probe_of(plan).replace(COOKIE, b"else")
            number = plan.layout.protocol
            sieve = Sieve({(version, number, port) for port in range(40_000, 40_000 + FLOWS)}, {COOKIE})
            for name, quote in (("whole", None), ("8 bytes", plan.layout.family.header_size + 8)):
                packet = error_about(probe, quote=quote)
                rows.append(
                    {
                        "error": f"{protocol} IPv{version}, {name}",
                        "sieve_us": _microseconds(packet, sieve),
                        "no_sieve_us": _microseconds(packet, None),
                    }
                )
    return {"rows": rows}


def _microseconds(packet: bytes, sieve: Sieve | None) -> float:
    ring, lane = Ring(), ScalarLane(Counters(), sieve)
    while ring.count < ring.capacity:
        ring.append(packet, 1)
    fastest = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        lane.unpack(ring)
        fastest = min(fastest, time.perf_counter() - started)
    return round(fastest / ring.capacity * 1e6, 2)
