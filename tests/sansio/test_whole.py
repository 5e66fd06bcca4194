"""Whole against computed internets: every hop is shown, each one right, for few probes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from allhops.core.batch.strategies import batch_strategy
from allhops.core.batch.strategies.whole import Whole
from allhops.core.batch.survey import survey
from allhops.options import TraceOptions
from allhops.testing import SyntheticInternet
from allhops.testing.synthetic import TIME_EXCEEDED, Answers
from benchmarks.twin import Tally, Window, run, truth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.twin import Internet

OPTIONS = TraceOptions(attempts=1, max_ttl=30)


def shown(
    internet: Internet, destinations: NDArray[np.uint32], options: TraceOptions = OPTIONS, version: int = 4
) -> tuple[NDArray[np.uint32], Window, Tally]:
    """Who is shown at each TTL from 1 to 20, 0 for nobody: measured or inherited."""
    window, tally = Window(internet, destinations, options, seed=1, version=version), Tally()
    for _ in window.rounds(Whole(), tally):
        pass
    found = survey(window.plan, window.ledger, np.arange(len(destinations)))
    first = 0 if version == 4 else 4
    packed = found.packed(*np.indices(found.heard.shape))
    responder = np.ascontiguousarray(packed[:, :, first : first + 4]).view(">u4")[:, :, 0]
    ttls = np.arange(options.first_ttl, options.max_ttl + 1)
    beyond = (found.end_ttl[:, None] > 0) & (ttls > found.end_ttl[:, None])
    paths = np.zeros((len(destinations), 255), np.uint32)
    paths[:, ttls - 1] = np.where(found.heard & ~beyond, responder, 0)
    reached = np.flatnonzero(found.reached_ttl)
    paths[reached, found.reached_ttl[reached] - 1] = destinations[reached]
    place = {address: index for index, address in enumerate(destinations.tolist())}
    for hop in tally.told:
        paths[place[hop.destination], hop.ttl - 1] = hop.responder
    return paths[:, :20], window, tally


@pytest.mark.parametrize(
    "kind", [{}, {"balanced": 0.3}, {"balanced": 0.0}, {"live_hosts": 1.0}, {"live_hosts": 0.0}], ids=str
)
def test_every_hop_of_every_destination_is_shown_and_right(kind: dict[str, float]) -> None:
    internet = SyntheticInternet(2, destinations=3_000, **kind)  # type: ignore[arg-type]  # all of them are shares
    destinations = internet.destinations()
    paths, _, tally = shown(internet, destinations)
    assert (paths == truth(internet, destinations)).all()
    assert len(tally.told) > 3_000


def test_it_asks_for_much_less_than_parallel_does() -> None:
    internet = SyntheticInternet(2, destinations=4_000)
    destinations = internet.destinations()
    tally = run(Whole(), internet, destinations, OPTIONS)
    assert tally.wrong == 0
    assert tally.probes < 0.64 * run(batch_strategy("parallel"), internet, destinations, OPTIONS).probes


def test_it_comes_by_its_name() -> None:
    assert isinstance(batch_strategy("whole"), Whole)


def test_every_inherited_hop_is_its_donors_too() -> None:
    internet = SyntheticInternet(3, destinations=2_000)
    _, _, tally = shown(internet, internet.destinations())
    paths = truth(internet, np.array([hop.donor for hop in tally.told], np.uint32))
    assert all(path[hop.ttl - 1] == hop.responder for path, hop in zip(paths.tolist(), tally.told, strict=True))
    assert all(hop.donor != hop.destination for hop in tally.told)


class Diamonds:
    """Ten rows and a silent host; in rows 4, 7 and 8 one of two routers answers or, in `silent_row`, one is silent."""

    def __init__(self, silent_row: int = 0) -> None:
        self._silent_row = silent_row

    def answer(
        self, destination: NDArray[np.uint32], ttl: NDArray[np.uint8], source_port: NDArray[np.uint16]
    ) -> Answers:
        branch = (destination.astype(np.uint64) * 0x9E3779B1 >> 13 + ttl).astype(np.uint32) & 1
        balanced = np.isin(ttl, (4, 7, 8))
        speaks = (ttl <= 10) & ~((ttl == self._silent_row) & (branch == 1))
        responder = (np.uint32(0x64000000) + ttl * np.uint32(2) + branch * balanced) * speaks
        kind = (np.uint8(TIME_EXCEEDED) * speaks).astype(np.uint8)
        return Answers(kind=kind, responder=responder, rtt_ns=np.zeros(len(ttl), np.int64), quoted_ttl=kind)

    def true_responders(self, destination: NDArray[np.uint32], source_port: NDArray[np.uint16]) -> NDArray[np.uint32]:
        ttls = (np.full(len(destination), ttl, np.uint8) for ttl in range(1, 21))
        return np.stack([self.answer(destination, ttl, source_port).responder for ttl in ttls], axis=1)


@pytest.mark.parametrize("silent_row", [0, 4, 7])
def test_rows_of_load_balancers_are_asked_and_those_around_them_are_not(silent_row: int) -> None:
    internet = Diamonds(silent_row)
    destinations = SyntheticInternet(1, destinations=2_000).destinations()
    paths, window, tally = shown(internet, destinations)
    assert (paths == truth(internet, destinations)).all()
    told = {hop.ttl for hop in tally.told}
    assert told == {1, 2, 3, 5, 6, 9}
    asked = survey(window.plan, window.ledger, np.arange(2_000)).tries.sum(axis=0)
    assert (asked[[3, 6, 7, 9]] == 2_000).all()
    assert (asked[[0, 1, 2, 4, 5]] < 100).all()


def test_a_silent_destination_is_asked_for_up_to_the_gap_limit_and_no_farther() -> None:
    internet = SyntheticInternet(4, destinations=2_000, live_hosts=0.0)
    _, window, _ = shown(internet, internet.destinations())
    found = survey(window.plan, window.ledger, np.arange(2_000))
    ttls = np.arange(1, 31)
    beyond = (found.tries > 0) & (ttls > found.highest_heard[:, None])
    within = beyond & (ttls <= found.highest_heard[:, None] + OPTIONS.gap_limit)
    assert (within.sum(axis=1) == OPTIONS.gap_limit).all()
    assert (beyond & ~within).sum() < 0.6 * 2_000  # a first probe too far away, a neighbour with a longer path


def test_silent_rows_are_asked_as_often_as_the_caller_wishes() -> None:
    internet = SyntheticInternet(4, destinations=1_000)
    _, window, _ = shown(internet, internet.destinations(), replace(OPTIONS, attempts=3))
    found = survey(window.plan, window.ledger, np.arange(1_000))
    ttls = np.arange(1, 31)
    end = np.where(found.end_ttl > 0, found.end_ttl - 1, found.highest_heard + OPTIONS.gap_limit)
    silent = (found.tries > 0) & ~found.heard & (ttls <= end[:, None])
    assert (found.tries[silent] == 3).all()
    assert (found.tries[found.heard] == 1).all()


def test_lost_probes_cost_hops_and_never_truth() -> None:
    internet = SyntheticInternet(5, destinations=2_000, loss=0.05)
    destinations = internet.destinations()
    paths = {attempts: shown(internet, destinations, replace(OPTIONS, attempts=attempts))[0] for attempts in (1, 3)}
    true = truth(internet, destinations)
    missed = {attempts: int((true != found).sum()) for attempts, found in paths.items()}
    assert all(((found == true) | (found == 0)).all() for found in paths.values())
    assert missed[1] < 0.06 * (true > 0).sum()
    assert missed[3] < 0.001 * (true > 0).sum()


class Loop:
    """From TTL 6 on two routers send everything back and forth."""

    def answer(
        self, destination: NDArray[np.uint32], ttl: NDArray[np.uint8], source_port: NDArray[np.uint16]
    ) -> Answers:
        responder = np.uint32(0x64000000) + np.where(ttl < 6, ttl, 6 + ttl % 2).astype(np.uint32)
        kind = np.full(len(ttl), TIME_EXCEEDED, np.uint8)
        return Answers(kind=kind, responder=responder, rtt_ns=np.zeros(len(ttl), np.int64), quoted_ttl=kind)

    def true_responders(self, destination: NDArray[np.uint32], source_port: NDArray[np.uint16]) -> NDArray[np.uint32]:
        ttls = (np.full(len(destination), ttl, np.uint8) for ttl in range(1, 21))
        return np.stack([self.answer(destination, ttl, source_port).responder for ttl in ttls], axis=1)


def test_a_loop_ends_where_it_closes_and_is_measured_by_everybody() -> None:
    destinations = SyntheticInternet(1, destinations=300).destinations()
    _, window, tally = shown(Loop(), destinations)
    found = survey(window.plan, window.ledger, np.arange(300))
    assert (found.loop_ttl == 10).all()
    assert tally.told == []


class Mute:
    """Nobody answers anything."""

    def answer(
        self, destination: NDArray[np.uint32], ttl: NDArray[np.uint8], source_port: NDArray[np.uint16]
    ) -> Answers:
        nothing, nobody = np.zeros(len(ttl), np.uint8), np.zeros(len(ttl), np.uint32)
        return Answers(kind=nothing, responder=nobody, rtt_ns=np.zeros(len(ttl), np.int64), quoted_ttl=nothing)

    def true_responders(self, destination: NDArray[np.uint32], source_port: NDArray[np.uint16]) -> NDArray[np.uint32]:
        return np.zeros((len(destination), 20), np.uint32)


def test_where_nobody_answers_every_row_of_the_first_step_is_asked() -> None:
    destinations = SyntheticInternet(1, destinations=300).destinations()
    _, window, tally = shown(Mute(), destinations)
    assert tally.told == []
    assert (survey(window.plan, window.ledger, np.arange(300)).tries[:, :16] == 1).all()


@pytest.mark.parametrize(
    ("first_ttl", "max_ttl", "gap_limit"), [(4, 30, 5), (1, 9, 5), (30, 40, 5), (7, 7, 1), (1, 255, 20), (1, 30, 1)]
)
def test_bounds_are_kept(first_ttl: int, max_ttl: int, gap_limit: int) -> None:
    internet = SyntheticInternet(6, destinations=600)
    options = replace(OPTIONS, first_ttl=first_ttl, max_ttl=max_ttl, gap_limit=gap_limit)
    destinations = internet.destinations()
    paths, _, tally = shown(internet, destinations, options)
    true = truth(internet, destinations)
    assert ((paths == true) | (paths == 0)).all()
    assert all(first_ttl <= hop.ttl <= max_ttl for hop in tally.told)


@pytest.mark.parametrize("order", ["shuffled", "in small windows"])
def test_the_order_of_the_list_is_no_matter_of_truth(order: str) -> None:
    internet = SyntheticInternet(4, destinations=3_000)
    destinations = internet.destinations()
    if order == "shuffled":
        destinations = np.random.default_rng(1).permutation(destinations)
    tally = run(Whole(), internet, destinations, OPTIONS, window=700, together=3)
    true = truth(internet, destinations)
    place = {address: index for index, address in enumerate(destinations.tolist())}
    assert tally.wrong == 0
    assert all(true[place[hop.destination], hop.ttl - 1] == hop.responder for hop in tally.told)
    assert len(tally.told) + tally.measured == int(((true > 0) & (true != destinations[:, None])).sum())


@pytest.mark.parametrize("count", [1, 2, 3, 17, 65])
def test_few_destinations(count: int) -> None:
    internet = SyntheticInternet(7, destinations=count)
    destinations = internet.destinations()
    assert (shown(internet, destinations)[0] == truth(internet, destinations)).all()


def test_ipv6_is_the_same_but_for_its_addresses() -> None:
    internet = SyntheticInternet(9, destinations=1_000)
    destinations = internet.destinations()
    for version in (4, 6):
        paths, _, tally = shown(internet, destinations, version=version)
        assert (paths == truth(internet, destinations)).all()
        assert len(tally.told) > 1_000


def test_a_stop_set_that_is_full_costs_probes_and_never_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allhops.core.batch.strategies.stop_set.CAPACITY_BYTES", 20_000)
    monkeypatch.setattr("allhops.core.batch.strategies.stop_set.StopSet.__init__.__defaults__", (20_000,))
    internet = SyntheticInternet(9, destinations=2_000)
    destinations = internet.destinations()
    assert (shown(internet, destinations)[0] == truth(internet, destinations)).all()


def test_courses_that_the_window_ends_hold_nobody_back() -> None:
    internet = SyntheticInternet(10, destinations=2_000)
    window = Window(internet, internet.destinations(), OPTIONS, seed=1)
    strategy = Whole()
    strategy.begin(window.plan)
    first = np.arange(0, 2_000, 64)
    strategy.inherited(window.plan, survey(window.plan, window.ledger, first))
    rest = np.setdiff1d(np.arange(2_000), first)
    known = survey(window.plan, window.ledger, rest)
    waiting = strategy.proceed(window.plan, known)  # their first probes are over
    assert not len(waiting.slots)
    assert not waiting.done.any()
    asked = strategy.proceed(window.plan, known)
    assert not asked.done.any()
    assert set((asked.slots // window.plan.slots_per_course).tolist()) == set(rest.tolist())
