"""Mutated packets through the parser: nothing may raise, and nothing may take longer than a hostile sender could use.

    python -m benchmarks.fuzz --packets 1000000 [--seed N] [--corpus tests/corpus]

The vector lane reads them too, hundreds at a time, and must say of each what the scalar lane says. Half the packets get
their ICMP checksum made right again after the mutation, so that they come further than the first check. A
found input is written to the corpus, where a test replays it for ever. Exit status 1 when there is one.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import multiprocessing
import random
import sys
import time
from pathlib import Path
from typing import NamedTuple

from allhops.core.lanes import ROW_SIZE, Ring
from allhops.core.lanes.scalar import ScalarLane
from allhops.core.lanes.vector import VectorLane
from allhops.core.ledger import Counters
from allhops.model import Protocol
from allhops.testing.packets import LAYOUTS, icmp_message
from benchmarks.replies import Bench, plan_for, valid_replies

PROCESSES = 2
SLOWEST_NS = 5_000_000
"""CPU time that one parse may take; what is slower is parsed again, because a cold cache is nobody's fault."""
RETRIES = 5
RING = 512
"""Packets that the vector lane reads at once."""
CORPUS = Path("tests/corpus")
PLANS = [(protocol, version) for protocol in Protocol for version in (4, 6)]


class Finding(NamedTuple):
    """A packet that broke something, and what."""

    packet: bytes
    what: str


class Report(NamedTuple):
    """What one process saw."""

    packets: int
    slowest_ns: int
    believed: int
    findings: list[Finding]


def mutated(packet: bytes, chance: random.Random) -> bytes:
    """One to eight edits: bytes, words of note, pieces cut, doubled or inserted; then perhaps a right checksum."""
    data = bytearray(packet)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(data) + 1)
        edit = chance.randrange(7)
        if edit == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif edit == 1:
            data[at : at + 1] = chance.randbytes(1)
        elif edit == 2:
            data[at : at + 2] = chance.choice((b"\0\0", b"\xff\xff", b"\x00\x01", b"\x80\x00", b"\x20\x00"))
        elif edit == 3:
            del data[at : at + chance.randint(1, 40)]
        elif edit == 4:
            data[at:at] = chance.randbytes(chance.randint(1, 40))
        elif edit == 5:
            data[at:at] = data[: chance.randint(0, 120)]
        else:
            data[at:at] = bytes(chance.randint(1, 200))
    whole = bytes(data[: ROW_SIZE + 16])
    return sealed(whole) if chance.random() < 0.5 else whole


def sealed(packet: bytes) -> bytes:
    """The packet with its length field and ICMP checksum made right, if it is long enough to have them."""
    layout = LAYOUTS.get(packet[0] >> 4) if packet else None
    if layout is None or len(packet) < layout.header_bytes + 8:
        return packet
    header = (packet[0] & 15) * 4 if layout.version == 4 else layout.header_bytes
    if len(packet) < header + 8 or packet[9 if layout.version == 4 else 6] != layout.icmp:
        return packet
    length = len(packet).to_bytes(2) if layout.version == 4 else (len(packet) - 40).to_bytes(2)
    at = 2 if layout.version == 4 else 4
    head = packet[:at] + length + packet[at + 2 : header]
    source, us = head[layout.source_at : layout.destination_at], head[layout.destination_at : layout.destination_end]
    message = packet[header:]
    return head + icmp_message(layout, source, us, (message[0], message[1], message[4:8]), message[8:])


def fuzz(packets: int, seed: int) -> Report:
    """Parse and match so many mutated packets of one seed."""
    chance = random.Random(seed)
    benches = [Bench(plan_for(protocol, version)) for protocol, version in PLANS]
    replies = [valid_replies(protocol, version) for protocol, version in PLANS]
    benches[0].receive(replies[0][0])  # imports the parser
    findings: list[Finding] = []
    slowest_ns = 0
    ring = Ring(RING)
    twin = VectorTwin()
    gc.disable()
    for number in range(packets):
        which = chance.randrange(len(benches))
        packet = mutated(chance.choice(replies[which]), chance)
        took_ns, what = _timed(benches[which], packet)
        if took_ns > SLOWEST_NS:
            took_ns = min(_timed(benches[which], packet)[0] for _ in range(RETRIES))
            what = what or (f"took {took_ns / 1e6:.1f} ms" if took_ns > SLOWEST_NS else None)
        slowest_ns = max(slowest_ns, took_ns)
        if what is not None:
            findings.append(Finding(packet, what))
        ring.append(packet, number)
        if ring.count == RING or number == packets - 1:
            findings += twin.disagreements(ring)
            ring.clear()
        if number % 10_000 == 0:
            gc.collect()
    gc.enable()
    return Report(
        packets, slowest_ns, sum(bench.counters.matched + bench.counters.duplicate for bench in benches), findings
    )


class VectorTwin:
    """The vector lane beside the scalar one: what it reads otherwise, or records otherwise, is a finding."""

    def __init__(self) -> None:
        self._benches = [
            (Bench(plan_for(protocol, version)), Bench(plan_for(protocol, version), VectorLane))
            for protocol, version in PLANS
        ]

    def disagreements(self, ring: Ring) -> list[Finding]:
        """Packets that the two read differently, alone; failing that, the last of a ring that they record otherwise."""
        packets = [bytes(packet) for packet, _ in ring.packets()]
        try:
            is_same = _is_read_alike(ring) and all(_is_recorded_alike(ring, *pair) for pair in self._benches)
        except Exception as error:
            return [Finding(packets[-1], f"the last of a ring for the vector lane: {error!r}")]
        if is_same:
            return []
        found = []
        for packet in packets:
            alone = Ring(1)
            alone.append(packet, 1)
            if not _is_read_alike(alone):
                found.append(Finding(packet, "the lanes read it differently"))
        return found or [Finding(packets[-1], "the last of a ring that the lanes read or record differently")]


def _is_read_alike(ring: Ring) -> bool:
    scalar, vector = ScalarLane(Counters()), VectorLane(Counters())
    return scalar.unpack(ring) == list(vector.unpack(ring).rows()) and scalar.counters == vector.counters


def _is_recorded_alike(ring: Ring, one: Bench, other: Bench) -> bool:
    slots = [bench.lane.record(bench.plan, bench.ledger, bench.lane.unpack(ring)) for bench in (one, other)]
    ledgers = vars(one.ledger), vars(other.ledger)
    return list(slots[0]) == list(slots[1]) and ledgers[0] == ledgers[1]


def _timed(bench: Bench, packet: bytes) -> tuple[int, str | None]:
    started_ns = time.thread_time_ns()  # what others on this machine do is not ours
    what = None
    try:
        bench.receive(packet)
    except Exception as error:
        what = repr(error)
    return time.thread_time_ns() - started_ns, what


def main(arguments: list[str] | None = None) -> int:
    """Fuzz on two processes and say what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="where found inputs are written")
    chosen = parser.parse_args(arguments)
    seeds = [chosen.seed + position for position in range(PROCESSES)]
    print(f"{chosen.packets:,} packets, seeds {seeds}", flush=True)
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        reports = pool.starmap(fuzz, [(chosen.packets // PROCESSES, seed) for seed in seeds])
    seconds = time.perf_counter() - started
    findings = [finding for report in reports for finding in report.findings]
    done = sum(report.packets for report in reports)
    print(
        f"{done:,} packets in {seconds:.0f} s, {sum(report.believed for report in reports):,} believed, "
        f"slowest {max(report.slowest_ns for report in reports) / 1e6:.2f} ms, {len(findings)} findings"
    )
    for finding in findings:
        name = chosen.corpus / f"fuzz-{hashlib.sha256(finding.packet).hexdigest()[:12]}.hex"
        name.write_text(f"# {finding.what}\n{finding.packet.hex()}\n")
        print(f"{name}: {finding.what}", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
