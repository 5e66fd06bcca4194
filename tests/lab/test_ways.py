"""Ways of thousands of destinations, most of them not asked about, are what the kernel says of each."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from ipaddress import IPv4Address, ip_network
from typing import TYPE_CHECKING

import numpy as np
import pytest

from allhops.net.batch import routes
from allhops.net.batch.alike import MOST_ENTRIES, alike
from allhops.net.batch.group import Group
from allhops.net.batch.wire import Way
from allhops.options import TraceOptions
from allhops.testing.namespaces import chain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from allhops.errors import AllhopsError
    from allhops.testing.namespaces import Lab

pytestmark = pytest.mark.lab

KINDS = ("unicast", "unicast", "unicast", "local", "blackhole", "unreachable", "prohibit", "throw", "broadcast")
TABLES = ("main", "main", "local", "100", "101")
ROUTES, RULES = 80, 8
DESTINATIONS = 4_000
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2


@pytest.fixture
def lab() -> Iterator[Lab]:
    with chain(1) as lab:
        for command in (
            "link add second0 type veth peer name second1",
            "addr add 10.9.0.1/24 dev second0",
            "link set second0 up",
            "link set second1 up",
        ):
            assert ip(lab, command) == ""
        yield lab


def ip(lab: Lab, *commands: str) -> str:
    """What it complains of: some of a random lot are refused."""
    return lab.run(["ip", "-force", "-batch", "-"], input="\n".join(commands)).stderr


def prefix(chance: random.Random) -> str:
    length = chance.randint(3, 32)
    return str(ip_network((chance.randrange(1 << 24, 224 << 24) >> 32 - length << 32 - length, length)))


def route(chance: random.Random, router: object) -> str:
    kind, table = chance.choice(KINDS), chance.choice(TABLES)
    hop = {
        "unicast": chance.choice(
            [f"via {router}", f"via {router} src 10.9.0.1", "via 10.9.0.77", "dev second0", "dev second0 src 10.9.0.1"]
        ),
        "local": chance.choice(["dev lo", "dev second0", "dev lo src 10.9.0.1"]),
        "broadcast": "dev second0",
    }.get(kind, "")
    return f"route add {kind} {prefix(chance)} {hop} table {table} metric {chance.randint(0, 9)}"


def rule(chance: random.Random) -> str:
    which = chance.choice([f"to {prefix(chance)}", f"not to {prefix(chance)}", "fwmark 7", f"from {prefix(chance)}"])
    then = chance.choice(["lookup 100", "lookup 101", "lookup main suppress_prefixlength 0", "prohibit"])
    return f"rule add {which} {then} priority {chance.randint(1, 30_000)}"


def destinations(lab: Lab, chance: random.Random) -> Group:
    """At random, and around the ends of every prefix that there is."""
    shown = lab.run(["ip", "route", "show", "table", "all"]).stdout + lab.run(["ip", "rule"]).stdout
    prefixes = [ip_network(word) for word in shown.split() if word[0].isdigit() and "." in word]
    ends = [int(end) for one in prefixes for end in (one[0], one[-1])]
    near = [end + aside for end in ends for aside in (-1, 0, 1)]
    numbers = [*near, *(chance.randrange(1 << 32) for _ in range(DESTINATIONS)), 1, 0xE0000001, 0xF0000000, 0xFFFFFFFF]
    chance.shuffle(numbers)
    return Group.of([IPv4Address(number) for number in numbers if 0 <= number < 1 << 32])


def ways(group: Group, options: TraceOptions) -> list[Way | tuple[type, str]]:
    found = routes.ways(group, options)
    kinds: Sequence[Way | AllhopsError] = found.kinds
    told = [kind if isinstance(kind, Way) else (type(kind), str(kind)) for kind in kinds]
    return [told[which] for which in found.of.tolist()]


@pytest.mark.parametrize("seed", range(6))
def test_ways_are_what_the_kernel_says_of_each(lab: Lab, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    (router,) = lab.truth()[0]
    ip(lab, *(route(chance, router) for _ in range(ROUTES)), *(rule(chance) for _ in range(RULES)))
    group = destinations(lab, chance)
    for options in (TraceOptions(), TraceOptions(source="10.9.0.1"), TraceOptions(interface="second0")):
        with lab.enter():
            models = alike(group.keys)
            told = ways(group, options)
            with monkeypatch.context() as patch:
                patch.setattr(routes, "alike", lambda keys: None)
                each = ways(group, options)
        assert told == each
        assert models is not None
        assert len(np.unique(models)) < len(group) / 4


def test_next_hops_that_share_a_route_are_asked_about_for_each(lab: Lab) -> None:
    keys = np.arange(0xC6336400, 0xC6336500, dtype=np.uint32)
    with lab.enter():
        assert ip(lab, "route add 10.8.0.0/16 nexthop via 10.9.0.2 nexthop via 10.9.0.3") == ""
        assert alike(keys) is None
        ip(lab, "route del 10.8.0.0/16")
        assert alike(keys) is not None
        assert ip(lab, "nexthop add id 7 via 10.9.0.2 dev second0", "route add 10.8.0.0/16 nhid 7") == ""
        assert alike(keys) is None


def test_too_many_routes_are_not_read(lab: Lab) -> None:
    keys = np.arange(4, dtype=np.uint32)
    commands = (f"route add 11.{number >> 8}.{number & 255}.0/24 dev second0" for number in range(MOST_ENTRIES))
    assert ip(lab, *commands) == ""
    with lab.enter():
        assert alike(keys) is None


def test_what_the_kernel_has_learned_of_one_destination_is_its_own(lab: Lab) -> None:
    """A path MTU here; it keeps redirects in the same place."""
    host = lab.destinations[4]
    keys = np.array([int(host) + 1, int(host)], np.uint32)
    lab.run(["ip", "link", "set", "v1n", "mtu", "1300"], node="r1")
    with lab.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        before = alike(keys)
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sock.connect((str(host), 33434))
        with suppress(OSError):  # "message too long", once the router has said so
            while True:
                sock.send(bytes(1400))
        after = alike(keys)
    assert before is not None
    assert after is not None
    assert (before.tolist(), after.tolist()) == ([0, 0], [0, 1])
