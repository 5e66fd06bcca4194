"""Harvests made of random columns, for tests of what is made from them.

Every column holds anything that a lane or a course may write there, more often than the network would make it so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.answers import answers_of
from allhops.core.batch.strategies import Inheritance
from allhops.core.evidence import DIRECT
from allhops.core.harvest import STOP_REASONS, Harvest
from allhops.core.lanes.hearsay import QUOTED_HEADER
from allhops.core.ledger import ADDRESS_BYTES, ANSWERED, UNSENT, Ledger
from allhops.core.plan import Plan
from allhops.model import InterfaceInfo, InterfaceRole, MplsLabel, Protocol, StopReason, UnknownObject
from allhops.options import TraceOptions
from allhops.wire.probes import LAYOUTS

if TYPE_CHECKING:
    from numpy.random import Generator

EPOCH_NS = 1_700_000_000_000_000_000
SOURCES = {4: b"\xc0\0\2\1", 6: b"\x20\x01\x0d\xb8" + bytes(11) + b"\1"}
EXTENSIONS = (
    (MplsLabel(label=24_015, traffic_class=5, bottom_of_stack=True, ttl=1),),
    (
        InterfaceInfo(role=InterfaceRole.INCOMING, index=3, name='xe-0/0/1"\\'),
        UnknownObject(class_num=3, c_type=1, data="ff"),
    ),
)
NAMES = ("host.example", "a\x1b[31mb", "caf\xe9", 'quo"ted\\', "\udcff", "", "tab\there")


def make_plan(rng: Generator, version: int, destinations: int, **options: Any) -> Plan:
    """A plan whose destinations are random addresses."""
    chosen = TraceOptions(**options)
    layout = LAYOUTS[chosen.protocol, version]
    size = layout.family.address_size
    packed = {rng.bytes(size) for _ in range(destinations)}
    return Plan(
        layout=layout,
        options=chosen,
        destinations=tuple(sorted(packed)),
        source=SOURCES[version],
        source_ports=(40_000,),
        key=1,
        cookie=b"abcd",
        size=layout.family.default_size,
        spare_attempts=int(rng.integers(0, 3)),
    )


def random_harvest(seed: int, *, version: int = 4, destinations: int = 8, **options: Any) -> Harvest:
    """Some courses of a plan, in any order, with anything in any column."""
    rng = np.random.default_rng(seed)
    plan = make_plan(rng, version, destinations, **options)
    ledger = Ledger(plan.slots)
    _fill(rng, plan, ledger, few_responders=rng.bytes(4 * ADDRESS_BYTES))
    courses = rng.permutation(plan.courses)[: rng.integers(0, plan.courses + 1)]
    return _harvest(rng, plan, ledger, courses)


def _fill(rng: Generator, plan: Plan, ledger: Ledger, few_responders: bytes) -> None:
    slots = plan.slots
    size = plan.layout.family.address_size

    def put(column: Any, values: Any) -> None:
        np.asarray(column)[:] = values

    put(ledger.state, rng.choice([UNSENT, ANSWERED, *range(6)], slots))
    is_sent = np.frombuffer(ledger.state, np.uint8) != UNSENT
    put(ledger.kind, rng.integers(0, 4, slots))
    for column in (ledger.icmp_type, ledger.icmp_code, ledger.quoted_ttl, ledger.quoted_tos):
        put(column, rng.choice([0, 1, 3, 11, 255], slots))
    put(ledger.reply_ttl, rng.choice([0, 64, 250], slots))
    put(ledger.port_state, rng.choice([0, 0, 1, 2], slots))
    put(ledger.flags, rng.choice([0, 0, 1, 2, 8, 31, DIRECT], slots))
    put(ledger.hearsay, rng.choice([0, 0, QUOTED_HEADER, 1], slots))
    put(ledger.matched, rng.choice([0, 15, 1023, 513], slots))
    put(ledger.mtu, rng.choice([0, 0, 1_400, 65_535], slots))
    put(ledger.duplicates, rng.choice([0, 0, 1, 65_535], slots))
    sent_ns = np.frombuffer(ledger.sent_ns, np.int64)
    sent_ns[:] = np.where(is_sent, EPOCH_NS + rng.integers(0, 10**9, slots), 0)
    # Whole microseconds and a half are where rounding is a matter of taste.
    rtt_ns = rng.integers(0, 10**8, slots)
    rtt_ns = np.where(rng.random(slots) < 0.3, rtt_ns // 1_000 * 1_000 + 500, rtt_ns)
    rtt_ns = np.where(rng.random(slots) < 0.1, -1, rtt_ns)
    answered = np.frombuffer(ledger.state, np.uint8) == ANSWERED
    np.asarray(ledger.received_ns)[:] = np.where(answered, sent_ns + rtt_ns, 0)
    is_late = is_sent & ~answered & (rng.random(slots) < 0.2)
    np.frombuffer(ledger.late_ns, np.int64)[:] = np.where(is_late, sent_ns + rtt_ns * 7, 0)
    responder = answers_of(ledger)["responder"].view(np.uint8)
    responders = np.frombuffer(few_responders, np.uint8).reshape(-1, ADDRESS_BYTES)
    responder[answered, :size] = responders[rng.integers(0, len(responders), int(answered.sum())), :size]
    for slot in np.flatnonzero(answered & (rng.random(slots) < 0.2)).tolist():
        ledger.extensions[slot] = EXTENSIONS[slot % 2]


def _harvest(rng: Generator, plan: Plan, ledger: Ledger, courses: Any) -> Harvest:
    count, first_ttl = len(courses), plan.options.first_ttl
    stop = rng.integers(0, len(STOP_REASONS), count).astype(np.uint8)
    end_ttl = np.where(rng.random(count) < 0.5, rng.integers(first_ttl, plan.options.max_ttl + 1, count), 0)
    open_end = rng.integers(first_ttl - 1, plan.options.max_ttl + 1, count)
    names = [f"{NAMES[course % len(NAMES)]}{course}" for course in range(plan.courses)]
    return Harvest(
        plan=plan,
        ledger=ledger,
        names=names,
        positions=np.arange(plan.courses)[::-1].copy(),
        courses=courses,
        stop=stop,
        end_ttl=end_ttl.astype(np.int16),
        last_ttl=np.where(end_ttl > 0, end_ttl, open_end).astype(np.int16),
        started_ns=EPOCH_NS + rng.integers(0, 10**12, count),
        duration_ns=rng.integers(0, 10**11, count),
        errors=rng.choice(np.array([0, 1, 101, 113], np.uint16), count),
        inherited=_inheritance(rng, plan) if rng.random() < 0.7 else None,
        backend="ring",
    )


def _inheritance(rng: Generator, plan: Plan) -> Inheritance:
    """Of any course, whether it is of the harvest or not, and whether the hop was asked or not."""
    count, size = 3 * plan.courses, plan.layout.family.address_size
    addresses = rng.integers(0, 256, (2, count, ADDRESS_BYTES)).astype(np.uint8)
    addresses[:, :, size:] = 0
    return Inheritance(
        course=rng.integers(0, plan.courses, count),
        ttl=rng.integers(plan.options.first_ttl, plan.options.max_ttl + 1, count).astype(np.uint8),
        responder=addresses[0],
        donor=addresses[1],
    )


def likely_harvest(seed: int, destinations: int, *, hops: int = 10) -> Harvest:
    """A harvest as a healthy network makes it: one attempt, a tenth silent, a reply a hop, the destination's last."""
    rng = np.random.default_rng(seed)
    plan = make_plan(rng, 4, destinations, protocol=Protocol.UDP, attempts=1, max_ttl=32)
    ledger = Ledger(plan.slots)
    slot = (
        np.arange(plan.courses)[:, None] * plan.slots_per_course + np.arange(hops)[None, :] * plan.slots_per_row
    ).ravel()
    is_last = np.tile(np.arange(hops) == hops - 1, plan.courses)
    answered = is_last | (rng.random(len(slot)) < 0.9)
    heard = slot[answered]
    np.frombuffer(ledger.state, np.uint8)[slot] = np.where(answered, ANSWERED, ANSWERED + 1)
    np.asarray(ledger.kind)[heard] = np.where(is_last[answered], 2, 1)
    np.asarray(ledger.icmp_type)[heard] = np.where(is_last[answered], 3, 11)
    np.asarray(ledger.icmp_code)[heard] = np.where(is_last[answered], 3, 0)
    np.asarray(ledger.reply_ttl)[heard] = rng.integers(240, 255, len(heard))
    np.asarray(ledger.quoted_ttl)[heard] = 1
    np.asarray(ledger.matched)[heard] = 0b10011111
    np.frombuffer(ledger.sent_ns, np.int64)[slot] = EPOCH_NS + np.arange(len(slot)) * 1_000
    rtt_ns = rng.integers(10**6, 10**8, len(heard))
    np.asarray(ledger.received_ns)[heard] = np.frombuffer(ledger.sent_ns, np.int64)[heard] + rtt_ns
    responder = answers_of(ledger)["responder"].view(np.uint8)
    routers = rng.integers(0, 256, (max(1, len(slot) // 4), 4)).astype(np.uint8)
    responder[heard, :4] = routers[rng.integers(0, len(routers), len(heard))]
    ends = plan.courses
    return Harvest(
        plan=plan,
        ledger=ledger,
        names=[".".join(map(str, packed)) for packed in plan.destinations],
        positions=np.arange(ends),
        courses=np.arange(ends),
        stop=np.full(ends, STOP_REASONS.index(StopReason.REACHED), np.uint8),
        end_ttl=np.full(ends, hops, np.int16),
        last_ttl=np.full(ends, hops, np.int16),
        started_ns=EPOCH_NS + rng.integers(0, 10**9, ends),
        duration_ns=rng.integers(10**8, 10**9, ends),
        errors=np.zeros(ends, np.uint16),
        inherited=None,
        backend="ring",
    )
