"""Labs of real kernels: network namespaces joined by veth pairs, or one behind a TUN device.

Nothing here is ever linked to the namespace it is built from, so no packet has
a way out. Names begin with `allhops-PID-`; what a killed process left behind is
removed by the next one that builds a lab. Linux, root.

    with chain(3) as lab:
        lab.run(["traceroute", "-n", str(lab.destinations[4])])
        with lab.enter():
            ...  # sockets made by this thread are the client's
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import pathlib
import pickle
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Literal

from allhops.errors import AllhopsError, UsageError
from allhops.testing.internet import Internet
from allhops.testing.scenario import Scenario
from allhops.testing.scenario_file import load_scenario
from allhops.testing.tun import PICKLED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from allhops.model import Address
    from allhops.testing.synthetic import SyntheticInternet

CLONE_NEWNET = 0x40000000
NETNS_DIRECTORY = pathlib.Path("/run/netns")
RESOLVER_DIRECTORY = pathlib.Path("/etc/netns")
READY_SECONDS = 10.0

Limits = Literal["default", "off"] | dict[str, int]
"""What routers and host allow themselves in ICMP errors: the kernel's defaults, no limit, or these sysctls."""

NO_LIMITS = {
    "icmp_ratelimit": 0,
    "icmp_ratemask": 0,
    "icmp_msgs_per_sec": 100_000_000,
    "icmp_msgs_burst": 50_000_000,
    "ipv6/icmp/ratelimit": 0,
}

FIRST_NAMESPACE_ONLY = frozenset({"icmp_msgs_per_sec", "icmp_msgs_burst"})
"""Limits of the whole machine before Linux 6.13, so that a lab can do without setting them."""

ROUTER_SYSCTLS = {
    "ipv4/ip_forward": 1,
    "ipv6/conf/all/forwarding": 1,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
    "ipv4/conf/all/send_redirects": 0,
    "ipv4/conf/default/send_redirects": 0,
    "ipv6/conf/all/accept_dad": 0,
    "ipv6/conf/default/accept_dad": 0,
    "ipv6/conf/default/accept_ra": 0,
    "ipv6/conf/default/router_solicitations": 0,
    "ipv4/fib_multipath_hash_policy": 1,
    "ipv6/fib_multipath_hash_policy": 1,
}
"""Of every node, under /proc/sys/net. Hash policy 1 takes the ports in."""

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(1)


class LabError(AllhopsError):
    """A lab could not be built; the message has what `ip` or the program in it said."""


@dataclass(slots=True, kw_only=True)
class Lab:
    """A client namespace and what it can reach.

    `nodes` maps roles ("client", "r1", ..., "host") to names of namespaces;
    `destinations` maps 4 and 6 to the destination's address.
    """

    nodes: Mapping[str, str]
    sources: Mapping[int, Address]
    destinations: Mapping[int, Address]
    paths: Mapping[int, tuple[frozenset[Address | None], ...]]
    """For every TTL from 1, the responders it can show, by family."""
    internet: Internet | None = None
    """Of a TUN lab: a second `Internet` of the same scenario, for `Internet.truth`."""
    counters: dict[str, int] = field(default_factory=dict)
    """Of a TUN lab, once it has ended: what its program counted."""

    def __repr__(self) -> str:
        return f"<Lab {self.client} [{len(self.nodes)} namespaces]>"

    @property
    def client(self) -> str:
        """Name of the client's namespace."""
        return self.nodes["client"]

    def truth(self, version: int = 4) -> tuple[frozenset[Address | None], ...]:
        """For every TTL from 1, the responders it can show, destination included."""
        return self.paths[version]

    def run(self, argv: Sequence[str], *, node: str = "client", **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program in a node's namespace; `options` are those of subprocess.run, output is captured as text."""
        options = {"capture_output": True, "text": True, "timeout": 60, "env": importing_us(), **options}
        result: subprocess.CompletedProcess[str] = subprocess.run(
            ["ip", "netns", "exec", self.nodes[node], *argv], check=False, **options
        )
        return result

    @contextlib.contextmanager
    def enter(self, node: str = "client") -> Iterator[None]:
        """Move the current thread into a node's namespace: sockets and threads made meanwhile stay there."""
        with entered(self.nodes[node]):
            yield


@contextlib.contextmanager
def entered(namespace: str) -> Iterator[None]:
    """Move the current thread into the network namespace of that name, and back."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(NETNS_DIRECTORY / namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _setns(here)
    finally:
        os.close(here)


def _setns(descriptor: int) -> None:
    """setns(2) of the calling thread; os.setns is Python 3.12's."""
    if _libc.setns(descriptor, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def importing_us() -> dict[str, str]:
    """The environment in which a child imports this same allhops, installed or not."""
    root = str(pathlib.Path(__file__).parents[2])
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{before}" if before else root}


def remove_stale() -> None:
    """Remove namespaces and resolver directories of processes that are no more."""
    for directory in (NETNS_DIRECTORY, RESOLVER_DIRECTORY):
        for entry in directory.glob("allhops-*-*") if directory.is_dir() else ():
            match = re.match(r"allhops-(\d+)-", entry.name)
            if match and not pathlib.Path("/proc", match[1]).exists():
                _remove(entry.name)


def _remove(name: str) -> None:
    shutil.rmtree(RESOLVER_DIRECTORY / name, ignore_errors=True)
    if (NETNS_DIRECTORY / name).exists():
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@contextlib.contextmanager
def _namespaces(roles: Sequence[str], limits: Limits) -> Iterator[dict[str, str]]:
    """New namespaces, one for each role, with sysctls set and lo up."""
    remove_stale()
    prefix = f"allhops-{os.getpid()}-{next(_numbers)}"
    nodes = {role: f"{prefix}-{role}" for role in roles}
    try:
        _batch([f"netns add {name}" for name in nodes.values()])
        for name in nodes.values():
            _set_sysctls(name, {**ROUTER_SYSCTLS, **_limit_sysctls(limits)})
        yield nodes
    finally:
        for name in nodes.values():
            _remove(name)


def _limit_sysctls(limits: Limits) -> dict[str, int]:
    if limits == "default":
        return {}
    chosen = NO_LIMITS if limits == "off" else limits
    return {key if "/" in key else f"ipv4/{key}": value for key, value in chosen.items()}


def _set_sysctls(namespace: str, values: Mapping[str, int]) -> None:
    with entered(namespace):
        for key, value in values.items():
            path = pathlib.Path("/proc/sys/net", key)
            try:
                path.write_text(str(value))
            except OSError as error:
                if path.name in FIRST_NAMESPACE_ONLY and isinstance(error, FileNotFoundError):
                    continue
                raise LabError(f"{path} = {value} in {namespace}: {error.strerror}") from None


def _batch(lines: Sequence[str], namespace: str | None = None) -> None:
    """Run many `ip` commands in one process, which takes a fifth of a millisecond for each instead of three."""
    where = ["-netns", namespace] if namespace else []
    result = subprocess.run(
        ["ip", *where, "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise LabError(f"ip {' '.join(where)} -batch: {result.stderr.strip()}")


End = Literal["near", "far"]
PREFIX_LENGTHS = {4: 24, 6: 64}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Link:
    """A veth pair between two roles: `near` has address 1 of its subnet, `far` address 2."""

    number: int
    near: str
    far: str

    def address(self, version: int, end: End) -> Address:
        last = 1 if end == "near" else 2
        if version == 4:
            return IPv4Address(f"10.200.{self.number}.{last}")
        return IPv6Address(f"fd00:200:{self.number:x}::{last}")

    def subnet(self, version: int) -> str:
        return f"10.200.{self.number}.0/24" if version == 4 else f"fd00:200:{self.number:x}::/64"

    def device(self, end: End) -> str:
        return f"v{self.number}{end[0]}"

    def mac(self, end: End) -> str:
        return f"02:00:00:00:{self.number:02x}:{1 if end == 'near' else 2:02x}"

    def creation(self, nodes: Mapping[str, str]) -> str:
        near = f"{self.device('near')} address {self.mac('near')} netns {nodes[self.near]}"
        far = f"{self.device('far')} address {self.mac('far')} netns {nodes[self.far]}"
        return f"link add {near} type veth peer name {far}"

    def end_setup(self, end: End, families: Sequence[int]) -> list[str]:
        """Addresses of one end, and its neighbour as known for good: resolving it would cost IPv6 a second."""
        device = self.device(end)
        other: End = "far" if end == "near" else "near"
        lines = [f"link set {device} up"]
        for version in families:
            nodad = " nodad" if version == 6 else ""
            lines.append(f"addr add {self.address(version, end)}/{PREFIX_LENGTHS[version]} dev {device}{nodad}")
            neighbour = f"{self.address(version, other)} lladdr {self.mac(other)}"
            lines.append(f"neigh add {neighbour} dev {device} nud permanent")
        return lines


def _join(
    nodes: Mapping[str, str], links: Sequence[_Link], families: Sequence[int], routes: Mapping[str, list[str]]
) -> None:
    """Make the veth pairs, then give every node its addresses and its `routes` in one go."""
    _batch([link.creation(nodes) for link in links])
    for role, name in nodes.items():
        lines = ["link set lo up"]
        for link in links:
            if link.near == role:
                lines += link.end_setup("near", families)
            if link.far == role:
                lines += link.end_setup("far", families)
        _batch([*lines, *routes.get(role, [])], name)


@contextlib.contextmanager
def chain(n_routers: int, *, families: Sequence[int] = (4, 6), limits: Limits = "default") -> Iterator[Lab]:
    """A client, `n_routers` routers in a row and a host, all Linux.

    Every TTL shows the address at which its router received the probe.
    """
    if not 0 <= n_routers <= 200:
        raise UsageError(f"n_routers: must be from 0 to 200, not {n_routers}")
    roles = ["client", *(f"r{number}" for number in range(1, n_routers + 1)), "host"]
    links = [_Link(number=at, near=near, far=far) for at, (near, far) in enumerate(itertools.pairwise(roles))]
    routes: dict[str, list[str]] = {role: [] for role in roles}
    for version in families:
        for at, role in enumerate(roles):
            if at < len(links):
                routes[role].append(f"route add default via {links[at].address(version, 'far')}")
            for earlier in links[: max(0, at - 1)]:
                routes[role].append(f"route add {earlier.subnet(version)} via {links[at - 1].address(version, 'near')}")
    with _namespaces(roles, limits) as nodes:
        _join(nodes, links, families, routes)
        yield Lab(
            nodes=nodes,
            sources={version: links[0].address(version, "near") for version in families},
            destinations={version: links[-1].address(version, "far") for version in families},
            paths={version: tuple(frozenset({link.address(version, "far")}) for link in links) for version in families},
        )


@contextlib.contextmanager
def diamond(width: int = 2, *, families: Sequence[int] = (4, 6), limits: Limits = "default") -> Iterator[Lab]:
    """A client, a router that balances over `width` branches of one router each, one that joins them, and a host.

    The balancing is the kernel's own, by addresses, protocol and ports. Over IPv4
    the joining router answers from its address on the first branch, where its
    route back goes; over IPv6 from the one where the probe came in.
    """
    if not 2 <= width <= 64:
        raise UsageError(f"width: must be from 2 to 64, not {width}")
    branches = [f"b{number}" for number in range(1, width + 1)]
    roles = ["client", "fork", *branches, "join", "host"]
    first = _Link(number=0, near="client", far="fork")
    outward = [_Link(number=1 + at, near="fork", far=branch) for at, branch in enumerate(branches)]
    inward = [_Link(number=1 + width + at, near=branch, far="join") for at, branch in enumerate(branches)]
    last = _Link(number=1 + 2 * width, near="join", far="host")
    routes: dict[str, list[str]] = {role: [] for role in roles}
    for version in families:
        _diamond_routes(routes, version, (first, outward, inward, last))
    with _namespaces(roles, limits) as nodes:
        _join(nodes, [first, *outward, *inward, last], families, routes)
        yield Lab(
            nodes=nodes,
            sources={version: first.address(version, "near") for version in families},
            destinations={version: last.address(version, "far") for version in families},
            paths={
                version: (
                    frozenset({first.address(version, "far")}),
                    frozenset(link.address(version, "far") for link in outward),
                    frozenset(link.address(version, "far") for link in (inward if version == 6 else inward[:1])),
                    frozenset({last.address(version, "far")}),
                )
                for version in families
            },
        )


def _diamond_routes(
    routes: dict[str, list[str]], version: int, links: tuple[_Link, list[_Link], list[_Link], _Link]
) -> None:
    first, outward, inward, last = links
    hops = " ".join(f"nexthop via {link.address(version, 'far')}" for link in outward)
    routes["client"].append(f"route add default via {first.address(version, 'far')}")
    routes["fork"].append(f"route add {last.subnet(version)} {hops}")
    for out, into in zip(outward, inward, strict=True):
        routes[out.far].append(f"route add {last.subnet(version)} via {into.address(version, 'far')}")
        routes[out.far].append(f"route add {first.subnet(version)} via {out.address(version, 'near')}")
    routes["join"].append(f"route add {first.subnet(version)} via {inward[0].address(version, 'near')}")
    routes["host"].append(f"route add default via {last.address(version, 'near')}")


@contextlib.contextmanager
def tun_internet(scenario: str | pathlib.Path | Scenario) -> Iterator[Lab]:
    """A namespace whose every route leads into a scenario, played by `allhops.testing.tun`.

    `scenario` is a file, the name of a bundled one, or one made by `generate`. With a name server in it,
    programs started by `Lab.run` resolve names there. `destinations` and `paths`
    are those of the scenario's first path in each family.
    """
    loaded = scenario if isinstance(scenario, Scenario) else load_scenario(scenario)
    with _namespaces(["client"], "default") as nodes, _as_file(scenario) as source:
        client = nodes["client"]
        if loaded.dns:
            (RESOLVER_DIRECTORY / client).mkdir(parents=True)
            resolver = f"nameserver {loaded.dns.address}\noptions timeout:5 attempts:1\n"
            (RESOLVER_DIRECTORY / client / "resolv.conf").write_text(resolver)
        lab = _tun_lab(nodes, loaded)
        with _playing(lab, "allhops.testing.tun", source):
            yield lab


@contextlib.contextmanager
def synthetic_internet(internet: SyntheticInternet) -> Iterator[Lab]:
    """A namespace whose every IPv4 route leads into this internet, played by `allhops.testing.fast_tun`.

    The lab has its first destination; the truth is the internet's to tell.
    """
    first = IPv4Address(int(internet.destinations()[0]))
    with _namespaces(["client"], "default") as nodes:
        lab = Lab(nodes=nodes, sources={4: internet.source}, destinations={4: first}, paths={})
        with _playing(lab, "allhops.testing.fast_tun", json.dumps(internet.arguments)):
            yield lab


@contextlib.contextmanager
def _playing(lab: Lab, program: str, argument: str) -> Iterator[None]:
    """Run the program behind the client's TUN device meanwhile; its counters are the lab's afterwards."""
    argv = ["ip", "netns", "exec", lab.client, sys.executable, "-m", program, argument]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=importing_us()
    ) as player:
        try:
            _wait_until_ready(player)
            yield
        finally:
            _, errors = player.communicate()  # closes its standard input, which ends it
            lab.counters.update(_counters(errors))


@contextlib.contextmanager
def _as_file(scenario: str | pathlib.Path | Scenario) -> Iterator[str]:
    """What to call a scenario on a command line; one that was made in memory goes through a file of its own."""
    if not isinstance(scenario, Scenario):
        yield str(scenario)
        return
    with tempfile.NamedTemporaryFile(suffix=PICKLED) as file:
        pickle.dump(scenario, file)
        file.flush()
        yield file.name


def _tun_lab(nodes: Mapping[str, str], scenario: Scenario) -> Lab:
    internet = Internet(scenario)
    destinations: dict[int, Address] = {}
    for path in scenario.paths:
        for network in path.destinations:
            destinations.setdefault(network.version, network.network_address)
    sources = {4: scenario.vantage.ipv4, 6: scenario.vantage.ipv6}
    return Lab(
        nodes=nodes,
        sources={version: address for version, address in sources.items() if address},
        destinations=destinations,
        paths={version: internet.possible(address) for version, address in destinations.items()},
        internet=internet,
    )


def _wait_until_ready(program: subprocess.Popen[bytes]) -> None:
    assert program.stdout is not None  # it was asked for
    deadline = time.monotonic() + READY_SECONDS
    said = b""
    while b"\n" not in said:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([program.stdout], (), (), left)[0]:
            program.kill()
            raise LabError(f"the TUN internet was not ready within {READY_SECONDS:g} s")
        more = os.read(program.stdout.fileno(), 4096)
        if not more:
            raise LabError(f"the TUN internet did not start: {_rest(program)}")
        said += more


def _rest(program: subprocess.Popen[bytes]) -> str:
    assert program.stderr is not None  # it was asked for
    return program.stderr.read().decode(errors="replace").strip()


def _counters(errors: bytes) -> dict[str, int]:
    """What the program counted: the JSON object on its last line of standard error."""
    lines = errors.decode(errors="replace").splitlines()
    try:
        values = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
