"""What one of our wires pays for replies: `receive_ours raw|ring NAMESPACE INTERFACE`.

From that interface of the namespace beside ours come Time Exceeded errors, one about each probe of a window, until all
wait in the kernel; then they are read and entered, and every one of them is looked up; again and again. Prints
microseconds of CPU a reply: to take it from the kernel, to read it, to enter it.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import time
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import numpy as np

from allhops.core.answers import packed_responders
from allhops.core.lanes.vector import VectorLane
from allhops.core.ledger import ANSWERED, IN_FLIGHT, Counters, Ledger
from allhops.net.batch.group import Group
from allhops.net.batch.mmsg import MOST_MESSAGES, Messages
from allhops.net.batch.raw import RawWire
from allhops.net.batch.rings import RingWire
from allhops.net.batch.wire import Way
from allhops.options import TraceOptions
from allhops.testing.namespaces import entered
from allhops.wire.checksum import internet_checksum
from benchmarks.batch_lab import chain_destinations
from benchmarks.replies import error_about
from benchmarks.send_ours import plan_through

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.net.batch.wire import Wire

WIRES: dict[str, Callable[[TraceOptions], Wire]] = {"raw": RawWire, "ring": RingWire}
DESTINATIONS, MAX_TTL = 5_461, 6
"""What the buffer of a raw socket holds: 32 MiB are some 40,000 packets of this size."""
CLIENT_MAC, ROUTER_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
ETHERTYPE = b"\x08\x00"
WINDOWS = 8
PATIENCE_S = 10.0


async def receive(name: str, namespace: str, interface: str) -> list[float]:
    """Open, let come, read: microseconds of CPU a reply for each of the three steps."""
    options, counters = TraceOptions(max_ttl=MAX_TTL, attempts=1), Counters()
    wire = WIRES[name](options)
    wire.open(counters)
    destinations = [IPv4Address(each) for each in chain_destinations(DESTINATIONS)]
    way = wire.ways(Group.of(destinations[:1]), options).kinds[0]
    assert isinstance(way, Way), way
    assert way.next_hop is not None  # a router
    lease = wire.lease(way, options)
    plan = plan_through(lease, way, options, destinations)
    lease.expect(plan.cookie)
    lane = VectorLane(counters)
    probes = lane.launch(plan, np.random.default_rng(1).permutation(plan.slots))
    starts = range(0, len(probes.packets), probes.size)
    frames = [
        _frame(bytes(probes.packets[start : start + probes.size]), lease.source, way.next_hop) for start in starts
    ]
    spent = np.zeros(3)
    for window in range(1, WINDOWS + 1):
        ledger = Ledger(plan.slots, counters)
        np.frombuffer(ledger.state, np.uint8)[:] = IN_FLIGHT
        _inject(frames, namespace, interface)
        patience = time.monotonic() + PATIENCE_S
        while counters.matched < window * plan.slots and time.monotonic() < patience:
            clocks = [time.process_time()]
            for ring in wire.receive():
                clocks.append(time.process_time())
                replies = lane.unpack(ring)
                clocks.append(time.process_time())
                lane.record(plan, ledger, replies)
                clocks.append(time.process_time())
                spent += np.diff(clocks)
                clocks = clocks[-1:]
            spent[0] += time.process_time() - clocks[0]  # blocks are given back
        responders = packed_responders(ledger, np.arange(plan.slots))[:, : len(way.next_hop)]
        is_right = set(ledger.state) == {ANSWERED} and (responders == np.frombuffer(way.next_hop, np.uint8)).all()
        if not is_right or counters.foreign or counters.forged or counters.malformed:
            raise SystemExit(f"not every reply was read for what it is: {counters}")
    lease.close()
    wire.close()
    microseconds: list[float] = (spent / plan.slots / WINDOWS * 1e6).tolist()
    return microseconds


def _frame(probe: bytes, source: bytes, router: bytes) -> bytes:
    """The error that a router sends about a probe."""
    packet = bytearray(error_about(probe, source=router))
    packet[16:20] = source  # it was written for another vantage point
    packet[10:12] = bytes(2)
    packet[10:12] = internet_checksum(packet[:20]).to_bytes(2, "big")
    return CLIENT_MAC + ROUTER_MAC + ETHERTYPE + packet


def _inject(frames: list[bytes], namespace: str, interface: str) -> None:
    """Send these from the other end of our link."""
    size = len(frames[0])
    octets = bytearray(b"".join(frames))
    with entered(namespace), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((interface, 0))
        messages = Messages(MOST_MESSAGES)
        at = 0
        while at < len(frames):
            count = min(MOST_MESSAGES, len(frames) - at)
            messages.aim(octets, at * size, size, size, count)
            taken, code = messages.send(sock.fileno(), 0, count)
            if code not in (0, errno.EAGAIN, errno.ENOBUFS):
                raise OSError(code, "the errors could not be sent")
            at += taken
        messages.release()


def main() -> None:
    """Read, run, print."""
    print(*asyncio.run(receive(*sys.argv[1:])))


if __name__ == "__main__":
    main()
