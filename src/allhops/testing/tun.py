"""A scenario for any program: `python -m allhops.testing.tun SCENARIO [--device NAME]`.

Creates a TUN device in the current network namespace, makes it the way to
everywhere, and answers what comes out of it as `Internet` says, when it says.
Prints "ready" once packets can flow; ends with SIGTERM, SIGINT or, where its
standard input is a pipe, when that closes; then writes the counters to standard
error, as JSON.

Round-trip times count from when the kernel hands a packet to the device: a packet
socket that hears what goes out says when that was, however long the packet then
waits here for its turn. Replies wait in a heap; the last `SPIN_NS` before one is due
are waited out awake, because a sleeping process is woken some 60 us late.

It refuses to run where a packet could get out: see `refuse_a_way_out`. Linux,
root.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import gc
import heapq
import json
import os
import pathlib
import pickle
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from allhops.errors import AllhopsError, PrivilegeError, UsageError
from allhops.testing.internet import Internet
from allhops.testing.scenario import Scenario
from allhops.testing.scenario_file import load_scenario

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from allhops.testing.scenario import Vantage

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
PR_SET_TIMERSLACK = 29

PICKLED = ".pickle"
"""Ending of a file that holds a `Scenario` of this very version: how the lab hands over one that was generated."""
SO_ATTACH_FILTER, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 26, 33, 35
ETH_P_ALL = 0x0003
TAP_BYTES = 64 << 20
TAP_PACKET_BYTES, TAP_CONTROL_BYTES = 64, 64
ONLY_OUTGOING = (
    (0x28, 0, 0, 0xFFFFF004),  # load the packet's type (SKF_AD_PKTTYPE)
    (0x15, 0, 1, 4),  # PACKET_OUTGOING?
    (0x06, 0, 0, 0xFFFF),  # keep
    (0x06, 0, 0, 0),  # drop
)
"""Classic BPF (code, jump if true, jump if false, value)."""
MTU = 1500
QUEUE_PACKETS = 10_000
"""Of the device: the kernel's 500 would drop a burst before anyone has seen it."""
SPIN_NS = 100_000
LEASH_BYTES = 4096
READS_PER_TURN = 64
"""Packets read before something is written, so a burst does not hold up what is due."""

FALLBACK_DEVICES = frozenset(
    {"sit0", "tunl0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6gre0"}
)
"""What tunnel modules put into every new namespace, down (net.core.fb_tunnels_only_for_init_net=0)."""


def refuse_a_way_out() -> None:
    """Probes may only go where there is no route out.

    Raises:
        UsageError: this is the initial network namespace, or it has an interface besides lo.
    """
    advice = "run it in a namespace of its own: unshare --net, or ip netns exec NAME"
    if _is_initial_namespace():
        raise UsageError(f"this is the initial network namespace, with a way out; {advice}")
    others = sorted(set(_interfaces()) - {"lo"})
    if others:
        raise UsageError(f"this network namespace has {', '.join(others)}, perhaps with a way out; {advice}")


def _is_initial_namespace() -> bool:
    """Whether this is the network namespace of process 1; False where the kernel does not say.

    A root that lacks a capability of process 1, as in containers, may not look;
    the interfaces then decide alone.
    """
    try:
        initial = os.stat("/proc/1/ns/net")
    except PermissionError:
        return False
    return os.path.samestat(os.stat("/proc/self/ns/net"), initial)


def _interfaces() -> Iterator[str]:
    """Interfaces of the current namespace, apart from fallback tunnel devices that are down."""
    listing = json.loads(subprocess.run(["ip", "-json", "link"], check=True, capture_output=True).stdout)
    for link in listing:
        name = link["ifname"]
        if name not in FALLBACK_DEVICES or "UP" in link["flags"]:
            yield name


def open_tun(name: str) -> int:
    """File descriptor, non-blocking, of a new TUN device that carries plain IP packets.

    Raises:
        PrivilegeError: the kernel refuses.
    """
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    except PermissionError as error:
        raise PrivilegeError(f"cannot make the TUN device {name}: {error.strerror}; be root") from None
    except OSError as error:
        raise UsageError(f"cannot make the TUN device {name}: {error.strerror}") from None
    return descriptor


def configure(name: str, vantage: Vantage) -> None:
    """Bring `name` up with the vantage point's addresses and make it the default route of both families."""
    lines = ["link set lo up", f"link set {name} mtu {MTU} txqueuelen {QUEUE_PACKETS} up"]
    if vantage.ipv4:
        lines += [f"addr add {vantage.ipv4}/32 dev {name}", f"route add default dev {name} src {vantage.ipv4}"]
    if vantage.ipv6:
        lines += [f"addr add {vantage.ipv6}/128 dev {name} nodad", f"-6 route add default dev {name}"]
    for line in lines:  # `ip -batch` takes no -6 within a line, and this runs once
        subprocess.run(["ip", *line.split()], check=True)


class Tap:
    """When each packet went out, in their order: kernel stamps, as time.monotonic_ns."""

    def __init__(self, device: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        program = b"".join(struct.pack("HBBI", *line) for line in ONLY_OUTGOING)
        buffer = ctypes.create_string_buffer(program)
        filter_ = struct.pack("HxxxxxxQ", len(ONLY_OUTGOING), ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, TAP_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.bind((device, ETH_P_ALL))
        self._behind_ns = time.time_ns() - time.monotonic_ns()

    def stamp(self, packet: bytes) -> int:
        """When this packet, read from the device just now, went out; older ones that nobody asked about are skipped."""
        start = packet[:TAP_PACKET_BYTES]
        try:
            while True:
                heard, ancillary, _, _ = self._socket.recvmsg(TAP_PACKET_BYTES, TAP_CONTROL_BYTES)
                if heard == start:
                    seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
                    return int(seconds * 1_000_000_000 + nanoseconds - self._behind_ns)
        except BlockingIOError:  # it went out before this tap was there
            return time.monotonic_ns()

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()


class Player:
    """Reads packets from a TUN device, asks the internet, writes each answer when it is due."""

    def __init__(self, descriptor: int, tap: Tap, internet: Internet) -> None:
        self._descriptor = descriptor
        self._tap = tap
        self._internet = internet
        self._read: deque[tuple[int, bytes]] = deque()
        self._due: list[tuple[int, int, bytes]] = []
        self._number = 0
        self.refused = 0
        """Answers the kernel did not take."""

    def run(self, stop: int, leash: int | None) -> None:
        """Play until the file descriptor `stop` can be read or `leash`, a pipe, is closed.

        Between any two packets it looks at the device and at what is due: a packet is
        stamped when it comes and not when its turn comes, some 30 us each later in a burst.
        """
        watched = [self._descriptor, stop] if leash is None else [self._descriptor, stop, leash]
        while True:
            self._stamp()
            self._write()
            if self._read:
                self._ask(*self._read.popleft())
                continue
            readable, _, _ = select.select(watched, (), (), self._pause())
            if stop in readable or (leash in readable and not os.read(leash, LEASH_BYTES)):
                return

    def _pause(self) -> float | None:
        """Seconds that may be slept, None for as long as nothing comes."""
        if not self._due:
            return None
        return max(0, self._due[0][0] - time.monotonic_ns() - SPIN_NS) / 1e9

    def _stamp(self) -> None:
        for _ in range(READS_PER_TURN):
            try:
                packet = os.read(self._descriptor, MTU)
            except BlockingIOError:
                return
            self._read.append((self._tap.stamp(packet), packet))

    def _ask(self, at_ns: int, packet: bytes) -> None:
        for arrival in self._internet.packet_sent(packet, at_ns):
            self._number += 1
            heapq.heappush(self._due, (arrival.at_ns, self._number, arrival.packet))

    def _write(self) -> None:
        """Write what is due; if nothing else is to be done, wait awake for what will be in less than `SPIN_NS`."""
        due = self._due
        while due:
            early_ns = due[0][0] - time.monotonic_ns()
            if early_ns > 0:
                if early_ns > SPIN_NS or self._read:
                    return
                self._stamp()
                continue
            _, _, packet = heapq.heappop(due)
            try:
                os.write(self._descriptor, packet)
            except OSError:  # EINVAL, EIO: the kernel looks at the first byte and at the link's state alone
                self.refused += 1


def fine_timers() -> None:
    """Ask the kernel not to round this thread's sleeps up by its usual 50 us."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)


def before_others() -> None:
    """Run before every ordinary process: on a busy machine a late answer would look like a longer path."""
    with contextlib.suppress(PermissionError):  # containers without CAP_SYS_NICE get along without
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


@contextlib.contextmanager
def stop_signals() -> Iterator[int]:
    """A file descriptor that can be read once SIGTERM or SIGINT has come.

    The interpreter's wakeup descriptor, and not a handler in Python: one that comes
    just before select(2) would run only after it, so perhaps never.
    """
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    wakeup = signal.set_wakeup_fd(writer)
    handlers = {number: signal.signal(number, _ignore) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield reader
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(reader)
        os.close(writer)


def _ignore(number: int, frame: FrameType | None) -> None:
    """A handler there has to be, or the signal would end the program."""


def leash() -> int | None:
    """File descriptor of standard input if it is a pipe, whose other end then decides when to stop.

    A terminal or /dev/null, as of a job in the background, decides nothing.
    """
    descriptor = sys.stdin.fileno()
    return descriptor if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else None


def play(internet: Internet, device: str) -> None:
    """Play until told to stop: the whole program but its arguments."""
    refuse_a_way_out()
    with contextlib.ExitStack() as cleanup:
        descriptor = open_tun(device)
        cleanup.callback(os.close, descriptor)
        configure(device, internet.scenario.vantage)
        tap = Tap(device)
        cleanup.callback(tap.close)
        player = Player(descriptor, tap, internet)
        internet.prepare()
        fine_timers()
        before_others()
        gc.freeze()
        gc.disable()  # nothing here makes cycles, and a collection takes longer than a near hop
        stopped = cleanup.enter_context(stop_signals())
        print("ready", flush=True)
        player.run(stopped, leash())
        print(json.dumps({**internet.counters, "refused": player.refused}), file=sys.stderr)


def _scenario(name: str) -> Scenario:
    path = pathlib.Path(name)
    if path.suffix == PICKLED:
        loaded = pickle.loads(path.read_bytes())
        assert isinstance(loaded, Scenario)
        return loaded
    return load_scenario(path if path.exists() else name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; the result is its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m allhops.testing.tun", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("scenario", help="a scenario file, or the name of a bundled scenario")
    parser.add_argument("--device", default="allhops0", metavar="NAME", help="name of the TUN device (%(default)s)")
    arguments = parser.parse_args(argv)
    try:
        play(Internet(_scenario(arguments.scenario)), arguments.device)
    except AllhopsError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 3 if isinstance(error, PrivilegeError) else 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
