"""Probes for each address found: frugal, parallel and Doubletree on computed internets, without a network.

All of them ask the same internet by the same flows (see twin.py), so coverage is compared like with like: routers found
of those that answer anybody at all. Doubletree is scamper's, whose figures on such an internet it gives within one per
cent. What varies are the internet and the list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from allhops.core.batch.strategies import batch_strategy
from allhops.options import TraceOptions
from allhops.testing import SyntheticInternet
from benchmarks.twin import doubletree, truth
from benchmarks.twin import run as run_batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from allhops.testing.synthetic import Answers
    from benchmarks.twin import Internet, Tally

DESTINATIONS = 30_000
OPTIONS = TraceOptions(attempts=1, max_ttl=32)


class Scattered:
    """An internet in which neighbours have nothing in common: each destination has the path of another one."""

    def __init__(self, internet: SyntheticInternet) -> None:
        self._internet = internet
        self._destinations = np.sort(internet.destinations())
        self._stand_ins = np.random.default_rng(1).permutation(self._destinations)

    def destinations(self) -> NDArray[np.uint32]:
        """As the internet's."""
        return self._destinations

    def answer(
        self, destination: NDArray[np.uint32], ttl: NDArray[np.uint8], source_port: NDArray[np.uint16]
    ) -> Answers:
        """As the internet's, of the stand-in."""
        stand_in = self._stand_in(destination)
        answers = self._internet.answer(stand_in, ttl, source_port)
        return answers._replace(responder=np.where(answers.responder == stand_in, destination, answers.responder))

    def true_responders(self, destination: NDArray[np.uint32], source_port: NDArray[np.uint16]) -> NDArray[np.uint32]:
        """As the internet's, of the stand-in."""
        stand_in = self._stand_in(destination)[:, None]
        paths = self._internet.true_responders(stand_in[:, 0], source_port)
        return np.where(paths == stand_in, destination[:, None], paths)

    def _stand_in(self, destination: NDArray[np.uint32]) -> NDArray[np.uint32]:
        return self._stand_ins[np.searchsorted(self._destinations, destination)]


@dataclass(frozen=True, kw_only=True)
class Case:
    """An internet and a list."""

    name: str
    internet: SyntheticInternet | Scattered
    shuffled: bool = False


def cases() -> list[Case]:
    """As many destinations each."""
    count = DESTINATIONS
    return [
        *(Case(name=f"seed {seed}", internet=SyntheticInternet(seed, destinations=count)) for seed in (1, 2, 3)),
        Case(name="shuffled list", internet=SyntheticInternet(1, destinations=count), shuffled=True),
        Case(name="half of the hosts alive", internet=SyntheticInternet(1, destinations=count, live_hosts=0.5)),
        Case(name="no host alive", internet=SyntheticInternet(1, destinations=count, live_hosts=0.0)),
        Case(name="30 % balanced", internet=SyntheticInternet(1, destinations=count, balanced=0.3)),
        Case(name="30 % silent", internet=SyntheticInternet(1, destinations=count, silent_routers=0.3)),
        Case(name="5 % lost", internet=SyntheticInternet(1, destinations=count, loss=0.05)),
        Case(name="neighbours unlike", internet=Scattered(SyntheticInternet(1, destinations=count))),
    ]


def row(case: Case, name: str, tally: Tally, destinations: NDArray[np.uint32], all_routers: int) -> dict[str, object]:
    """Of the table."""
    paths = truth(case.internet, np.array([told.destination for told in tally.told], np.uint32))
    own = paths[np.arange(len(tally.told)), [told.ttl - 1 for told in tally.told]] if tally.told else np.empty(0)
    astray = sum(responder != told.responder for responder, told in zip(own.tolist(), tally.told, strict=True))
    return {
        "case": case.name,
        "strategy": name,
        "probes": tally.probes,
        "probes/destination": round(tally.probes / len(destinations), 2),
        "routers %": round(100 * len(tally.routers) / all_routers, 2),
        "hosts": len(tally.hosts),
        "probes/router": round(tally.probes / len(tally.routers), 2),
        "probes/address": round(tally.probes / tally.addresses, 2),
        "wrong hops": tally.wrong,
        "inherited": len(tally.told),
        "inherited, not on own path %": round(100 * astray / max(len(tally.told), 1), 1),
    }


def run(progress: Callable[[str], None]) -> dict[str, object]:
    """Every strategy on every case."""
    rows: list[dict[str, object]] = []
    for case in cases():
        destinations = case.internet.destinations()
        if case.shuffled:
            destinations = np.random.default_rng(1).permutation(destinations)
        internet: Internet = case.internet
        paths = truth(internet, destinations)
        all_routers = len(np.unique(paths[(paths > 0) & (paths != destinations[:, None])]))
        for name in ("frugal", "parallel"):
            progress(f"frugality: {case.name}, {name}")
            tally = run_batch(batch_strategy(name), internet, destinations, OPTIONS)
            rows.append(row(case, name, tally, destinations, all_routers))
        progress(f"frugality: {case.name}, Doubletree")
        rows.append(row(case, "Doubletree", doubletree(internet, destinations), destinations, all_routers))
    return {"destinations": DESTINATIONS, "probes for each address": rows}
