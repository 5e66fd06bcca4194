"""Names: asked once, in threads, never waited for longer than their patience."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from allhops.enrich import names as module
from allhops.enrich.names import Names, ask_system, named, named_trace, responders
from allhops.model import Hop, Probe, ProbeState, Protocol, Reply, ReplyKind, StopReason, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.model import Address

ROUTER = IPv4Address("10.0.0.1")
OTHER = IPv4Address("10.0.0.2")


class StuckResolver:
    """Answers nothing until `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.asked: list[Address] = []

    def __call__(self, address: Address) -> str | None:
        self.asked.append(address)
        self.release.wait()
        return "late.example"


@pytest.fixture
def stuck() -> Iterator[StuckResolver]:
    resolver = StuckResolver()
    yield resolver
    resolver.release.set()


def probe(attempt: int, address: Address | None) -> Probe:
    if address is None:
        return Probe(attempt=attempt, probe_ttl=1, state=ProbeState.TIMED_OUT)
    reply = Reply(
        address=address,
        kind=ReplyKind.TIME_EXCEEDED,
        rtt_ns=1_000_000,
        icmp_type=11,
        icmp_code=0,
        reply_ttl=64,
        quoted_ttl=1,
    )
    return Probe(attempt=attempt, probe_ttl=1, state=ProbeState.ANSWERED, reply=reply)


def hop(*addresses: Address | None) -> Hop:
    return Hop(ttl=1, probes=tuple(probe(attempt, address) for attempt, address in enumerate(addresses, 1)))


def book(names: dict[IPv4Address, str]) -> Names:
    return Names(lambda address: names.get(IPv4Address(address)))


async def test_a_name_is_cleaned_and_known_after_waiting() -> None:
    names = book({ROUTER: "<b>.example."})
    names.ask(ROUTER)
    await names.wait([ROUTER])
    assert names.get(ROUTER) == r"\060b\062.example"


async def test_asking_again_asks_nobody() -> None:
    asked: list[Address] = []
    names = Names(lambda address: asked.append(address))
    for _ in range(3):
        names.ask(ROUTER)
        await names.wait([ROUTER])
    assert asked == [ROUTER]
    assert names.get(ROUTER) is None


async def test_what_was_never_asked_is_not_waited_for() -> None:
    names = Names()
    await names.wait([ROUTER])
    assert names.get(ROUTER) is None


async def test_a_stuck_resolver_costs_no_more_than_the_patience(
    stuck: StuckResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.001)
    names = Names(stuck)
    names.ask(ROUTER)
    await names.wait([ROUTER])
    assert names.get(ROUTER) is None


async def test_patience_that_is_over_does_not_wait_at_all(
    stuck: StuckResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    names = Names(stuck)
    names.ask(ROUTER)
    monkeypatch.setattr(asyncio, "wait", None)
    await names.wait([ROUTER])


async def test_one_stuck_name_does_not_hide_the_others(stuck: StuckResolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    names = Names(lambda address: "gw.example" if address == OTHER else stuck(address))
    names.ask(ROUTER)
    names.ask(OTHER)
    await names.wait([ROUTER, OTHER])
    assert [names.get(ROUTER), names.get(OTHER)] == [None, "gw.example"]


async def test_closing_frees_whoever_waits(stuck: StuckResolver) -> None:
    names = Names(stuck)
    names.ask(ROUTER)
    waiting = asyncio.ensure_future(names.wait([ROUTER]))
    await asyncio.sleep(0)
    names.close()
    await waiting
    assert names.get(ROUTER) is None


async def test_questions_under_way_are_bounded(stuck: StuckResolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_THREADS", 2)
    names = Names(stuck)
    for last in range(5):
        names.ask(IPv4Address(f"10.0.0.{last}"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(stuck.asked) <= 2
    stuck.release.set()
    await names.wait([IPv4Address("10.0.0.4")])
    assert names.get(IPv4Address("10.0.0.4")) == "late.example"


async def test_the_cache_forgets_what_was_asked_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_SIZE", 2)
    names = Names(str)
    first, second, third = (IPv4Address(f"10.0.0.{last}") for last in (1, 2, 3))
    for address in (first, second, first, third):
        names.ask(address)
    assert set(names._asked) == {first, third}
    await names.wait([first, third])


def test_an_answer_after_the_loop_has_closed_is_dropped(stuck: StuckResolver) -> None:
    async def ask() -> None:
        Names(stuck).ask(ROUTER)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(ask())
    stuck.release.set()
    for thread in threading.enumerate():
        if thread.name == "allhops-blocking":
            thread.join()
    gc.collect()  # a thread that raised would be reported as an unraisable exception, which fails the test


async def test_hops_and_traces_get_their_names() -> None:
    names = book({ROUTER: "gw.example"})
    row = hop(ROUTER, None, OTHER)
    for address in responders(row):
        names.ask(address)
    await names.wait(responders(row))
    trace = Trace(
        destination="x",
        address=OTHER,
        source=ROUTER,
        protocol=Protocol.UDP,
        flow=None,
        started_at_ns=0,
        duration_ns=0,
        stop_reason=StopReason.MAX_TTL,
        hops=(row,),
    )
    assert named_trace(trace, names).hops == (named(row, names),)
    assert [sent.reply and sent.reply.name for sent in named(row, names).probes] == ["gw.example", None, None]


@pytest.mark.parametrize(
    "failure", [socket.gaierror(socket.EAI_NONAME, "none"), UnicodeDecodeError("utf8", b"", 0, 1, "")]
)
def test_the_system_has_no_name(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(socket, "getnameinfo", fail)
    assert ask_system(ROUTER) is None


def test_the_system_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getnameinfo", lambda where, flags: (f"ptr-of-{where[0]}", "0"))
    assert ask_system(ROUTER) == "ptr-of-10.0.0.1"
