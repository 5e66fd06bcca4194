"""What a probe costs to build, a reply to read and to record, microseconds: in both lanes, by how many at once."""

from __future__ import annotations

import random
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.lanes import Ring
from allhops.core.lanes.scalar import ScalarLane
from allhops.core.lanes.vector import VectorLane
from allhops.core.ledger import IN_FLIGHT, Counters, Ledger
from allhops.core.plan import Plan
from allhops.model import Protocol
from allhops.options import TraceOptions
from allhops.wire.probes import LAYOUTS
from benchmarks.replies import COOKIE, KEY, SOURCES, STAMP_NS, error_about

if TYPE_CHECKING:
    from collections.abc import Callable

DESTINATIONS = 20_000
SIZES = (1, 4, 8, 12, 16, 128, 1_024, 4_096)
ROUNDS = 40
SCALAR_PROBES = 128
"""The scalar lane costs the same for each, so it is not timed with more."""
FIRST = {4: ip_address("10.0.0.1"), 6: ip_address("2001:db8:1::")}
LANES: dict[str, Callable[[Counters], Any]] = {"scalar": ScalarLane, "vector": VectorLane}


def plan_of_many(protocol: Protocol, version: int, destinations: int = DESTINATIONS) -> Plan:
    """A window of destinations that lie side by side."""
    layout = LAYOUTS[protocol, version]
    return Plan(
        layout=layout,
        options=TraceOptions(protocol=protocol, max_ttl=20, attempts=1),
        destinations=tuple((FIRST[version] + number).packed for number in range(destinations)),
        source=SOURCES[version],
        source_ports=(40_000,),
        key=KEY,
        cookie=COOKIE,
        size=layout.family.default_size,
    )


def run(progress: Callable[[str], None]) -> dict[str, object]:
    """The fastest of many rounds, each with other probes; replies are errors that quote half of the probes in full."""
    rows: list[dict[str, Any]] = []
    for version in (4, 6):
        plan = plan_of_many(Protocol.UDP, version)
        for size in SIZES:
            for name, lane in LANES.items():
                if name == "scalar" and size > SCALAR_PROBES:
                    continue
                progress(f"{name} IPv{version} {size}")
                rows.append({"lane": name, "probes": f"UDP IPv{version}", "a_call": size, **_costs(plan, lane, size)})
    return {"rows": rows, "pays_from": _pays_from(rows)}


def _pays_from(rows: list[dict[str, Any]]) -> dict[str, int]:
    """By sort of probe: the fewest a call for which the vector lane takes less time in all."""
    totals = {
        (row["probes"], row["a_call"], row["lane"]): row["build_us"] + row["unpack_us"] + row["record_us"]
        for row in rows
    }
    best: dict[str, int] = {}
    for (probes, size, lane), total in totals.items():
        if lane == "vector" and total < totals.get((probes, size, "scalar"), float("inf")):
            best.setdefault(probes, size)
    return best


def _costs(plan: Plan, make: Callable[[Counters], Any], size: int) -> dict[str, float]:
    """Microseconds a probe or reply."""
    counters = Counters()
    lane = make(counters)
    ledger = Ledger(plan.slots, counters)
    chance = random.Random(size)
    best = dict.fromkeys(("build_us", "unpack_us", "record_us"), float("inf"))
    for _ in range(ROUNDS):
        courses = chance.sample(range(plan.courses), size)
        slots = np.array([course * plan.slots_per_course + 7 for course in courses], np.int64)
        asked: Any = slots if make is VectorLane else slots.tolist()
        started = time.perf_counter()
        block = lane.launch(plan, asked)
        built = time.perf_counter()
        ring = ring_of(block.packets, plan.size)
        for slot in slots.tolist():
            ledger.state[slot] = IN_FLIGHT
        begun = time.perf_counter()
        replies = lane.unpack(ring)
        read = time.perf_counter()
        lane.record(plan, ledger, replies)
        took = built - started, read - begun, time.perf_counter() - read
        best = {key: min(so_far, now) for (key, so_far), now in zip(best.items(), took, strict=True)}
    assert not counters.foreign + counters.malformed + counters.forged
    return {key: round(seconds / size * 1e6, 3) for key, seconds in best.items()}


def ring_of(packets: bytearray, size: int) -> Ring:
    """One error about each probe; every other one quotes but 8 bytes of the transport header, where that is enough."""
    count = len(packets) // size
    ring = Ring(max(count, 1))
    for number in range(count):
        probe = bytes(packets[number * size : (number + 1) * size])
        is_short = number % 2 and probe[0] >> 4 == 4
        ring.append(error_about(probe, quote=28 if is_short else None), STAMP_NS)
    return ring
