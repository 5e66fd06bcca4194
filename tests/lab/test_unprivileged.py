"""Without any privilege, over real routers and played internets: the same hops as with raw sockets, by every probe."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from allhops.testing.namespaces import Lab, chain, importing_us, tun_internet

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.lab

PROGRAM = str(pathlib.Path(__file__).with_name("unprivileged.py"))
ROUTERS = 5
BOTH = pytest.mark.parametrize("version", [4, 6])
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
PROTOCOLS = pytest.mark.parametrize("protocol", ["udp", "icmp", "tcp"])
SCENARIOS = ["chain", "mpls", "duplicates", "reordering", "nat", "lying_quotes", "short_quotes"]
OPEN_TO_ALL = "0 2147483647"


def open_ping_groups(lab: Lab) -> None:
    with lab.enter():
        pathlib.Path("/proc/sys/net/ipv4/ping_group_range").write_text(OPEN_TO_ALL)


@pytest.fixture(scope="module")
def routers() -> Iterator[Lab]:
    """A chain whose host has an open TCP port 8080, for both families."""
    with chain(ROUTERS, limits="off") as lab:
        open_ping_groups(lab)
        yield lab


def command(*words: object) -> list[str]:
    return [sys.executable, PROGRAM, *map(str, words)]


def run(lab: Lab, *words: object, **options: Any) -> dict[str, Any]:
    result = lab.run(command(*words), **options)
    assert result.returncode == 0, result.stderr
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def addresses(trace: dict[str, Any]) -> list[set[str | None]]:
    return [{probe["address"] for probe in hop} for hop in trace["hops"]]


def truth(lab: Lab, version: int) -> list[set[str | None]]:
    return [{str(address) if address else None for address in hop} for hop in lab.truth(version)]


@BOTH
@LOOPS
@PROTOCOLS
def test_what_nobody_may_see_is_what_root_sees(routers: Lab, protocol: str, loop: str, version: int) -> None:
    destination = routers.destinations[version]
    words = (destination, "--protocol", protocol, "--loop", loop)
    without = run(routers, *words)
    with_root = run(routers, *words, "--stay", "--backend", "raw")
    (trace,), (expected,) = without["traces"], with_root["traces"]
    assert trace["backend"] == "errqueue"
    assert expected["backend"] == "raw"
    assert not any(without["capabilities"].values())
    assert addresses(trace) == addresses(expected) == truth(routers, version)
    assert trace["stop_reason"] == "reached"
    assert trace["flow_constant"] == (protocol != "tcp")
    for row, expected_row in zip(trace["hops"], expected["hops"], strict=True):
        for probe, other in zip(row, expected_row, strict=True):
            assert (probe["kind"], probe["icmp"], probe["port_state"]) == (
                other["kind"],
                other["icmp"],
                other["port_state"],
            )
            assert probe["reply_ttl"] in (other["reply_ttl"], None)
            assert 0 < probe["rtt_ms"] < 50
    counters = without["counters"]
    assert counters["matched"] == counters["sent"]
    assert not any(counters[name] for name in ("foreign", "forged", "unnamed", "malformed", "kernel_drops"))


@BOTH
@PROTOCOLS
def test_processes_and_traces_at_once_never_mix(routers: Lab, protocol: str, version: int) -> None:
    """Two processes, twenty traces each at once, to one destination."""
    words = command(routers.destinations[version], "--protocol", protocol, "--traces", 20, "--max-ttl", ROUTERS + 1)
    enter = ["ip", "netns", "exec", routers.client]
    running = [
        subprocess.Popen([*enter, *words], stdout=subprocess.PIPE, env=importing_us(), text=True) for _ in range(2)
    ]
    for program in running:
        output, _ = program.communicate(timeout=60)
        told = json.loads(output)
        for trace in told["traces"]:
            assert addresses(trace) == truth(routers, version)
            assert all(probe["state"] == "answered" for hop in trace["hops"] for probe in hop)
        assert told["counters"]["matched"] == told["counters"]["sent"] == 20 * 3 * (ROUTERS + 1)
        assert not any(told["counters"][name] for name in ("foreign", "forged", "duplicate", "late"))


def test_closed_ping_groups_say_what_would_open_them(routers: Lab) -> None:
    with chain(1, limits="off") as lab:
        result = lab.run(command(lab.destinations[4], "--protocol", "icmp"))
    assert result.returncode != 0
    assert "ping_group_range='0 2147483647'" in result.stderr


def test_few_descriptors_are_enough_for_tcp(routers: Lab) -> None:
    words = command(routers.destinations[4], "--protocol", "tcp", "--max-ttl", ROUTERS + 1)
    result = routers.run(["sh", "-c", 'ulimit -n 32 && exec "$@"', "sh", *words])
    assert result.returncode == 0, result.stderr
    (trace,) = json.loads(result.stdout)["traces"]
    assert addresses(trace) == truth(routers, 4)


@pytest.mark.needs("tcpdump")
@PROTOCOLS
@pytest.mark.parametrize(
    ("version", "words", "seen"),
    [
        (4, ["--tos", 184], "tos 0xb8, ttl 2, .* flags \\[none\\], .* length 60"),
        (4, ["--tos", 184, "--dont-fragment"], "tos 0xb8, ttl 2, .* flags \\[DF\\], .* length 60"),
        (6, ["--tos", 184], "\\(class 0xb8, hlim 2, .* payload length: 40"),
        (6, ["--flow-label", 0x12345], "flowlabel 0x12345, hlim 2, .* payload length: 40"),
    ],
)
def test_the_header_is_that_of_raw_sockets(
    routers: Lab, version: int, words: list[object], seen: str, protocol: str
) -> None:
    """The kernel writes what we would: no DF unless asked, no flow label of its own, the size to the byte."""
    destination = routers.destinations[version]
    watch = ["ip", "netns", "exec", routers.client, "tcpdump", "-c", "1", "-nvli", "v0n", "--immediate-mode"]
    with subprocess.Popen(
        [*watch, f"dst {destination}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as dump:
        assert dump.stderr is not None
        dump.stderr.readline()  # it listens now
        row = ("--first-ttl", 2, "--max-ttl", 2, "--attempts", 1)
        run(routers, destination, "--protocol", protocol, *row, *words)
        output, _ = dump.communicate(timeout=10)
    assert re.search(seen, output), output


# Played internets, with real delays


@PROTOCOLS
@BOTH
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_hop_is_ever_wrong(scenario: str, version: int, protocol: str) -> None:
    """A row may be silent; it may not be somebody else's."""
    with tun_internet(scenario) as lab:
        if version not in lab.destinations:
            pytest.skip(f"{scenario} has no IPv{version}")
        open_ping_groups(lab)
        told = run(lab, lab.destinations[version], "--protocol", protocol)
        possible = truth(lab, version)
    (trace,) = told["traces"]
    assert trace["stop_reason"] in ("reached", "gap_limit"), trace
    for row, may_be in zip(addresses(trace), possible, strict=False):
        assert row <= may_be | {None}


@BOTH
def test_a_row_asked_alone_is_named_although_its_router_quotes_8_bytes(version: int) -> None:
    """In the burst the replies of rows 2 and 3 name nobody; asked alone they are known, and say on what evidence."""
    with tun_internet("short_quotes") as lab:
        possible = truth(lab, version)
        (trace,) = run(lab, lab.destinations[version])["traces"]
    for ttl, evidence in ((1, "mark"), (2, "alone"), (3, "alone"), (6, "mark"), (7, "mark")):
        for probe in trace["hops"][ttl - 1]:
            assert {probe["address"]} == possible[ttl - 1]
            assert evidence in probe["matched"]
            assert ("short_quote" in probe["flags"]) == (evidence == "alone")


@BOTH
def test_labels_are_read_from_the_error_queue(version: int) -> None:
    with tun_internet("mpls") as lab:
        without = run(lab, lab.destinations[version])
        with_root = run(lab, lab.destinations[version], "--stay", "--backend", "raw")
    (trace,), (expected,) = without["traces"], with_root["traces"]
    extensions = [[probe["extensions"] for probe in hop] for hop in trace["hops"]]
    assert extensions == [[probe["extensions"] for probe in hop] for hop in expected["hops"]]
    assert any("label" in text for hop in extensions for text in hop)


@BOTH
def test_it_is_as_fast_as_raw_sockets(version: int) -> None:
    """Within 10 % over a path with the delays of the real world; the best of many, because the machine is shared."""
    without, with_root = [], []
    with tun_internet("chain") as lab:
        words = (lab.destinations[version], "--loop", "asyncio", "--one-by-one", "--traces", 20)
        for _ in range(5):  # while somebody else keeps the machine busy
            without += [trace["duration_ms"] for trace in run(lab, *words)["traces"]]
            with_root += [trace["duration_ms"] for trace in run(lab, *words, "--stay")["traces"]]
            if min(without) <= 1.1 * min(with_root):
                return
    raise AssertionError(f"{min(without)} ms without root, {min(with_root)} ms with it")


# sudo


def test_sudo_opens_sockets_and_is_gone(routers: Lab, tmp_path: pathlib.Path) -> None:
    """Raw sockets are open, everything else is the caller's, and there is no way back."""
    caller = {**importing_us(), "SUDO_UID": "1000", "SUDO_GID": "1000"}
    told = run(routers, routers.destinations[4], "--sudo", env=caller)
    assert told["uid"] == [1000, 1000, 1000]
    assert told["capabilities"] == {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapAmb": 0}
    (trace,) = told["traces"]
    assert trace["backend"] == "raw"
    assert addresses(trace) == truth(routers, 4)


@PROTOCOLS
@BOTH
def test_sudo_leaves_every_probe_possible(routers: Lab, protocol: str, version: int) -> None:
    caller = {**importing_us(), "SUDO_UID": "1000", "SUDO_GID": "1000"}
    told = run(routers, routers.destinations[version], "--sudo", "--protocol", protocol, env=caller)
    (trace,) = told["traces"]
    assert trace["backend"] == "raw"
    assert addresses(trace) == truth(routers, version)


def test_there_is_no_way_back_and_files_are_the_callers(tmp_path: pathlib.Path) -> None:
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    script = f"""
import os
from allhops.net import privileges
assert privileges.drop_to_caller() == privileges.Dropped(uid=1000, gid=1000)
assert not any(privileges.capabilities().values())
assert os.getgroups() == [1000]
for way_back in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
    try:
        way_back()
    except PermissionError:
        continue
    raise SystemExit("root again")
status = open("/proc/self/status").read()
assert "NoNewPrivs:\\t1" in status
assert "CapBnd:\\t0000000000000000" in status
open({str(tmp_path / "out")!r}, "w").close()
"""
    caller = {**importing_us(), "SUDO_UID": "1000", "SUDO_GID": "1000"}
    result = subprocess.run([sys.executable, "-c", script], env=caller, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    status = os.stat(tmp_path / "out")
    assert (status.st_uid, status.st_gid) == (1000, 1000)


def test_root_called_by_root_keeps_no_capability() -> None:
    """sudo from a root shell: the user id stays 0, the privileges do not."""
    script = """
import socket
from allhops.net import privileges
assert privileges.drop_to_caller() == privileges.Dropped(uid=0, gid=0)
assert not any(privileges.capabilities().values())
try:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
except PermissionError:
    pass
else:
    raise SystemExit("raw sockets are allowed still")
"""
    caller = {**importing_us(), "SUDO_UID": "0", "SUDO_GID": "0"}
    result = subprocess.run([sys.executable, "-c", script], env=caller, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
