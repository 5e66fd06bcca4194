from __future__ import annotations

import dataclasses
import math
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.errors import UsageError
from allhops.model import Protocol
from allhops.options import TraceKeywords, TraceOptions

NUMBERS = ("first_ttl", "max_ttl", "attempts", "gap_limit", "destination_port", "source_port", "size", "tos", "timeout")


def test_keywords_are_the_fields() -> None:
    assert set(TraceKeywords.__annotations__) == {field.name for field in dataclasses.fields(TraceOptions)}


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": 11},
        {"max_ttl": 300},
        {"max_ttl": 0},
        {"first_ttl": 0},
        {"first_ttl": 20, "max_ttl": 10},
        {"timeout": math.nan},
        {"timeout": math.inf},
        {"timeout": 0.0},
        {"timeout": -1.0},
        {"timeout": 1e99},
        {"destination_port": 70_000},
        {"destination_port": 0},
        {"source_port": -1},
        {"size": 0},
        {"size": 70_000},
        {"tos": 256},
        {"gap_limit": 0},
        {"ip_version": 5},
        {"max_ttl": 30.0},
        {"attempts": "3"},
        {"timeout": "2"},
        {"attempts": True},
    ],
)
def test_impossible_options_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        TraceOptions(**options)


@given(st.sampled_from(NUMBERS), st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.none(), st.binary()))
def test_whatever_the_value_the_answer_is_options_or_usage_error(name: str, value: object) -> None:
    keywords: dict[str, Any] = {name: value}
    try:
        options = TraceOptions(**keywords)
    except UsageError:
        return
    assert getattr(options, name) == (33_434 if value is None and name == "destination_port" else value)


@pytest.mark.parametrize("protocol", Protocol)
def test_a_protocol_may_be_a_word(protocol: Protocol) -> None:
    """It equals the member; all that asks whether it is the member would take it for another one."""
    word: Any = str(protocol.value)
    assert TraceOptions(protocol=word).protocol is protocol


def test_a_source_may_be_an_address() -> None:
    source: Any = IPv4Address("192.0.2.1")
    assert TraceOptions(source=source).source == "192.0.2.1"


@pytest.mark.parametrize("interface", [b"lo", 1])
def test_an_interface_is_a_name(interface: Any) -> None:
    with pytest.raises(UsageError, match="interface must be a name such as 'eth0'"):
        TraceOptions(interface=interface)


@pytest.mark.parametrize("word", ["sctp", "UDP", "", None, 17])
def test_other_protocols_are_refused(word: Any) -> None:
    with pytest.raises(UsageError, match=f"protocol must be udp, icmp or tcp, not {word!r}"):
        TraceOptions(protocol=word)


@pytest.mark.parametrize(("protocol", "port"), [(Protocol.UDP, 33_434), (Protocol.TCP, 80), (Protocol.ICMP, None)])
def test_every_protocol_has_its_own_destination_port(protocol: Protocol, port: int | None) -> None:
    assert TraceOptions(protocol=protocol).destination_port == port


def test_contradictions_are_refused_with_a_sentence() -> None:
    with pytest.raises(UsageError, match="no ports: leave it out"):
        TraceOptions(protocol=Protocol.ICMP, destination_port=80)
    with pytest.raises(UsageError, match="leave it out, or ask for IPv6"):
        TraceOptions(ip_version=4, flow_label=5)
    with pytest.raises(UsageError, match="leave it out, or ask for IPv6"):
        TraceOptions(flow_label=5).check_flow_label(4)
    with pytest.raises(UsageError, match="flow_label must be"):
        TraceOptions(flow_label=1 << 20)
    TraceOptions(flow_label=5).check_flow_label(6)
    with pytest.raises(UsageError, match="discover_mtu chooses the size of each probe"):
        TraceOptions(discover_mtu=True, size=1_000)
    with pytest.raises(UsageError, match="choose udp or icmp"):
        TraceOptions(discover_mtu=True, protocol=Protocol.TCP)


def test_the_path_mtu_is_looked_for_with_packets_that_nobody_fragments() -> None:
    assert TraceOptions(discover_mtu=True).dont_fragment
