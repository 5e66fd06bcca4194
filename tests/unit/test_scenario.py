"""Scenario files: what they say arrives with its units; what is wrong is said in one sentence."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import tomllib
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

import pytest

from allhops.errors import UsageError
from allhops.testing import Internet, bundled_scenarios, load_scenario, parse_scenario
from allhops.testing.scenario import (
    LINUX_GLOBAL_LIMIT,
    LINUX_LIMIT,
    LINUX_LIMIT_IPV6,
    Balancing,
    Diamond,
    ExtensionObject,
    Extensions,
    HostBehaviour,
    IcmpError,
    Limit,
    MplsLabel,
    NameServer,
    Nat,
    Path,
    Rewrite,
    Router,
    Scenario,
    Stage,
    Step,
    Vantage,
)
from allhops.testing.scenario_file import BUNDLED

SMALL = """
schema = "allhops.scenario/1"
[routers.a]
ipv4 = "10.0.0.1"
[routers.b]
ipv4 = "10.0.0.2"
[routers.host]
[[paths]]
destination = "203.0.113.9"
hops = [{ router = "a", rtt_ms = 1.5 }, { router = "host", rtt_ms = 30 }]
"""


def with_router(lines: str) -> str:
    return SMALL.replace("[routers.host]\n", f"[routers.host]\n{lines}\n")


def with_hops(hops: str) -> str:
    return SMALL[: SMALL.index("hops =")] + f"hops = {hops}\n"


def test_times_become_nanoseconds() -> None:
    (path,) = parse_scenario(SMALL).paths
    assert path.hops == (Step(router="a", rtt_ns=1_500_000), Step(router="host", rtt_ns=30_000_000))


def test_an_address_and_a_prefix_are_destinations() -> None:
    text = SMALL.replace('"203.0.113.9"', '["203.0.113.9", "198.18.0.0/15", "2001:db8::/48"]')
    text = text.replace('ipv4 = "10.0.0.1"', 'ipv4 = "10.0.0.1"\nipv6 = "2001:db8::2"')
    assert parse_scenario(text).paths[0].destinations == (
        IPv4Network("203.0.113.9/32"),
        IPv4Network("198.18.0.0/15"),
        IPv6Network("2001:db8::/48"),
    )


def test_keys_share_the_round_trip_time_that_stands_beside_them() -> None:
    text = with_hops('[{ any_of = ["a", "b"], by = "packet", rtt_ms = 8 }, { router = "host", rtt_ms = 9 }]')
    diamond = parse_scenario(text).paths[0].hops[0]
    branches = ((Step(router="a", rtt_ns=8_000_000),), (Step(router="b", rtt_ns=8_000_000),))
    assert diamond == Diamond(branches=branches, by=Balancing.PACKET)


def test_branches_may_differ_in_length() -> None:
    text = with_hops('[{ any_of = [[], [{ router = "a", rtt_ms = 1 }]] }, { router = "host", rtt_ms = 9 }]')
    diamond = parse_scenario(text).paths[0].hops[0]
    assert isinstance(diamond, Diamond)
    assert [len(branch) for branch in diamond.branches] == [0, 1]


def test_defaults_hold_for_every_router_that_does_not_say_otherwise() -> None:
    text = SMALL.replace("[routers.a]", "[defaults]\nreply_ttl = 255\n[routers.a]\nreply_ttl = 30")
    routers = parse_scenario(text).routers
    assert [routers[key].reply_ttl for key in ("a", "b", "host")] == [30, 255, 255]


def test_nested_tables_are_read() -> None:
    router = parse_scenario(
        with_router(
            """
limit = { burst = 6, per_second = 1 }
icmp = { type = 3, code = 13, stage = "ingress" }
rewrite = { payload = "00 ff", source = "192.0.2.9" }
extensions = { mpls = [{ label = 16, ttl = 3 }], objects = [{ class = 2, type = 8, data = "00" }] }
"""
        )
    ).routers["host"]
    assert router.limit == Limit(burst=6, per_second=1.0)
    assert router.icmp is not None
    assert router.icmp.stage is Stage.INGRESS
    assert router.rewrite is not None
    assert router.rewrite.payload == b"\x00\xff"
    assert router.rewrite.source == IPv4Address("192.0.2.9")
    assert router.extensions is not None
    assert router.extensions.mpls == (MplsLabel(label=16, ttl=3),)
    assert router.extensions.objects[0].data == b"\x00"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "s.toml: is not TOML: Invalid value"),
        ("", "s.toml: schema is missing"),
        (SMALL.replace("/1", "/9"), "s.toml: schema: 'allhops.scenario/9' is not known"),
        (SMALL + "nonsense = 1\n", "s.toml: paths[0].nonsense: unknown key; known are: destination"),
        ("nonsense = 1\n" + SMALL, "s.toml: nonsense: unknown key"),
        (with_router("slient = true"), "s.toml: routers.host.slient: unknown key; did you mean silent?"),
        (with_router("loss = 2"), "s.toml: routers.host.loss: must be a number from 0 to 1, not 2"),
        (with_router("duplicate = true"), "routers.host.duplicate: must be an integer from 0 to 1000, not True"),
        (with_router('ipv4 = "::1"'), "routers.host.ipv4: must be an IPv4 address"),
        (with_router("limit = { burst = 6 }"), "routers.host.limit: per_second is missing"),
        (with_router("limit = 6"), "routers.host.limit: must be a table"),
        (with_router('rewrite = { payload = "0g" }'), "routers.host.rewrite.payload: must be hexadecimal bytes"),
        (with_router('host = { udp = "open" }'), 'routers.host.host.udp: must be one of "unreachable", "reply"'),
        (with_router("extensions = { mpls = [{ label = 1048576 }] }"), "extensions.mpls.label: must be an integer"),
        (SMALL.replace("203.0.113.9", "203.0.113.9/24"), "must be an address or a prefix without host bits"),
        (SMALL.replace('router = "a"', 'router = "z"'), "there is no router 'z'; add [routers.z]"),
        (with_hops("[]"), "paths[0]: hops is empty"),
        (with_hops('[{ router = "a" }]'), "paths[0].hops: rtt_ms is missing"),
        (with_hops('[{ any_of = ["a", "b"], rtt_ms = 1 }]'), "hops ends in any_of"),
        (with_hops('[{ any_of = ["a", "b"] }]'), "hops.any_of: must be arrays of hops, or router keys with rtt_ms"),
        (with_hops("[{ any_of = [], rtt_ms = 1 }]"), "any_of: is empty"),
        (SMALL + "loop_from = 3\n", "paths[0].loop_from: 3 is not the TTL of a hop; use 1 to 2"),
        (SMALL.replace("203.0.113.9", "2001:db8::9"), "router 'a' has no IPv6 address to answer from"),
        (SMALL + '[dns]\naddress = "192.0.2.53"\n[dns.ptr]\nx = "y"\n', "dns.ptr.x: the key must be an address"),
    ],
)
def test_a_mistake_is_named(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_scenario(text, origin="s.toml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("s.toml: ")


def test_a_missing_bundled_scenario_is_named() -> None:
    with pytest.raises(UsageError, match=r"nowhere: no such scenario; bundled are: .*demo"):
        load_scenario("nowhere")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml: cannot be read"):
        load_scenario("nowhere.toml")


def test_values_can_be_made_without_a_file() -> None:
    routers = {"a": Router(key="a", ipv4=IPv4Address("10.0.0.1")), "host": Router(key="host")}
    hops = (Step(router="a", rtt_ns=1), Step(router="host", rtt_ns=2))
    scenario = Scenario(routers=routers, paths=(Path(destinations=(IPv4Network("203.0.113.9"),), hops=hops),))
    assert Internet(scenario).truth("203.0.113.9")[1].is_destination


@pytest.mark.parametrize("name", bundled_scenarios())
def test_every_bundled_scenario_says_what_it_shows_and_can_be_played(name: str) -> None:
    text = (BUNDLED / f"{name}.toml").read_text()
    assert text.startswith("# ")
    assert tomllib.loads(text)["description"]
    scenario = load_scenario(name)
    internet = Internet(scenario)
    for path in scenario.paths:
        for network in path.destinations:
            assert internet.possible(network.network_address)


def test_the_rate_limited_scenario_is_linux() -> None:
    for router in load_scenario("rate_limited").routers.values():
        assert (router.limit, router.limit_ipv6) == (LINUX_LIMIT, LINUX_LIMIT_IPV6)
        assert router.global_limit == LINUX_GLOBAL_LIMIT


IN_FILES = {
    "jitter_ns": "jitter_ms",
    "rtt_ns": "rtt_ms",
    "class_num": "class",
    "c_type": "type",
    "destinations": "destination",
    "branches": "any_of",
}
NOT_IN_FILES = {"key", "origin"}


@pytest.mark.parametrize(
    "kind",
    [
        *(Scenario, Router, Path, Step, Diamond, Limit, MplsLabel),
        *(ExtensionObject, Extensions, HostBehaviour, IcmpError, NameServer, Nat, Rewrite, Vantage),
    ],
)
def test_the_documentation_has_every_key(kind: Any) -> None:
    text = re.sub(r"(?s)```.*?```", "", (pathlib.Path(__file__).parents[2] / "docs/lab.md").read_text())
    documented = {word for span in re.findall(r"`([^`]+)`", text) for word in re.findall(r"\w+", span)}
    keys = {IN_FILES.get(field.name, field.name) for field in dataclasses.fields(kind)} - NOT_IN_FILES
    assert keys <= documented


def test_the_documentation_has_every_bundled_scenario() -> None:
    text = (pathlib.Path(__file__).parents[2] / "docs/lab.md").read_text()
    assert all(f"* `{name}`: " in text for name in bundled_scenarios())
