"""A batch without a network: a strategy asks an internet of arrays, and its ledger is filled at once.

There is no time here: which courses are answered next is drawn at random, so that they advance out of step as they do
in a network. What comes out is counted against what the internet knows of itself. Doubletree is here too, as scamper
does it, for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from allhops.core.answers import answers_of, packed_responders
from allhops.core.batch.survey import survey
from allhops.core.ledger import ANSWERED, TIMED_OUT, UNSENT, Ledger
from allhops.core.plan import Plan
from allhops.model import Protocol as ProbeProtocol
from allhops.wire.classify import DESTINATION, TIME_EXCEEDED
from allhops.wire.probes import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from allhops.core.batch.strategies import Inheritance, Strategy
    from allhops.options import TraceOptions
    from allhops.testing.synthetic import Answers

SOURCE = {4: b"\xc0\0\2\1", 6: b"\x20\1\x0d\xb8" + bytes(11) + b"\1"}
SOURCE_PORT = 40_000
IPV6_PREFIX = b"\x20\1\x0d\xb8"
"""Of the IPv6 addresses that stand for an IPv4 internet's: its address follows, and eight bytes of zeros."""
IN_STEP = 0.6
"""Share of the courses under way that are answered before the strategy is asked again."""
WINDOW_COURSES = 16_000


class Internet(Protocol):
    """As `allhops.testing.SyntheticInternet`."""

    def answer(
        self, destination: NDArray[np.uint32], ttl: NDArray[np.uint8], source_port: NDArray[np.uint16]
    ) -> Answers:
        """What these probes meet."""
        ...

    def true_responders(self, destination: NDArray[np.uint32], source_port: NDArray[np.uint16]) -> NDArray[np.uint32]:
        """(n, rows): who answers at TTL 1, 2, ..., 0 for nobody."""
        ...


class Told(NamedTuple):
    """A hop that was inherited."""

    destination: int
    ttl: int
    responder: int
    donor: int


@dataclass(kw_only=True)
class Tally:
    """What a run cost and what it found."""

    probes: int = 0
    rounds: int = 0
    measured: int = 0
    """Routers at a TTL, over all courses."""
    wrong: int = 0
    """Of those, the ones that are not on the course's path."""
    told: list[Told] = field(default_factory=list)
    routers: set[int] = field(default_factory=set)
    hosts: set[int] = field(default_factory=set)

    @property
    def addresses(self) -> int:
        """Routers and destinations that answered."""
        return len(self.routers) + len(self.hosts)


class Window:
    """One plan of a batch, its ledger, and which of its courses are under way."""

    def __init__(
        self, internet: Internet, destinations: NDArray[np.uint32], options: TraceOptions, seed: int, version: int = 4
    ) -> None:
        self.internet = internet
        self.destinations = destinations
        self.plan = Plan(
            layout=LAYOUTS[ProbeProtocol.UDP, version],
            options=options,
            destinations=tuple(_packed(destinations.tolist(), version)),
            source=SOURCE[version],
            source_ports=(SOURCE_PORT,),
            key=1,
            cookie=b"twin",
            size=80,
            spare_attempts=0,
        )
        self.ledger = Ledger(self.plan.slots)
        self.under_way = np.zeros(self.plan.courses, bool)
        self.ended = np.zeros(self.plan.courses, bool)
        self._start = 0 if version == 4 else len(IPV6_PREFIX)
        self._random = np.random.default_rng(seed)

    def rounds(self, strategy: Strategy, tally: Tally) -> Iterator[None]:
        """Run from the first probe to the last course, with a pause after each round."""
        self._ask(strategy.begin(self.plan), tally)
        while self.under_way.any():
            courses = np.flatnonzero(self.under_way)
            chosen = self._random.random(len(courses)) < IN_STEP
            chosen[self._random.integers(len(courses))] = True
            self._proceed(strategy, courses[chosen], tally)
            tally.rounds += 1
            yield
        assert self.ended.all(), "courses were held back for ever"
        self._count(tally)

    def _proceed(self, strategy: Strategy, courses: NDArray[np.int64], tally: Tally) -> None:
        asked = strategy.proceed(self.plan, survey(self.plan, self.ledger, courses))
        mine = np.isin(courses, asked.slots // self.plan.slots_per_course)
        assert not (mine & asked.done).any(), "asked after its end"
        ended = courses[asked.done]
        self.under_way[courses[~mine]] = False
        self.under_way[ended], self.ended[ended] = False, True
        inheritance = strategy.inherited(self.plan, survey(self.plan, self.ledger, ended))
        if inheritance is not None:
            self._note_inherited(inheritance, tally)
        if asked.again is not None:
            self.under_way[asked.again] = True
        self._ask(asked.slots, tally)

    def _ask(self, slots: NDArray[np.int64], tally: Tally) -> None:
        if not len(slots):
            return
        plan, ledger = self.plan, self.ledger
        state = np.frombuffer(ledger.state, np.uint8)
        assert len(np.unique(slots)) == len(slots), "asked twice at once"
        assert (state[slots] == UNSENT).all(), "asked again"
        courses = slots // plan.slots_per_course
        assert not self.ended[courses].any(), "asked after its end"
        ttl = (slots // plan.slots_per_row % plan.ttls + plan.options.first_ttl).astype(np.uint8)
        ports = np.full(len(slots), SOURCE_PORT, np.uint16)
        answers = self.internet.answer(self.destinations[courses], ttl, ports)
        state[slots] = np.where(answers.kind > 0, ANSWERED, TIMED_OUT)
        np.asarray(ledger.kind)[slots] = answers.kind
        np.asarray(ledger.quoted_ttl)[slots] = answers.quoted_ttl
        packed = np.frombuffer(b"".join(_packed(answers.responder.tolist(), 4 if not self._start else 6)), np.uint8)
        packed = packed.reshape(len(slots), -1)
        answers_of(ledger)["responder"].view(np.uint8)[slots, : packed.shape[1]] = packed
        self.under_way[courses] = True
        tally.probes += len(slots)

    def _note_inherited(self, inheritance: Inheritance, tally: Tally) -> None:
        plan = self.plan
        state = np.frombuffer(self.ledger.state, np.uint8).reshape(plan.courses, plan.ttls, -1)
        row = inheritance.ttl.astype(np.int64) - plan.options.first_ttl
        assert (state[inheritance.course, row] == UNSENT).all(), "inherited what was asked"
        columns = (
            self.destinations[inheritance.course].tolist(),
            inheritance.ttl.tolist(),
            self._numbers(inheritance.responder).tolist(),
            self._numbers(inheritance.donor).tolist(),
        )
        tally.told += map(Told._make, zip(*columns, strict=True))

    def _count(self, tally: Tally) -> None:
        plan, ledger = self.plan, self.ledger
        answered = np.flatnonzero(np.frombuffer(ledger.state, np.uint8) == ANSWERED)
        responder = self._numbers(packed_responders(ledger, answered))
        kind = np.asarray(ledger.kind)[answered]
        tally.routers.update(responder[kind == TIME_EXCEEDED].tolist())
        tally.hosts.update(responder[kind == DESTINATION].tolist())
        row = answered // plan.slots_per_row
        ttl = row % plan.ttls + plan.options.first_ttl
        paths = truth(self.internet, self.destinations)
        true = paths[row // plan.ttls, np.minimum(ttl, paths.shape[1]) - 1]
        tally.measured += int((kind == TIME_EXCEEDED).sum())
        tally.wrong += int((true != responder)[kind == TIME_EXCEEDED].sum())

    def _numbers(self, packed: NDArray[np.uint8]) -> NDArray[np.uint32]:
        start = self._start
        return np.ascontiguousarray(packed[:, start : start + 4]).view(">u4")[:, 0].astype(np.uint32)


def run(
    strategy: Strategy,
    internet: Internet,
    destinations: NDArray[np.uint32],
    options: TraceOptions,
    *,
    window: int = WINDOW_COURSES,
    together: int = 1,
    version: int = 4,
) -> Tally:
    """A whole batch: windows of so many destinations, so many under way together."""
    tally = Tally()
    parts = [destinations[at : at + window] for at in range(0, len(destinations), window)]
    waiting = [
        Window(internet, part, options, seed, version).rounds(strategy, tally) for seed, part in enumerate(parts)
    ]
    open_windows: list[Iterator[None]] = []
    while waiting or open_windows:
        while waiting and len(open_windows) < together:
            open_windows.append(waiting.pop(0))
        open_windows = [rounds for rounds in open_windows if next(rounds, StopIteration) is not StopIteration]
    return tally


def doubletree(
    internet: Internet, destinations: NDArray[np.uint32], *, first: int = 10, gap_limit: int = 5, max_ttl: int = 32
) -> Tally:
    """As `scamper -c "trace -P udp-paris -q 1 -f 10 -Z lss"`: forward from a TTL, then backward to a known router."""
    ports = np.full(len(destinations), SOURCE_PORT, np.uint16)
    ttls = (np.full(len(destinations), ttl, np.uint8) for ttl in range(1, max_ttl + 1))
    answers = [internet.answer(destinations, ttl, ports) for ttl in ttls]
    kinds = np.stack([answer.kind for answer in answers], axis=1).tolist()
    responders = np.stack([answer.responder for answer in answers], axis=1).tolist()
    tally = Tally()
    local: set[int] = set()
    for place in np.random.default_rng(1).permutation(len(destinations)).tolist():
        kind, responder = kinds[place], responders[place]
        silent, row = 0, first - 1
        while silent < gap_limit and row < max_ttl:
            tally.probes += 1
            if kind[row] == DESTINATION:
                tally.hosts.add(responder[row])
                break
            silent = 0 if kind[row] else silent + 1
            if kind[row]:
                tally.routers.add(responder[row])
            row += 1
        for row in range(first - 2, -1, -1):
            tally.probes += 1
            if kind[row] == TIME_EXCEEDED:
                tally.routers.add(responder[row])
                if responder[row] in local:
                    break
                local.add(responder[row])
    return tally


def truth(internet: Internet, destinations: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """(n, rows): routers and destinations at TTL 1, 2, ... of each course's flow, 0 for nobody."""
    return internet.true_responders(destinations, np.full(len(destinations), SOURCE_PORT, np.uint16))


def _packed(addresses: Sequence[int], version: int) -> list[bytes]:
    if version == 4:
        return [address.to_bytes(4, "big") for address in addresses]
    return [IPV6_PREFIX + address.to_bytes(4, "big") + bytes(8) for address in addresses]
