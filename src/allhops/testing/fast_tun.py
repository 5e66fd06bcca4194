"""A synthetic internet for any program: `python -m allhops.testing.fast_tun MODEL [--device NAME]`.

MODEL is a JSON object: the arguments of `SyntheticInternet`. Like `allhops.testing.tun`, which plays scenarios, it
creates a TUN device in the current network namespace, makes it the way to everywhere, prints "ready", and ends with
SIGTERM, SIGINT or, where its standard input is a pipe, when that closes; then it writes what it counted to standard
error, as JSON. It is made for rates: packets are read in bursts and answered together, as arrays.

Round-trip times count from when a packet is read here. Replies are never early; how late they are is counted. While one
is due in less than `SPIN_NS` it waits awake, so at rates of batches it uses a whole CPU.

It refuses to run where a packet could get out: see `tun.refuse_a_way_out`. Linux, root.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import heapq
import json
import os
import select
import sys
import time
from dataclasses import asdict
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import numpy as np

from allhops.errors import AllhopsError, PrivilegeError, UsageError
from allhops.testing.mass_replies import Tally, reply
from allhops.testing.packets import IPV4, UDP, udp_datagram
from allhops.testing.scenario import Vantage
from allhops.testing.synthetic import SyntheticInternet
from allhops.testing.tun import (
    LEASH_BYTES,
    MTU,
    before_others,
    configure,
    fine_timers,
    leash,
    open_tun,
    refuse_a_way_out,
    stop_signals,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

GATHERED_PACKETS = 256
"""Packets that are answered together at most."""
GATHERED_NS = 1_200_000
"""How long a packet waits for others to be answered with, which takes 0.2 ms for one as for fifty: the nearest router
answers after 2 ms."""
READS_PER_TURN = 16
"""Packets read before something is written, so a burst does not hold up what is due."""
SPIN_NS = 100_000
REST_EVERY_NS, REST_S = 1_000_000, 100e-6
"""A process that runs before all others and never sleeps is stopped by the kernel for 50 ms in each second, if others
want its CPU (fair server, Linux 6.12; sched_rt_runtime_us before): it gives them a tenth of the time by itself."""
LATE_NS = 1_000_000


class FastPlayer:
    """Reads packets from a TUN device, asks the internet, writes each answer when it is due."""

    def __init__(self, descriptor: int, internet: SyntheticInternet) -> None:
        self._descriptor = descriptor
        self._internet = internet
        self._buffer = np.zeros((GATHERED_PACKETS, MTU), np.uint8)
        everything = memoryview(self._buffer.data).cast("B")
        self._rows = [[everything[start : start + MTU]] for start in range(0, GATHERED_PACKETS * MTU, MTU)]
        self._lengths: list[int] = []
        self._read_ns: list[int] = []
        self._due: list[tuple[int, bytes]] = []
        """Heap of replies by the time of each."""
        self.tally = Tally()
        self.sent = 0
        self.late = 0
        """Replies written more than `LATE_NS` after their time."""
        self.refused = 0
        """Replies the kernel did not take."""

    def run(self, stop: int, leash: int | None) -> None:
        """Play until the file descriptor `stop` can be read or `leash`, a pipe, is closed."""
        signals = [stop] if leash is None else [stop, leash]
        watched = [self._descriptor, *signals]
        rested_ns = time.monotonic_ns()
        while True:
            pause: float | None = 0
            is_drained = self._turn()
            if self._has_gathered():
                self._answer()
            elif is_drained:
                pause = self._pause()
            if pause == 0:
                if time.monotonic_ns() - rested_ns < REST_EVERY_NS:
                    continue
                readable, _, _ = select.select(signals, (), (), REST_S)
            else:
                readable, _, _ = select.select(watched, (), (), pause)
            rested_ns = time.monotonic_ns()
            if stop in readable or (leash in readable and not os.read(leash, LEASH_BYTES)):
                return

    def warm_up(self) -> None:
        """Answer packets that nobody sent: the first time, everything takes milliseconds."""
        for destination in self._internet.destinations()[:GATHERED_PACKETS].tolist():
            source, target = self._internet.source.packed, IPv4Address(destination).packed
            datagram = udp_datagram(IPV4, source, target, (1, 1), b"")
            packet = IPV4.header(source, target, UDP, len(datagram), 64, 0, 0) + datagram
            self._buffer[len(self._lengths), : len(packet)] = np.frombuffer(packet, np.uint8)
            self._lengths.append(len(packet))
            self._read_ns.append(0)
        self._answer()
        self._due.clear()
        self.tally = Tally()

    def _turn(self) -> bool:
        """Write what is due and read some of what waits; whether nothing waits any more."""
        self._write()
        return self._read()

    def _between(self) -> None:
        self._turn()

    def _pause(self) -> float | None:
        """Seconds that may be slept; None for as long as nothing comes."""
        next_ns = [at_ns for at_ns, _ in self._due[:1]]
        if self._lengths:
            next_ns.append(self._read_ns[0] + GATHERED_NS)
        return max(0, min(next_ns) - time.monotonic_ns() - SPIN_NS) / 1e9 if next_ns else None

    def _has_gathered(self) -> bool:
        count = len(self._lengths)
        return count > 0 and (count == GATHERED_PACKETS or time.monotonic_ns() - self._read_ns[0] >= GATHERED_NS)

    def _read(self) -> bool:
        """Read some packets; whether no more wait."""
        lengths = self._lengths
        first = len(lengths)
        try:
            for row in self._rows[first : first + READS_PER_TURN]:
                lengths.append(os.readv(self._descriptor, row))
                self._read_ns.append(time.monotonic_ns())
        except BlockingIOError:
            return True
        return False

    def _answer(self) -> None:
        """Put what was read to the internet, packets of one length together."""
        lengths, read_ns = np.array(self._lengths), np.array(self._read_ns)
        self._lengths.clear()
        self._read_ns.clear()
        packets = self._buffer[: len(lengths), : lengths.max()].copy()
        for length in np.unique(lengths).tolist():
            alike = np.flatnonzero(lengths == length)
            for replies in reply(self._internet, packets[alike, :length], self.tally, between=self._between):
                at_ns = (read_ns[alike[replies.probe]] + replies.rtt_ns).tolist()
                width = replies.packets.shape[1]
                everything = replies.packets.tobytes()
                for number, due_ns in enumerate(at_ns):
                    heapq.heappush(self._due, (due_ns, everything[number * width : (number + 1) * width]))

    def _write(self) -> None:
        """Write what is due."""
        due = self._due
        now_ns = time.monotonic_ns()
        while due and due[0][0] <= now_ns:
            at_ns, packet = heapq.heappop(due)
            try:
                os.write(self._descriptor, packet)
            except OSError:  # EINVAL, EIO: the kernel looks at the first byte and at the link's state alone
                self.refused += 1
            else:
                self.sent += 1
                self.late += now_ns - at_ns > LATE_NS
            now_ns = time.monotonic_ns()


def play(internet: SyntheticInternet, device: str) -> None:
    """Play until told to stop: the whole program but its arguments."""
    refuse_a_way_out()
    with contextlib.ExitStack() as cleanup:
        descriptor = open_tun(device)
        cleanup.callback(os.close, descriptor)
        configure(device, Vantage(ipv4=internet.source, ipv6=None))
        player = FastPlayer(descriptor, internet)
        player.warm_up()
        fine_timers()
        before_others()
        gc.freeze()
        gc.disable()  # nothing here makes cycles, and a collection takes longer than a near hop
        stopped = cleanup.enter_context(stop_signals())
        print("ready", flush=True)
        player.run(stopped, leash())
        counters = {**asdict(player.tally), "sent": player.sent, "late": player.late, "refused": player.refused}
        print(json.dumps(counters), file=sys.stderr)


def _model(text: str) -> SyntheticInternet:
    try:
        arguments = json.loads(text)
        return SyntheticInternet(**arguments)
    except (ValueError, TypeError) as error:
        raise UsageError(f"not the model of a synthetic internet: {error}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; the result is its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m allhops.testing.fast_tun", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("model", help='arguments of SyntheticInternet as JSON: {"seed": 1, "destinations": 1000}')
    parser.add_argument("--device", default="allhops0", metavar="NAME", help="name of the TUN device (%(default)s)")
    arguments = parser.parse_args(argv)
    try:
        play(_model(arguments.model), arguments.device)
    except AllhopsError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 3 if isinstance(error, PrivilegeError) else 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
