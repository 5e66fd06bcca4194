"""Faults that only real kernels have: links that go, buffers that overflow, stopped processes, DNS that lies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import allhops
from allhops.core.ledger import LOCAL_ERROR
from allhops.core.session import Session
from allhops.errors import ResolveError, SendError, UsageError
from allhops.model import ProbeState, StopReason
from allhops.net.prober import Prober
from allhops.options import TraceOptions
from allhops.testing.namespaces import RESOLVER_DIRECTORY, Lab, chain, importing_us, tun_internet
from allhops.wire.checksum import MASK, word_sum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from allhops.model import Trace

pytestmark = pytest.mark.lab

VERSIONS = (4, 6)
BOTH = pytest.mark.parametrize("version", VERSIONS)
BACKENDS = pytest.mark.parametrize("backend", ["raw", "errqueue"])
ROUTERS = 4
PATIENCE_S = 60.0
COMMAND = [sys.executable, "-m", "allhops"]


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Routers that answer everything; the test may break them."""
    with chain(ROUTERS, limits="off") as lab, lab.enter():
        yield lab


def shell(line: str) -> str:
    """Output of a command in the namespace that this thread is in."""
    return subprocess.run(line.split(), check=True, capture_output=True, text=True).stdout


def heard(trace: Trace) -> list[set[str]]:
    return [{str(probe.reply.address) for probe in hop.probes if probe.reply} for hop in trace.hops]


def truth(lab: Lab, version: int) -> list[set[str]]:
    return [{str(address) for address in hop} for hop in lab.truth(version)]


# The network of this machine


@BOTH
@BACKENDS
async def test_a_link_that_goes_and_comes_back(lab: Lab, backend: str, version: int) -> None:
    """Sends pause and resume; what it cost is this machine's error, not the path's loss."""
    gateway = next(iter(lab.truth(version)[0]))
    async with Prober(backend=backend, rate_pps=50) as prober:
        gone = asyncio.Event()

        def take_the_link_down(address: object) -> None:
            if not gone.is_set():
                shell("ip link set v0n down")
                gone.set()

        tracing = await prober.start(
            lab.destinations[version], TraceOptions(max_ttl=ROUTERS + 2), on_responder=take_the_link_down
        )
        await gone.wait()
        assert isinstance(tracing._session, Session)
        state = tracing._session.ledger.state
        while not state.count(LOCAL_ERROR):  # noqa: ASYNC110 - nobody tells a test that a probe found it down
            await asyncio.sleep(0.01)
        shell("ip link set v0n up")
        if version == 6:  # addresses go with the link, as do routes beyond it and neighbours
            shell(f"ip addr add {lab.sources[6]}/64 dev v0n nodad")
        shell(f"ip neigh replace {gateway} lladdr 02:00:00:00:00:02 dev v0n nud permanent")
        shell(f"ip -{version} route replace default via {gateway}")
        trace = await tracing.result()
    assert trace.stop_reason is StopReason.REACHED
    assert heard(trace) == truth(lab, version)
    states = [probe.state for hop in trace.hops for probe in hop.probes]
    assert ProbeState.LOCAL_ERROR in states
    assert ProbeState.TIMED_OUT not in states


@BACKENDS
async def test_a_link_that_stays_away_ends_the_trace_with_the_reason(lab: Lab, backend: str) -> None:
    async with Prober(backend=backend) as prober:
        tracing = await prober.start(lab.destinations[4], TraceOptions())
        await tracing.result()
        shell("ip link set v0n down")
        with pytest.raises(SendError, match="no route"):
            await prober.trace(lab.destinations[4])


@BOTH
@BACKENDS
def test_a_local_firewall_is_exit_4(lab: Lab, backend: str, version: int) -> None:
    shell("nft add table inet allhops")
    shell("nft add chain inet allhops out { type filter hook output priority 0 ; }")
    shell("nft add rule inet allhops out meta l4proto udp drop")
    ended = lab.run([*COMMAND, "--backend", backend, "-n", str(lab.destinations[version])])
    assert ended.returncode == 4
    assert "firewall" in ended.stderr
    assert " * " not in ended.stdout


def switch_ipv6_off() -> None:
    pathlib.Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")


async def test_a_family_that_is_not_there_is_skipped_with_the_reason() -> None:
    with chain(1, families=(4,), limits="off") as lab, lab.enter():
        switch_ipv6_off()
        for backend in ("raw", "errqueue"):
            async with Prober(backend=backend) as prober:
                traces = await prober.trace_many(["2001:db8::1", lab.destinations[4], "::1"])
            assert [trace.stop_reason for trace in traces] == ["local_error", "reached", "local_error"]
            assert "2001:db8::1" in (traces[0].error or "")


# Reception


@pytest.fixture
def raw_host(lab: Lab) -> Iterator[socket.socket]:
    """A raw socket in the destination's namespace."""
    with lab.enter("host"):
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with sock:
        yield sock


def time_exceeded(quote: bytes) -> bytes:
    message = struct.pack("!BBHI", 11, 0, 0, 0) + quote
    return struct.pack("!BBHI", 11, 0, MASK - word_sum(message) % MASK, 0) + quote


async def test_a_reply_of_64_kilobytes_is_cut_and_counted(lab: Lab, raw_host: socket.socket) -> None:
    """Fragmented on the way, whole again at our socket: IP in IP in IP, as far as it goes."""
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 60_000, 1, 0, 64, 4, 0, b"\x0a\xc8\x00\x01", b"\x0a\xc8\x04\x02")
    async with Prober(backend="raw") as prober:
        for _ in range(5):
            raw_host.sendto(time_exceeded(header * 2_900), (str(lab.sources[4]), 0))
        trace = await prober.trace(lab.destinations[4])
        assert prober.counters.malformed + prober.counters.foreign == 5
    assert heard(trace) == truth(lab, 4)


@BOTH
@BACKENDS
async def test_replies_that_are_there_before_the_send_returns(lab: Lab, backend: str, version: int) -> None:
    """The real loopback answers within the send."""
    async with Prober(backend=backend) as prober:
        for destination in ("127.0.0.1" if version == 4 else "::1", lab.sources[version]):
            trace = await prober.trace(destination, attempts=10)
            assert heard(trace) == [{str(destination)}]
            assert all(probe.reply for probe in trace.hops[0].probes)
        assert prober.counters.forged == 0


class Started:
    """A command in the client's namespace; lines of its output can be waited for."""

    def __init__(self, lab: Lab, *words: str) -> None:
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", lab.client, *COMMAND, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=importing_us(),
        )
        self.said = b""

    def wait_for_lines(self, count: int) -> None:
        assert self.process.stdout is not None
        while self.said.count(b"\n") < count:
            assert select.select([self.process.stdout], (), (), PATIENCE_S)[0]
            more = os.read(self.process.stdout.fileno(), 1)
            assert more, self.process.communicate()
            self.said += more

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def end(self) -> tuple[int, list[str], str]:
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, (self.said + out).decode().splitlines(), err.decode()


def forged_error(lab: Lab, source_port: int) -> bytes:
    """A large error that quotes the flow of a trace and nothing else of it: the kernel's filter lets it through."""
    addresses = lab.sources[4].packed + lab.destinations[4].packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 60, 0, 0, 1, socket.IPPROTO_UDP, 0) + addresses
    return time_exceeded(header + struct.pack("!HHHH", source_port, 33_434, 40, 1) + bytes(400))


def test_an_overflow_is_counted_and_warned_of(lab: Lab, raw_host: socket.socket) -> None:
    """Stopped while 20,000 large forgeries come in: more than four megabytes of buffer."""
    shell("nft add table inet allhops")
    shell("nft add chain inet allhops in { type filter hook input priority 0 ; }")
    shell("nft add rule inet allhops in icmp type destination-unreachable drop")  # so that it waits
    started = Started(lab, "-n", "-q1", "-w5", "--source-port", "45678", str(lab.destinations[4]))
    started.wait_for_lines(2)
    message = forged_error(lab, 45_678)
    with started.stopped():
        for _ in range(20_000):
            raw_host.sendto(message, (str(lab.sources[4]), 0))
    status, lines, errors = started.end()
    assert status == 1
    assert "a receive buffer was full and replies were lost" in errors
    assert len(lines) > ROUTERS


async def test_an_overflow_is_counted(lab: Lab, raw_host: socket.socket) -> None:
    """The count is the kernel's: what came less what was read."""
    async with Prober(backend="raw") as prober:
        message = time_exceeded(b"E" + bytes(400))
        for _ in range(20_000):  # our loop does not run meanwhile
            raw_host.sendto(message, (str(lab.sources[4]), 0))
        assert (await prober.trace(lab.destinations[4], attempts=1, timeout=0.5)).stop_reason
        counters = prober.counters
        assert counters.kernel_drops > 1_000
        assert counters.malformed + counters.foreign + counters.kernel_drops >= 19_000


SLOW_HOST = """
schema = "allhops.scenario/1"
[vantage]
ipv4 = "192.0.2.1"
ipv6 = "2001:db8::1"
[routers.r1]
ipv4 = "10.0.0.1"
ipv6 = "2001:db8:1::1"
[routers.host]
ipv4 = "203.0.113.9"
ipv6 = "2001:db8:9::9"
[[paths]]
destination = ["203.0.113.9", "2001:db8:9::9"]
hops = [{ router = "r1", rtt_ms = 1.0 }, { router = "host", rtt_ms = 700.0 }]
"""


@BOTH
@BACKENDS
def test_a_process_that_is_stopped_loses_no_reply(tmp_path: pathlib.Path, backend: str, version: int) -> None:
    """For longer than the wait: the replies are in the socket, and the deadlines are over."""
    path = tmp_path / "slow_host.toml"
    path.write_text(SLOW_HOST)
    with tun_internet(path) as lab:
        words = ["--backend", backend, "-n", "-q2", "-w1", "-m6", str(lab.destinations[version])]
        started = Started(lab, *words)
        started.wait_for_lines(2)
        with started.stopped():
            time.sleep(2.5)
        status, lines, errors = started.end()
    assert (status, errors) == (0, "")
    assert "*" not in "".join(lines[1:])
    rtts_ms = [float(word) for word in lines[2].split() if "." in word and word.count(".") == 1]
    assert all(699 < rtt_ms < 1_000 for rtt_ms in rtts_ms)


# Destinations


@BACKENDS
async def test_link_local_addresses_need_their_interface_and_keep_it(lab: Lab, backend: str) -> None:
    with lab.enter("r1"):
        near = shell("ip -6 -o addr show dev v0f scope link").split()[3].partition("/")[0]
    async with Prober(backend=backend) as prober:
        trace = await prober.trace(f"{near}%v0n", attempts=1)
        assert trace.reached
        assert trace.destination == f"{near}%v0n"
        assert len(trace.hops) == 1
        with pytest.raises(UsageError, match="interface"):
            await prober.trace(near)
        with pytest.raises(UsageError, match="nosuch"):
            await prober.trace(f"{near}%nosuch")
        with pytest.raises((UsageError, SendError)):
            await prober.trace(f"{near}%99")


@BOTH
@BACKENDS
async def test_an_address_of_our_own_is_one_hop(lab: Lab, backend: str, version: int) -> None:
    async with Prober(backend=backend) as prober:
        trace = await prober.trace(lab.sources[version], attempts=1)
    assert (trace.stop_reason, len(trace.hops)) == (StopReason.REACHED, 1)


# Names


QUESTION_END = 5
FLAGS = {"ok": 0x8180, "servfail": 0x8182, "nx": 0x8183, "many": 0x8180, "loop": 0x8180}


def answer(query: bytes, *, is_tcp: bool) -> bytes | None:
    """What a name server answers to the first label of a question; None is silence."""
    size = query[12]
    label = query[13 : 13 + size].decode()
    kind = label.rstrip("0123456789")
    question = query[12 : query.index(b"\0", 12) + QUESTION_END]
    is_ipv4 = question[-3] == 1
    if kind not in FLAGS:
        return None
    records = b""
    if kind == "loop":
        other = b"\x05loop" + (b"2" if label == "loop1" else b"1") + question[1 + size : -4]
        records = struct.pack("!HHHIH", 0xC00C, 5, 1, 60, len(other)) + other
    elif kind in ("ok", "many") and is_ipv4:
        count = 1 if kind == "ok" else 1_000
        addresses = [b"\x0a\xc8\x04\x02"] + [struct.pack("!BBH", 198, 18, at) for at in range(1, count)]
        records = b"".join(struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + address for address in addresses)
    count = 0 if not records else 1_000 if kind == "many" else 1
    flags = FLAGS[kind]
    if kind == "many" and not is_tcp:
        flags, records, count = flags | 0x0200, b"", 0  # truncated: ask again over TCP
    return query[:2] + struct.pack("!HHHHH", flags, 1, count, 0, 0) + question + records


def serve_udp(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            query, where = sock.recvfrom(4096)
            if not query:  # shut down
                return
            told = answer(query, is_tcp=False)
            if told is not None:
                sock.sendto(told, where)


def serve_tcp(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = sock.accept()
            with client:
                (length,) = struct.unpack("!H", client.recv(2, socket.MSG_WAITALL))
                while length:
                    told = answer(client.recv(length, socket.MSG_WAITALL), is_tcp=True) or b""
                    client.sendall(struct.pack("!H", len(told)) + told)
                    (length,) = struct.unpack("!H", client.recv(2, socket.MSG_WAITALL) or b"\0\0")


@pytest.fixture
def resolving(lab: Lab) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """The command in the lab's client, whose only name server is that of the test, on the client's loopback."""
    directory = RESOLVER_DIRECTORY / lab.client
    directory.mkdir(parents=True)
    (directory / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    (directory / "nsswitch.conf").write_text("hosts: dns\n")
    (directory / "hosts").write_text("")
    udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.create_server(("127.0.0.1", 53))
    udp.bind(("127.0.0.1", 53))
    threads = [threading.Thread(target=serve_udp, args=(udp,)), threading.Thread(target=serve_tcp, args=(tcp,))]
    for thread in threads:
        thread.start()

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return lab.run([*COMMAND, *words])

    yield run
    for sock in (udp, tcp):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("name", "status", "sentence"),
    [
        ("ok.test", 0, ""),
        ("many.test", 0, ""),
        ("nx.test", 2, "no such name"),
        ("servfail.test", 2, "did not answer"),
        ("silence.test", 2, "did not answer"),
        ("loop1.test", 2, ""),
    ],
)
def test_names_that_do_not_resolve_say_why(
    resolving: Callable[..., subprocess.CompletedProcess[str]], name: str, status: int, sentence: str
) -> None:
    ended = resolving("-4", "-n", "-q1", name)
    assert ended.returncode == status, ended.stderr
    assert sentence in ended.stderr
    assert len(ended.stderr.splitlines()) == (status != 0)
    if status == 0:
        assert ended.stdout.startswith(f"traceroute to {name} (10.200.4.2)")


def test_a_name_that_hangs_holds_up_no_other(resolving: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    ended = resolving("-4", "--json", "-q1", "silence.test", "ok.test", "10.200.4.2")
    first, second, third = map(json.loads, ended.stdout.splitlines())
    assert [trace["reached"] for trace in (first, second, third)] == [False, True, True]
    assert third["duration_ms"] < 900  # the silent server alone takes a second


def test_reverse_names_that_hang_cost_half_a_second(tmp_path: pathlib.Path) -> None:
    """Names take two seconds there: the trace does not."""
    with tun_internet("slow_names") as lab:
        ended = lab.run([*COMMAND, "--json", str(lab.destinations[4])])
    trace: dict[str, Any] = json.loads(ended.stdout)
    assert trace["reached"]
    assert trace["duration_ms"] < 1_000
    assert all(probe["name"] is None for hop in trace["hops"] for probe in hop["probes"])


async def test_names_without_an_address_of_the_family(lab: Lab) -> None:
    with pytest.raises(ResolveError, match="drop the -4"):
        await allhops.trace("::1", ip_version=4)
