"""A batch without a network: a strategy asks an internet of arrays, and its ledger is filled at once.

There is no time here: which courses are answered next is drawn at random, so that they advance out of step as they do
in a network. What comes out is counted against what the internet knows of itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.batch.survey import survey
from allhops.core.ledger import ANSWERED, TIMED_OUT, UNSENT, Ledger
from allhops.core.plan import Plan
from allhops.model import Protocol
from allhops.wire.classify import TIME_EXCEEDED
from allhops.wire.probes import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from allhops.core.batch.strategies import Strategy
    from allhops.options import TraceOptions

SOURCE = b"\xc0\0\2\1"
SOURCE_PORT = 40_000
IN_STEP = 0.6
"""Share of the courses under way that are answered before the strategy is asked again."""


@dataclass(kw_only=True)
class Tally:
    """What a run cost and what it found."""

    probes: int = 0
    rounds: int = 0
    wrong: int = 0
    """Measured hops that are not on the path."""
    measured: int = 0
    """Measured hops: routers at a TTL."""
    inherited: int = 0
    astray: int = 0
    """Inherited hops that this course's own flow would not have met."""
    unknown: int = 0
    """Hops on the path that answer, neither measured nor inherited, below the last that was heard."""
    routers: set[int] = field(default_factory=set)
    hosts: set[int] = field(default_factory=set)

    @property
    def addresses(self) -> int:
        """Routers and destinations that answered."""
        return len(self.routers) + len(self.hosts)


def plan_of(destinations: Sequence[bytes], options: TraceOptions, spare_attempts: int = 0) -> Plan:
    """A window of UDP courses, IPv4 or IPv6 by the length of the addresses."""
    version = 4 if len(destinations[0]) == 4 else 6
    return Plan(
        layout=LAYOUTS[Protocol.UDP, version],
        options=options,
        destinations=tuple(destinations),
        source=SOURCE if version == 4 else bytes(15) + b"\1",
        source_ports=(SOURCE_PORT,),
        key=1,
        cookie=b"twin",
        size=60,
        spare_attempts=spare_attempts,
    )


class Window:
    """One plan of a batch, its ledger, and which of its courses are under way."""

    def __init__(self, internet: Any, plan: Plan, seed: int) -> None:
        self.internet = internet
        self.plan = plan
        self.ledger = Ledger(plan.slots)
        self.random = np.random.default_rng(seed)
        self.under_way = np.zeros(plan.courses, bool)
        self.ended = np.zeros(plan.courses, bool)
        self.destinations = np.frombuffer(b"".join(plan.destinations), ">u4").astype(np.uint32)
        self.sent = 0

    def run(self, strategy: Strategy, tally: Tally) -> None:
        """From the first probe to the last course."""
        for _ in self.rounds(strategy, tally):
            tally.rounds += 1

    def rounds(self, strategy: Strategy, tally: Tally) -> Iterator[None]:
        """As `run`, with a pause after each round, so that windows can take turns."""
        self._ask(strategy.begin(self.plan))
        while self.under_way.any():
            self._proceed(strategy, tally)
            yield
        assert self.ended.all(), "courses were held back for ever"
        self._count(tally)

    def _proceed(self, strategy: Strategy, tally: Tally) -> None:
        courses = np.flatnonzero(self.under_way)
        chosen = self.random.random(len(courses)) < IN_STEP
        chosen[self.random.integers(len(courses))] = True
        courses = courses[chosen]
        now = survey(self.plan, self.ledger, courses)
        asked = strategy.proceed(self.plan, now)
        mine = np.isin(courses, asked.slots // self.plan.slots_per_course)
        assert (mine != asked.done).all(), "a course ends, or it is asked something"
        ended = courses[asked.done]
        self.under_way[ended], self.ended[ended] = False, True
        final = survey(self.plan, self.ledger, ended)
        inheritance = strategy.inherited(self.plan, final)
        if inheritance is not None:
            self._check_inherited(inheritance, tally)
        self._ask(asked.slots)

    def _ask(self, slots: NDArray[np.int64]) -> None:
        plan, ledger = self.plan, self.ledger
        state = np.frombuffer(ledger.state, np.uint8)
        assert len(np.unique(slots)) == len(slots)
        assert (state[slots] == UNSENT).all(), "asked twice"
        courses = slots // plan.slots_per_course
        assert not self.ended[courses].any(), "asked after its end"
        ttl = slots // plan.slots_per_row % plan.ttls + plan.options.first_ttl
        dst = self.destinations[courses]
        answers = self.internet.answer(dst, ttl.astype(np.uint8), np.full(len(slots), SOURCE_PORT, np.uint16))
        state[slots] = np.where(answers.kind > 0, ANSWERED, TIMED_OUT)
        np.frombuffer(ledger.kind, np.uint8)[slots] = answers.kind
        np.frombuffer(ledger.quoted_ttl, np.uint8)[slots] = answers.quoted_ttl
        responder = np.frombuffer(ledger.responder, np.uint8).reshape(-1, 16)
        responder[slots, :4] = answers.responder.astype(">u4").view(np.uint8).reshape(-1, 4)
        self.under_way[courses] = True
        self.sent += len(slots)

    def _truth(self, courses: NDArray[np.int64]) -> NDArray[np.uint32]:
        ports = np.full(len(courses), SOURCE_PORT, np.uint16)
        truth = self.internet.true_responders(self.destinations[courses], ports)
        first = self.plan.options.first_ttl - 1
        kept: NDArray[np.uint32] = truth[:, first : first + self.plan.ttls]
        return kept

    def _check_inherited(self, inheritance: Any, tally: Tally) -> None:
        courses, at = np.unique(inheritance.course, return_inverse=True)
        truth = self._truth(courses)
        column = inheritance.ttl.astype(np.int64) - self.plan.options.first_ttl
        addresses = np.ascontiguousarray(inheritance.responder[:, :4]).view(">u4")[:, 0].astype(np.uint32)
        state = np.frombuffer(self.ledger.state, np.uint8).reshape(self.plan.courses, self.plan.ttls, -1)
        assert (state[inheritance.course, column] == UNSENT).all(), "inherited what was asked"
        tally.inherited += len(column)
        tally.astray += int((truth[at, column] != addresses).sum())

    def _count(self, tally: Tally) -> None:
        plan, ledger = self.plan, self.ledger
        tally.probes += self.sent
        answered = np.flatnonzero(np.frombuffer(ledger.state, np.uint8) == ANSWERED)
        responder = np.frombuffer(ledger.responder, np.uint8).reshape(-1, 16)[answered, :4].copy().view(">u4")[:, 0]
        transit = np.frombuffer(ledger.kind, np.uint8)[answered] == TIME_EXCEEDED
        tally.routers.update(responder[transit].tolist())
        tally.hosts.update(responder[~transit].tolist())
        truth = self._truth(np.arange(plan.courses))
        cells = answered[transit] // plan.slots_per_row
        tally.measured += len(cells)
        tally.wrong += int((truth.ravel()[cells] != responder[transit]).sum())
