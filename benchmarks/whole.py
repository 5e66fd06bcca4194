"""Whole paths of 10,000 destinations by every strategy: the real batch, a computed internet, a clock that is not real.

The loop's time jumps to whatever is due next, so a run says how long the probes and the waits between them take, to the
same figure each time, and nothing of how fast this machine is (`python -m benchmarks batch-paths` does).
"""

from __future__ import annotations

import asyncio
import selectors
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.harvest import Harvest
from allhops.core.ledger import ANSWERED
from allhops.net.batch.engine import Batch
from allhops.net.batch.group import Group
from allhops.options import TraceOptions
from allhops.testing import SyntheticInternet
from allhops.testing.fakewire import FakeWire
from benchmarks.findings import NO_RTT, coverage, gather, judge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from numpy.typing import NDArray

    from benchmarks.findings import Coverage, Verdict

DESTINATIONS = 10_000
RATE_PPS = 10_000
OPTIONS = TraceOptions(attempts=1, max_ttl=30)
STRATEGIES = ("whole", "parallel", "frugal")
SEEDS = (1, 2, 3, 2026)
"""The last one is that of the batches into a TUN device (batches.py)."""


class _Patience(selectors.SelectSelector):
    """Waits for nothing: the time that it was to wait has passed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready; and if that is nothing, it is later now."""
        ready = super().select(0)
        if not ready and timeout is not None:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock goes from one deadline to the next."""

    def __init__(self) -> None:
        self._patience = _Patience()
        super().__init__(self._patience)

    def time(self) -> float:
        """Virtual seconds."""
        return self._patience.now


@dataclass(kw_only=True)
class Ran:
    """What a batch cost and showed."""

    virtual_s: float
    cpu_s: float
    probes: int
    measured: Verdict
    shown: Verdict
    """With inherited hops."""
    coverage: Coverage
    inherited: int


def run_strategy(
    internet: SyntheticInternet,
    name: str,
    options: TraceOptions = OPTIONS,
    destinations: NDArray[np.uint32] | None = None,
) -> Ran:
    """One batch."""
    asked = internet.destinations() if destinations is None else destinations
    tables: list[list[NDArray[np.int64]]] = [[], [], []]

    async def members() -> AsyncIterator[Group]:
        yield Group.of([*map(IPv4Address, asked.tolist())])

    async def trace() -> tuple[float, int]:
        loop = asyncio.get_running_loop()
        wire = FakeWire(internet, clock=loop.time)
        async with Batch(options, strategy=name, rate_pps=RATE_PPS, seed=1, wire=wire) as batch:
            async for ended in batch.run(members()):
                assert isinstance(ended, Harvest), "every destination can be asked"
                for table, rows in zip(tables, (*_rows(ended), _flows(ended)), strict=True):
                    table.append(rows)
            return loop.time(), batch.stats.sent

    began = time.process_time()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        virtual_s, probes = runner.run(trace())
    cpu_s = time.process_time() - began
    measured, inherited, flows = (np.concatenate(table) for table in tables)
    found = gather(measured)
    return Ran(
        virtual_s=virtual_s,
        cpu_s=cpu_s,
        probes=probes,
        measured=judge(found, internet.true_responders, asked, options.max_ttl),
        shown=judge(gather(np.concatenate([measured, inherited])), internet.true_responders, asked, options.max_ttl),
        coverage=coverage(found, flows, internet.true_responders, options.max_ttl),
        inherited=len(inherited),
    )


def _rows(harvest: Harvest) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hops measured, and inherited, in columns as `findings.COLUMNS`."""
    probes = harvest.shown()
    hops = harvest.hops(probes)
    answered = harvest.column("state", probes.slot) == ANSWERED
    heirs = hops.heir[hops.heir >= 0]

    flows = _flows(harvest)

    def table(place: NDArray[np.int64], ttl: NDArray[np.int16], responder: NDArray[Any]) -> NDArray[np.int64]:
        rtt = np.full(len(place), NO_RTT)
        return np.column_stack([flows[place], ttl, _numbers(responder), rtt])

    told = np.empty((0, 16), np.uint8) if harvest.inherited is None else harvest.inherited.responder[heirs]
    return (
        table(probes.place[answered], probes.ttl[answered], harvest.responders(probes.slot[answered])),
        table(hops.place[hops.heir >= 0], hops.ttl[hops.heir >= 0], told),
    )


def _flows(harvest: Harvest) -> NDArray[np.int64]:
    """In columns as `findings.FLOW_COLUMNS`, one for each course."""
    plan = harvest.plan
    destinations = np.frombuffer(b"".join(plan.destinations), ">u4")[harvest.courses].astype(np.int64)
    ports = np.full((len(destinations), 2), [plan.source_ports[0], plan.options.destination_port])
    return np.column_stack([destinations, ports])


def _numbers(packed: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.ascontiguousarray(packed[:, :4]).view(">u4")[:, 0].astype(np.int64)


def row(case: str, name: str, ran: Ran) -> dict[str, object]:
    """Of the table."""
    return {
        "case": case,
        "strategy": name,
        "virtual_s": round(ran.virtual_s, 2),
        "probes": ran.probes,
        "right": ran.shown.right,
        "wrong": ran.shown.wrong,
        "missed": ran.shown.missed,
        "complete": ran.shown.complete,
        "inherited": ran.inherited,
        "coverage_%": f"{ran.coverage.percent:.2f}",
        "measured_wrong": ran.measured.wrong,
        "cpu_s": round(ran.cpu_s, 2),
    }


def run(progress: Callable[[str], None]) -> dict[str, object]:
    """Every strategy on some internets."""
    rows = []
    for seed in SEEDS:
        internet = SyntheticInternet(seed, destinations=DESTINATIONS)
        for name in STRATEGIES:
            progress(f"whole: seed {seed}, {name}")
            rows.append(row(f"seed {seed}", name, run_strategy(internet, name)))
    return {"destinations": DESTINATIONS, "rate_pps": RATE_PPS, "whole paths": rows}
