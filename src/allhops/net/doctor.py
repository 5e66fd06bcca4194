"""What works here, proven on the loopback, and the exact command that enables more.

Every back end, protocol and IP version is tried with a real trace to 127.0.0.1 and ::1; nothing is sent anywhere else.
Limits are read from /proc. One finding a line. This file changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import resource
import socket
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from allhops.errors import AllhopsError, PrivilegeError
from allhops.model import Protocol
from allhops.net.prober import Prober
from allhops.options import TraceOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
TRIAL_TIMEOUT_S = 1.0
ENOUGH_BUFFER = 4 << 20
"""Bytes of net.core.rmem_max that hold some 10,000 ICMP errors."""
ENOUGH_DESCRIPTORS = 1024
ENOUGH_PORTS = 10_000
_PROC = pathlib.Path("/proc/sys/net")
_PING_COMMAND = "sudo sysctl -w net.ipv4.ping_group_range='0 2147483647'"
_RAW_COMMAND = 'sudo "$(command -v allhops)" DESTINATION'


class Verdict(StrEnum):
    """How a finding is to be read."""

    WORKS = "works"
    LIMITED = "limited"
    """Less than could be, and traces are right all the same."""
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fact about this machine. `command` enables more; None where there is nothing to enable."""

    topic: str
    verdict: Verdict
    says: str
    command: str | None = None


def diagnose() -> list[Finding]:
    """Try everything; takes a second at most for each back end that does not work. Runs an event loop of its own."""
    return asyncio.run(examine())


async def examine() -> list[Finding]:
    """`diagnose` inside a running event loop."""
    versions = [version for version in LOOPBACK if _has(version)]
    findings = [_family(version) for version in LOOPBACK]
    for backend in ("raw", "errqueue"):
        for protocol in Protocol:
            findings += [await _trial(backend, protocol, version) for version in versions]
    return [*findings, _ping_groups(), _buffers(), _descriptors(), _ports()]


def is_fit(findings: Iterable[Finding]) -> bool:
    """Whether some trace can be made: the exit status of `allhops doctor`."""
    return any(
        finding.verdict is Verdict.WORKS and finding.topic.startswith(("raw ", "errqueue ")) for finding in findings
    )


def render(findings: Iterable[Finding]) -> str:
    """One line a finding, columns aligned, each command on the line of what it enables."""
    findings = list(findings)
    width = max((len(finding.topic) for finding in findings), default=0)
    lines = []
    for finding in findings:
        hint = f" -> {finding.command}" if finding.command else ""
        lines.append(f"{finding.verdict:<7}  {finding.topic:<{width}}  {finding.says}{hint}")
    return "\n".join(lines)


# Back ends


async def _trial(backend: str, protocol: Protocol, version: int) -> Finding:
    """A real trace over the loopback."""
    topic = f"{backend} {protocol} IPv{version}"
    try:
        with _closed_port(protocol, version) as port:
            options = TraceOptions(
                protocol=protocol, destination_port=port, max_ttl=1, attempts=1, timeout=TRIAL_TIMEOUT_S
            )
            async with Prober(backend=backend) as prober:
                trace = await prober.trace_with(LOOPBACK[version], options)
    except PrivilegeError:
        needs, command = _enabling(backend, protocol)
        return Finding(topic=topic, verdict=Verdict.MISSING, says=needs, command=command)
    except AllhopsError as error:
        return Finding(topic=topic, verdict=Verdict.MISSING, says=str(error))
    if not trace.reached:
        says = trace.error or "the loopback did not answer: a local firewall, or icmp_ratelimit on lo"
        return Finding(topic=topic, verdict=Verdict.MISSING, says=says)
    says = "constant flow" if trace.flow_constant else "a source port for each probe: the flow is not constant"
    return Finding(topic=topic, verdict=Verdict.WORKS, says=says)


@contextlib.contextmanager
def _closed_port(protocol: Protocol, version: int) -> Iterator[int | None]:
    """A TCP port of the loopback that is ours and refuses: nobody's service is disturbed. Other probes need none."""
    if protocol is not Protocol.TCP:
        yield None
        return
    with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6) as sock:
        sock.bind((LOOPBACK[version], 0))
        yield sock.getsockname()[1]


def _enabling(backend: str, protocol: Protocol) -> tuple[str, str | None]:
    """What is missing, and the command that gives it."""
    if backend == "raw":
        return "needs root, or CAP_NET_RAW for this one process", _RAW_COMMAND
    if protocol is Protocol.ICMP:
        return "needs a group of yours in ping_group_range", _PING_COMMAND
    return "this kernel or its sandbox has no error queues", None


# Limits


def _has(version: int) -> bool:
    """Whether the family is there and its loopback address is up."""
    try:
        with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind((LOOPBACK[version], 0))
    except OSError:
        return False
    return True


def _family(version: int) -> Finding:
    if _has(version):
        return Finding(topic=f"IPv{version}", verdict=Verdict.WORKS, says="on")
    key = "net.ipv6.conf.all.disable_ipv6"
    command = f"sudo sysctl -w {key}=0" if version == 6 and _read("ipv6/conf/all/disable_ipv6") else None
    return Finding(topic=f"IPv{version}", verdict=Verdict.MISSING, says="off", command=command)


def _ping_groups() -> Finding:
    """Ping sockets are open to a range of groups (icmp(7)); the kernel's default is none: 1 0."""
    low, high = (_read("ipv4/ping_group_range") or [1, 0])[:2]
    groups = {os.getegid(), *os.getgroups()}
    is_ours = any(low <= group <= high for group in groups)
    return Finding(
        topic="ping_group_range",
        verdict=Verdict.WORKS if is_ours else Verdict.LIMITED,
        says=f"{low} to {high}: ICMP without root is {'open' if is_ours else 'closed'} to your groups",
        command=None if is_ours else _PING_COMMAND,
    )


def _buffers() -> Finding:
    (size,) = _read("core/rmem_max") or [0]
    enough = size >= ENOUGH_BUFFER
    return Finding(
        topic="rmem_max",
        verdict=Verdict.WORKS if enough else Verdict.LIMITED,
        says=f"{size} bytes hold some {2 * size // 832} ICMP errors a socket",
        command=None if enough else f"sudo sysctl -w net.core.rmem_max={ENOUGH_BUFFER}",
    )


def _descriptors() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= ENOUGH_DESCRIPTORS
    says = f"{soft}: TCP without root has {soft // 2} probes under way at most"
    wanted = ENOUGH_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_DESCRIPTORS)
    return Finding(
        topic="open files",
        verdict=Verdict.WORKS if enough else Verdict.LIMITED,
        says="no limit" if soft == resource.RLIM_INFINITY else says,
        command=None if enough else f"ulimit -n {wanted}",
    )


def _ports() -> Finding:
    """TCP without root takes a port of this range for each probe (ip(7))."""
    low, high = (_read("ipv4/ip_local_port_range") or [0, 0])[:2]
    enough = high - low >= ENOUGH_PORTS
    return Finding(
        topic="ip_local_port_range",
        verdict=Verdict.WORKS if enough else Verdict.LIMITED,
        says=f"{low} to {high}",
        command=None if enough else "sudo sysctl -w net.ipv4.ip_local_port_range='32768 60999'",
    )


def _read(key: str) -> list[int]:
    """Whole numbers of a file under /proc/sys/net; none when it cannot be read."""
    try:
        return [int(word) for word in (_PROC / key).read_text().split()]
    except (OSError, ValueError):
        return []
