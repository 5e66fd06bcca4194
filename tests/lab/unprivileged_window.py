"""A program for the lab: windows of a batch, by the error queue without any privilege or by raw sockets, told as JSON.

Everything is imported before the privileges go: nobody may read root's Python.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from importlib import import_module
from ipaddress import ip_address
from typing import Any

import uvloop

from allhops.core.lanes.departures import departures
from allhops.core.lanes.scalar import ScalarLane
from allhops.core.ledger import ANSWERED, IN_FLIGHT, LOCAL_ERROR, TIMED_OUT, Counters, Ledger
from allhops.core.plan import Plan
from allhops.errors import AllhopsError
from allhops.model import Protocol
from allhops.net import privileges
from allhops.net.batch.group import Group
from allhops.net.batch.raw import RawWire
from allhops.net.batch.wire import Way
from allhops.net.errqueue.batch import ErrorQueueWire
from allhops.options import TraceOptions
from allhops.wire.probes import LAYOUTS

NOBODY = "65534"
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
BURST = 128
"""Probes sent before replies are read."""
PATIENCE_S = 10.0
COOKIE = b"lab!"
COLUMNS = ("state", "kind", "icmp_type", "icmp_code", "reply_ttl", "port_state", "mtu", "duplicates", "error", "flags")
"""What both ways to the wire must agree on."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("destinations", nargs="+", type=ip_address)
    parser.add_argument("--protocol", default="udp", type=Protocol)
    parser.add_argument("--loop", default="uvloop", choices=LOOPS)
    parser.add_argument("--max-ttl", default=6, type=int)
    parser.add_argument("--attempts", default=1, type=int)
    parser.add_argument("--timeout", default=2.0, type=float)
    parser.add_argument("--size", type=int)
    parser.add_argument("--dont-fragment", action="store_true")
    parser.add_argument("--windows", default=1, type=int, help="at once")
    parser.add_argument("--raw", action="store_true", help="with all privileges, by raw sockets")
    parser.add_argument("--again", type=int, help="a TTL to ask alone once the first probes have timed out")
    return parser.parse_args()


class Window:
    """One lease, and what became of its probes."""

    def __init__(self, wire: Any, ways: list[Any], options: argparse.Namespace, counters: Counters, key: int) -> None:
        trace_options = TraceOptions(
            protocol=options.protocol,
            max_ttl=options.max_ttl,
            attempts=options.attempts,
            timeout=options.timeout,
            size=options.size,
            dont_fragment=options.dont_fragment,
        )
        self.lease = wire.lease(ways[0], trace_options)
        layout = LAYOUTS[options.protocol, options.destinations[0].version]
        self.plan = Plan(
            layout=layout,
            options=trace_options,
            destinations=tuple(destination.packed for destination in options.destinations),
            source=self.lease.source,
            source_ports=(self.lease.source_port,),
            key=key,
            cookie=COOKIE,
            size=options.size or layout.family.default_size,
            spare_attempts=1,
        )
        self.lease.expect(COOKIE)
        self.ledger = Ledger(self.plan.slots, counters)
        self.lane = ScalarLane(counters)

    def slots(self) -> list[int]:
        """All that are asked, one TTL of all destinations after the other."""
        options = self.plan.options
        return [
            self.plan.slot(course, ttl, attempt)
            for attempt in range(options.attempts)
            for ttl in range(1, options.max_ttl + 1)
            for course in range(self.plan.courses)
        ]

    def send(self, slots: list[int]) -> None:
        block = self.lane.launch(self.plan, slots)
        for slot in slots:
            self.ledger.state[slot] = IN_FLIGHT
        while block.handed < len(block):
            before = block.handed
            self.lease.send(block, 100)
            assert before < block.handed <= before + 100
        left_ns = departures(block, 0, len(block)).tolist()
        for slot, sent_ns, error in zip(slots, left_ns, block.errors, strict=True):
            assert sent_ns > 0
            self.ledger.sent_ns[slot], self.ledger.error[slot] = sent_ns, error
            if error:
                self.ledger.state[slot] = LOCAL_ERROR

    def told(self) -> dict[str, Any]:
        slots = self.slots()
        size = self.plan.layout.family.address_size
        return {
            **{column: [getattr(self.ledger, column)[slot] for slot in slots] for column in COLUMNS},
            "responder": [str(ip_address(self.ledger.responder_of(slot, size))) for slot in slots],
            "ttl": [self.plan.ttl_of(slot) for slot in slots],
            "hearsay": [self.ledger.hearsay[slot] for slot in slots],
            "rtt_ms": [self.ledger.rtt_ns(slot) for slot in slots],
            "extensions": [repr(self.ledger.extensions.get(slot)) for slot in slots],
        }


async def run(options: argparse.Namespace) -> dict[str, Any]:
    wire: Any = RawWire() if options.raw else ErrorQueueWire()
    open_before = len(os.listdir("/proc/self/fd"))
    counters = Counters()
    wire.open(counters)
    ways = wire.ways(Group.of(options.destinations), TraceOptions(protocol=options.protocol)).kinds
    windows = [Window(wire, ways, options, counters, key) for key in range(options.windows)]

    def read() -> None:
        rows = [row for ring in wire.receive() for row in windows[0].lane.unpack(ring)]
        for window in windows:
            own = [row for row in rows if row.probe.flow == window.plan.source_ports[0]]
            window.lane.record(window.plan, window.ledger, own)

    async def listen(patience: float) -> None:
        """Until all is answered, or for so long."""
        async with asyncio.timeout(patience):
            while any(window.ledger.state.count(IN_FLIGHT) for window in windows):
                read()
                await asyncio.sleep(0.001)

    try:
        for start in range(0, len(windows[0].slots()), BURST):
            for window in windows:
                window.send(window.slots()[start : start + BURST])
            read()
            await asyncio.sleep(0)
        try:
            await listen(options.timeout if options.again else PATIENCE_S)
        except TimeoutError:
            if not options.again:
                raise
        (first,) = windows[:1]
        again = []
        if options.again:
            for slot, state in enumerate(first.ledger.state):
                if state == IN_FLIGHT:
                    first.ledger.state[slot] = TIMED_OUT
            again = [first.plan.slot(course, options.again, options.attempts) for course in range(first.plan.courses)]
            first.send(again)
            await listen(PATIENCE_S)
        told = [window.told() for window in windows]
        size = first.plan.layout.family.address_size
        return {
            "windows": told,
            "again": [
                [str(ip_address(first.ledger.responder_of(slot, size))), first.ledger.state[slot] == ANSWERED]
                for slot in again
            ],
            "again_hearsay": [first.ledger.hearsay[slot] for slot in again],
            "counters": {name: getattr(counters, name) for name in type(counters).__slots__},
            "capabilities": privileges.capabilities(),
            "ways": [way.source.hex() if isinstance(way, Way) else str(way) for way in ways],
        }
    finally:
        wire.close()
        if len(os.listdir("/proc/self/fd")) != open_before:
            raise SystemExit("descriptors were left open")


def main() -> None:
    options = arguments()
    import_module("allhops.core.lanes.dissect")
    import_module("encodings.idna")
    if not options.raw and privileges.drop_to_caller({"SUDO_UID": NOBODY, "SUDO_GID": NOBODY}) is None:
        sys.exit("the lab's program must be started as root")
    try:
        with asyncio.Runner(loop_factory=LOOPS[options.loop]) as runner:
            print(json.dumps(runner.run(run(options))))
    except AllhopsError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
