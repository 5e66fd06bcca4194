"""The installed command as a process: signals once and twice, readers that leave or stand still, few descriptors.

Every trace here goes through a scenario file or to the loopback.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import pathlib
import resource
import select
import signal
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Any

import pytest

from allhops.testing.namespaces import importing_us

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 30.0
"""Far longer than anything takes: what a test waits for is an event, never a time."""
NEVER_ENDS = """
schema = "allhops.scenario/1"
[vantage]
ipv4 = "192.0.2.1"
[routers.r1]
ipv4 = "10.0.0.1"
[routers.r2]
ipv4 = "10.0.0.2"
[routers.host]
ipv4 = "198.18.0.1"
[[paths]]
destination = "198.18.0.0/16"
hops = [{ router = "r1", rtt_ms = 1.0 }, { router = "r2", rtt_ms = 2.0 }, { router = "host", rtt_ms = 600000.0 }]
"""
ROWS = [" 1  10.0.0.1  1.000 ms", " 2  10.0.0.2  2.000 ms"]


def command() -> list[str]:
    """The script that pip installed, or what it runs."""
    script = pathlib.Path(sys.executable).with_name("allhops")
    return [str(script)] if script.exists() else [sys.executable, "-m", "allhops"]


@pytest.fixture
def scenario(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "never_ends.toml"
    path.write_text(NEVER_ENDS)
    return str(path)


class Running:
    """A command under way; its output can be waited for."""

    def __init__(self, *words: str, pipe_bytes: int | None = None, **options: Any) -> None:
        self.process = subprocess.Popen(
            [*command(), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**importing_us(), "PYTHONUNBUFFERED": ""},
            **options,
        )
        assert self.process.stdout is not None
        self.stdout = self.process.stdout
        if pipe_bytes is not None:
            fcntl.fcntl(self.stdout, fcntl.F_SETPIPE_SZ, pipe_bytes)
        self.said = b""

    def wait_for_lines(self, count: int) -> None:
        while self.said.count(b"\n") < count:
            assert select.select([self.stdout], (), (), PATIENCE_S)[0], self.said
            more = os.read(self.stdout.fileno(), 1)
            assert more, self.process.communicate()
            self.said += more

    def end(self) -> tuple[int, list[str], str]:
        """(exit status, lines of stdout, stderr)."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, (self.said + out).decode().splitlines(), err.decode()


@pytest.fixture
def running(scenario: str) -> Iterator[list[Running]]:
    """What a test started: none of it survives."""
    started: list[Running] = []
    yield started
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def start(running: list[Running], *words: str, **options: Any) -> Running:
    running.append(Running(*words, **options))
    return running[-1]


def test_the_command_is_there() -> None:
    ended = subprocess.run([*command(), "--version"], capture_output=True, text=True, check=True, env=importing_us())
    assert ended.stdout.startswith("allhops ")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("output", ["text", "json"])
def test_a_signal_prints_what_is_known(
    running: list[Running], scenario: str, number: signal.Signals, status: int, output: str
) -> None:
    words = ["-n", "-q1", "-w60", "--simulate", scenario, "198.18.0.1"]
    under_way = start(running, *words)
    under_way.wait_for_lines(3)
    if output == "json":  # it prints at the end alone: the same time to the same rows has gone by, and a spare one
        under_way.process.kill()
        under_way = start(running, "--json", *words)
        wait_until_it_sleeps(under_way)
    under_way.process.send_signal(number)
    ended, lines, errors = under_way.end()
    assert ended == status
    assert "Traceback" not in errors
    if output == "text":
        assert lines[1:] == ROWS
        assert errors == "allhops: 198.18.0.1: interrupted after hop 2 (interrupted)\n"
    else:
        (trace,) = map(json.loads, lines)
        assert trace["stop_reason"] == "interrupted"
        assert [hop["probes"][0]["address"] for hop in trace["hops"]] == ["10.0.0.1", "10.0.0.2"]


def wait_until_it_sleeps(under_way: Running) -> None:
    """Until the process has asked for nothing but to wait for half a second, in its event loop."""
    calm_since = time.monotonic()
    before = -1
    give_up_at = calm_since + PATIENCE_S
    while time.monotonic() - calm_since < 0.5:
        assert time.monotonic() < give_up_at
        spent = sum(map(int, pathlib.Path(f"/proc/{under_way.process.pid}/stat").read_text().split()[13:15]))
        is_listening = os.path.exists(f"/proc/{under_way.process.pid}/fd/5")  # the loop's own
        if spent != before or not is_listening:
            before, calm_since = spent, time.monotonic()
        time.sleep(0.02)


def waiting_bytes(pipe: Any) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def is_writing(process: subprocess.Popen[bytes]) -> bool:
    """Whether it is blocked in write(2) to its standard output."""
    try:
        number, first, *_ = pathlib.Path(f"/proc/{process.pid}/syscall").read_text().split()
    except (OSError, ValueError):  # "running"
        return False
    return (number, int(first, 16)) == ("1", 1)


def wait_until_it_writes(under_way: Running) -> None:
    give_up_at = time.monotonic() + PATIENCE_S
    while not is_writing(under_way.process):
        assert time.monotonic() < give_up_at
        assert under_way.process.poll() is None
        time.sleep(0.01)


HOSTS = [f"198.18.1.{last}" for last in range(1, 91)]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="number 1 is write(2) on x86-64 alone")
def test_a_second_signal_ends_it_at_once(running: list[Running], scenario: str) -> None:
    """The first has it print what is known of ninety hosts, into a pipe that nobody reads."""
    words = ["-n", "-q1", "-w60", "--simulate", scenario, *HOSTS]
    under_way = start(running, *words, pipe_bytes=4096)
    under_way.wait_for_lines(3)
    under_way.process.send_signal(signal.SIGINT)
    wait_until_it_writes(under_way)
    under_way.process.send_signal(signal.SIGINT)
    assert under_way.process.wait(PATIENCE_S) == -signal.SIGINT


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="number 1 is write(2) on x86-64 alone")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_reader_that_stands_still_does_not_keep_two_signals_from_it(
    running: list[Running], scenario: str, number: signal.Signals
) -> None:
    """It is in the middle of a write when the first comes, so the loop never hears of it."""
    words = ["-n", "-q1", "-w0.3", "--simulate", scenario, *HOSTS]
    under_way = start(running, *words, pipe_bytes=4096)
    wait_until_it_writes(under_way)
    under_way.process.send_signal(number)
    status = pathlib.Path(f"/proc/{under_way.process.pid}/status")
    while any(
        line.startswith(("SigPnd", "ShdPnd")) and int(line.split()[1], 16) for line in status.read_text().splitlines()
    ):
        time.sleep(0.01)
    wait_until_it_writes(under_way)
    under_way.process.send_signal(number)
    assert under_way.process.wait(PATIENCE_S) == -number


def test_a_reader_that_leaves_ends_it_quietly(running: list[Running], scenario: str) -> None:
    """As `| head -1` does: the next row finds nobody."""
    under_way = start(running, "-n", "-q1", "-w0.3", "--simulate", scenario, *HOSTS[:5])
    under_way.wait_for_lines(1)
    under_way.stdout.close()
    assert under_way.process.wait(PATIENCE_S) == 0
    assert under_way.process.stderr is not None
    errors = under_way.process.stderr.read().decode()
    assert all("(gap_limit)" in line for line in errors.splitlines())


def test_head_is_such_a_reader(scenario: str) -> None:
    line = '"$@" | head -1; exit ${PIPESTATUS[0]}'
    words = [*command(), "-n", "-q1", "-w0.3", "--json", "--simulate", scenario, *HOSTS[:5]]
    ended = subprocess.run(
        ["bash", "-c", line, "bash", *words],
        capture_output=True,
        text=True,
        check=False,
        env=importing_us(),
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["destination"] == HOSTS[0]


def test_sighup_under_nohup_is_ignored(running: list[Running], scenario: str) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    under_way = start(running, "-n", "-q1", "-w0.5", "--simulate", scenario, "198.18.0.1", preexec_fn=ignore)
    under_way.wait_for_lines(1)
    under_way.process.send_signal(signal.SIGHUP)
    status, lines, _ = under_way.end()
    assert status == 1
    assert lines[1:3] == ROWS


def test_a_stop_and_a_continue_lose_nothing(running: list[Running], scenario: str) -> None:
    """SIGSTOP for longer than any deadline; over real sockets, see the lab."""
    under_way = start(running, "-n", "-q1", "-w60", "--simulate", scenario, "198.18.0.1")
    under_way.wait_for_lines(1)
    under_way.process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    under_way.process.send_signal(signal.SIGCONT)
    under_way.wait_for_lines(3)
    under_way.process.send_signal(signal.SIGINT)
    assert under_way.end()[1][1:] == ROWS


@pytest.mark.parametrize("words", [["-n"], ["-n", "-T", "-p1"]], ids=["udp", "tcp"])
def test_64_descriptors_are_enough(words: list[str]) -> None:
    """`ulimit -n 64`, to the loopback, ten times at once."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    ended = subprocess.run(
        [*command(), *words, *["127.0.0.1"] * 10], capture_output=True, text=True, check=False, env=importing_us(),
        preexec_fn=few, timeout=PATIENCE_S,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count(" 1  127.0.0.1") == 10


@pytest.mark.parametrize(
    "words",
    [
        ["-q0"],
        ["-m", "-1"],
        ["-w", "nan"],
        ["-w", "1e99"],
        ["-p", "70000"],
        ["-m", "9" * 5000],
        ["--rate", "0"],
        ["-x"],
    ],
    ids=lambda words: " ".join(words)[:12],
)
def test_absurd_options_are_one_line_and_status_2(words: list[str]) -> None:
    ended = subprocess.run(
        [*command(), *words, "127.0.0.1"], capture_output=True, text=True, check=False, env=importing_us()
    )
    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (2, "", 1)


@pytest.mark.parametrize(
    "host",
    [
        *("", "x" * 300, "a b", "0x7f.1", "010.1.1.1", "1", "[::1", "::ffff:0.0.0.0", "224.0.0.1", "255.255.255.255"),
        *("240.0.0.1", "0.0.0.0", "::", "fe80::1", "fe80::1%nosuch0", "10.0.0.0/8", "10.0.0.1:80", "\x1b[2J/"),
    ],
)
def test_impossible_destinations_are_one_line_and_status_2(host: str) -> None:
    ended = subprocess.run([*command(), "--", host], capture_output=True, text=True, check=False, env=importing_us())
    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (2, "", 1)
    assert ended.stderr[:-1].isprintable()
