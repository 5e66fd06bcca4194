"""Every value of every 16-bit word that names something: builder, simulated router, matcher. None is missed.

Source ports, destination ports, identifiers, IP IDs and sequences all run through their 65,536 values at once, each
in its own order, so that one pass a protocol is enough.
"""

from __future__ import annotations

import pytest

from allhops.core.lanes.dissect import dissect
from allhops.core.lanes.matching import match
from allhops.core.lanes.rows import ReplyRow
from allhops.core.ledger import Ledger
from allhops.core.plan import Plan
from allhops.model import Protocol
from allhops.options import MAX_ATTEMPTS, MAX_TTL, TraceOptions
from allhops.wire.codec import check_bits, mark_attempt, mark_ttl
from allhops.wire.probes import LAYOUTS, Flow, build_template, patches
from benchmarks.replies import COOKIE, DESTINATIONS, SOURCES, error_about

WORDS = 1 << 16
KEYS = tuple(number << 12 for number in range(16))
"""Every mark has the right check bits under exactly one of these."""


class Router:
    """Quotes any packet of one size in an error; the ICMP checksum is the only thing that it has to work out."""

    def __init__(self, probe: bytes) -> None:
        reply = error_about(probe)
        head = reply[: len(reply) - len(probe)]
        self._before, self._behind = head[:-6], head[-4:]
        # One's complement: a checksum and what it covers add up to the same, whatever the probe.
        self._constant = int.from_bytes(head[-6:-4]) + int.from_bytes(probe)

    def about(self, probe: bytearray) -> memoryview:
        checksum = (self._constant - int.from_bytes(probe)) % 0xFFFF
        return memoryview(self._before + checksum.to_bytes(2) + self._behind + probe)


def plan_with(protocol: Protocol, version: int, key: int) -> Plan:
    """A plan with a flow for every source port."""
    return Plan(
        layout=LAYOUTS[protocol, version],
        options=TraceOptions(protocol=protocol, max_ttl=MAX_TTL, attempts=MAX_ATTEMPTS),
        destinations=(DESTINATIONS[version],),
        source=SOURCES[version],
        source_ports=tuple(range(WORDS)),
        key=key,
        cookie=COOKIE,
        size=LAYOUTS[protocol, version].smallest_size,
    )


@pytest.mark.parametrize(
    ("protocol", "version", "step"),
    [(Protocol.UDP, 4, 1), (Protocol.ICMP, 4, 1), (Protocol.TCP, 6, 9), (Protocol.ICMP, 6, 9)],
)
def test_every_word_makes_the_round_trip(protocol: Protocol, version: int, step: int) -> None:
    """TCP's words are UDP's ports and ICMP's sequence: a ninth of them is enough for its offsets."""
    plans = [plan_with(protocol, version, key) for key in KEYS]
    layout = LAYOUTS[protocol, version]
    attempts = plans[0].slots_per_course // plans[0].ttls
    ledger = Ledger(1)
    router: Router | None = None
    believed = 0
    for number in range(0, WORDS, step):
        mark = number * 40_503 % WORDS
        plan = plans[mark - check_bits(mark >> 4, 0) & 15]
        flow = Flow(
            source=SOURCES[version],
            destination=DESTINATIONS[version],
            source_port=number,
            destination_port=WORDS - 1 - number,
            key=plan.key,
            cookie=COOKIE,
            size=layout.smallest_size,
        )
        plan._templates.clear()  # a plan has one destination port; here every probe has its own
        template = plan._templates[number] = build_template(layout, flow)
        probe = bytearray(template.packet)
        for offset, word in patches(template, 1, mark):
            probe[offset] = word >> 8
            probe[offset + 1] = word & 0xFF
        router = router or Router(bytes(probe))
        row = dissect(router.about(probe), 1)
        assert isinstance(row, ReplyRow)
        found = match(plan, ledger, row)
        is_sent = mark_ttl(mark) > 0 and mark_attempt(mark) < attempts
        if is_sent:
            assert found is not None, number
            assert found.slot == plan.slot(number, mark_ttl(mark), mark_attempt(mark))
            believed += 1
        else:
            assert found is None
    every = MAX_TTL * attempts * len(KEYS)
    assert believed == every if step == 1 else believed > every // step // 2
