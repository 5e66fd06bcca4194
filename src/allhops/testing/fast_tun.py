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
from allhops.testing.underway import Underway

if TYPE_CHECKING:
    from collections.abc import Sequence

GATHERED_PACKETS = 256
"""Packets that are answered together at most."""
GATHERED_NS = 500_000
"""How long a packet waits for others to be answered with: the nearest router takes 1 ms to answer."""
READS_PER_TURN = 16
"""Packets read before something is written, so a burst does not hold up what is due."""
AHEAD_NS, AHEAD_PACKETS = 300_000, 64
"""Replies are laid ready when they are due so soon; whatever is read meanwhile is due later."""
SPIN_NS = 100_000
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
        self._underway = Underway()
        self._ready: list[tuple[int, memoryview]] = []
        self._next_ns: int | None = None
        self.tally = Tally()
        self.sent = 0
        self.late = 0
        """Replies written more than `LATE_NS` after their time."""
        self.refused = 0
        """Replies the kernel did not take."""

    def run(self, stop: int, leash: int | None) -> None:
        """Play until the file descriptor `stop` can be read or `leash`, a pipe, is closed."""
        watched = [self._descriptor, stop] if leash is None else [self._descriptor, stop, leash]
        while True:
            is_drained = self._turn()
            if self._has_gathered():
                self._answer()
            elif is_drained:
                readable, _, _ = select.select(watched, (), (), self._pause())
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
        self._lay_ready(0)
        self.tally, self._underway, self._ready, self._next_ns = Tally(), Underway(), [], None

    def _turn(self) -> bool:
        """Write what is due and read some of what waits; whether nothing waits any more."""
        self._write()
        return self._read()

    def _between(self) -> None:
        self._turn()

    def _pause(self) -> float | None:
        """Seconds that may be slept; None for as long as nothing comes."""
        due = [at_ns for at_ns in (self._next_ns, self._ready[-1][0] if self._ready else None) if at_ns is not None]
        if self._lengths:
            due.append(self._read_ns[0] + GATHERED_NS)
        if not due:
            return None
        return max(0, min(due) - time.monotonic_ns() - SPIN_NS) / 1e9

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
                self._underway.add(read_ns[alike[replies.probe]] + replies.rtt_ns, replies.packets)
        self._next_ns = self._underway.next_ns()

    def _write(self) -> None:
        """Write what is due."""
        now_ns = time.monotonic_ns()
        if not self._ready:
            if self._next_ns is None or self._next_ns - now_ns > SPIN_NS:
                return
            self._lay_ready(now_ns)
        ready = self._ready
        while ready and ready[-1][0] <= now_ns:
            at_ns, packet = ready.pop()
            try:
                os.write(self._descriptor, packet)
            except OSError:  # EINVAL, EIO: the kernel looks at the first byte and at the link's state alone
                self.refused += 1
            else:
                self.sent += 1
                self.late += now_ns - at_ns > LATE_NS
            now_ns = time.monotonic_ns()

    def _lay_ready(self, now_ns: int) -> None:
        """Take the next replies out of the arrays, the first one last."""
        arrivals = self._underway.take(now_ns + AHEAD_NS, AHEAD_PACKETS)
        width = arrivals.packets.shape[1]
        everything = memoryview(arrivals.packets.tobytes())
        self._ready = [
            (at_ns, everything[place * width : place * width + length])
            for place, (at_ns, length) in enumerate(
                zip(arrivals.at_ns.tolist(), arrivals.lengths.tolist(), strict=True)
            )
        ][::-1]
        self._next_ns = self._underway.next_ns()


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
