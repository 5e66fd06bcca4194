"""traceroute(8)'s layout to the letter; jc's traceroute parser is the judge."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.model import (
    Extension,
    Hop,
    Inherited,
    InterfaceInfo,
    InterfaceRole,
    MplsLabel,
    Probe,
    ProbeState,
    Protocol,
    Reply,
    ReplyKind,
    StopReason,
    Trace,
    UnknownObject,
    Verdict,
)
from allhops.options import TraceOptions
from allhops.output.text import TextWriter, annotation, extensions_in, row
from allhops.testing import Internet, bundled_scenarios, load_scenario
from allhops.testing.virtual import VirtualTrace

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.model import Address

GOLDEN = Path(__file__).parents[1] / "golden"
"""Written anew by `python -m tests.golden`, to be read before it is committed."""
NEAR = IPv4Address("10.78.2.2")
ALSO_NEAR = IPv4Address("10.78.4.2")
END = IPv4Address("10.77.3.2")
END6 = IPv6Address("2001:db8::9")


def reply(
    address: Address,
    rtt_ms: float | None = 1.0,
    *,
    unreachable: tuple[int, int] | None = None,
    mtu: int | None = None,
    name: str | None = None,
    extensions: tuple[Extension, ...] = (),
) -> Reply:
    kind = ReplyKind.TIME_EXCEEDED if unreachable is None else ReplyKind.UNREACHABLE
    icmp_type, icmp_code = unreachable or ((11, 0) if address.version == 4 else (3, 0))
    return Reply(
        address=address,
        kind=kind,
        rtt_ns=None if rtt_ms is None else round(rtt_ms * 1e6),
        icmp_type=icmp_type,
        icmp_code=icmp_code,
        reply_ttl=64,
        quoted_ttl=1,
        mtu=mtu,
        extensions=extensions,
        name=name,
    )


def hop(ttl: int, *replies: Reply | None, verdict: Verdict | None = None) -> Hop:
    return Hop(
        ttl=ttl,
        verdict=verdict,
        probes=tuple(
            Probe(
                attempt=attempt,
                probe_ttl=ttl,
                state=ProbeState.TIMED_OUT if heard is None else ProbeState.ANSWERED,
                reply=heard,
            )
            for attempt, heard in enumerate(replies, 1)
        ),
    )


HOST = (3, 1)
NUMERIC_ROWS = [
    (
        hop(
            1, reply(IPv4Address("10.77.1.2"), 0.057), *(reply(IPv4Address("10.77.1.2"), rtt) for rtt in (0.008, 0.006))
        ),
        " 1  10.77.1.2  0.057 ms  0.008 ms  0.006 ms",
    ),
    (
        hop(2, reply(NEAR, 0.025), reply(ALSO_NEAR, 0.024), reply(NEAR, 0.007)),
        " 2  10.78.2.2  0.025 ms 10.78.4.2  0.024 ms 10.78.2.2  0.007 ms",
    ),
    (hop(3, None, None, None), " 3  * * *"),
    (
        hop(3, reply(END, 0.117, unreachable=HOST), reply(END, 0.104, unreachable=HOST), None),
        " 3  10.77.3.2  0.117 ms !H  0.104 ms !H *",
    ),
    (hop(4, None, reply(NEAR, 2), None), " 4  * 10.78.2.2  2.000 ms *"),
    (hop(5, reply(NEAR, 1), None, reply(NEAR, 3)), " 5  10.78.2.2  1.000 ms *  3.000 ms"),
    (hop(6, reply(NEAR, 1), None, reply(ALSO_NEAR, 3)), " 6  10.78.2.2  1.000 ms * 10.78.4.2  3.000 ms"),
    (hop(12, reply(END6, 1234.5678)), "12  2001:db8::9  1234.568 ms"),
    (hop(255, None), "255  *"),
    (hop(7, reply(NEAR, None), reply(NEAR, 1)), " 7  10.78.2.2 *  1.000 ms"),
]


@pytest.mark.parametrize(("heard", "line"), NUMERIC_ROWS)
def test_rows_without_names(heard: Hop, line: str) -> None:
    assert row(heard, numeric=True) == line + "\n"


def test_rows_with_names() -> None:
    heard = hop(2, reply(NEAR, 0.025, name="gw.example"), reply(ALSO_NEAR, 0.024), None)
    assert row(heard) == " 2  gw.example (10.78.2.2)  0.025 ms 10.78.4.2 (10.78.4.2)  0.024 ms *\n"


def test_a_silent_row_is_traceroutes_to_the_letter() -> None:
    assert row(hop(3, None, None, None, verdict=Verdict.SILENT)) == " 3  * * *\n"


@pytest.mark.parametrize("verdict", set(Verdict) - {Verdict.SILENT})
def test_a_verdict_ends_the_row(verdict: Verdict) -> None:
    assert (
        row(hop(2, reply(NEAR, 1), None, verdict=verdict), numeric=True) == f" 2  10.78.2.2  1.000 ms * [{verdict}]\n"
    )
    assert row(hop(3, None, None, None, verdict=verdict)) == f" 3  * * * [{verdict}]\n"


def test_a_hop_that_another_trace_tells_has_no_times() -> None:
    far = Hop(ttl=4, probes=(), inherited=Inherited(address=IPv4Address(NEAR), destination=IPv4Address("203.0.113.7")))
    assert row(far) == f" 4  {NEAR} ({NEAR}) [inherited]\n"
    assert row(far, numeric=True) == f" 4  {NEAR} [inherited]\n"


def label(number: int, *, traffic_class: int = 0, bottom: bool = True, ttl: int = 1) -> MplsLabel:
    return MplsLabel(label=number, traffic_class=traffic_class, bottom_of_stack=bottom, ttl=ttl)


def interface(role: InterfaceRole = InterfaceRole.INCOMING, **said: Any) -> InterfaceInfo:
    return InterfaceInfo(role=role, **said)


def unread(data: str, class_num: int = 3, c_type: int = 1) -> UnknownObject:
    return UnknownObject(class_num=class_num, c_type=c_type, data=data)


# The forms are those that traceroute(8) prints, escapes included.
EXTENSIONS: list[tuple[tuple[Extension, ...], str]] = [
    ((), ""),
    ((label(24_015),), " <MPLS:L=24015,E=0,S=1,T=1>"),
    (
        (label(1_048_575, traffic_class=7, bottom=False, ttl=255), label(0)),
        " <MPLS:L=1048575,E=7,S=0,T=255/L=0,E=0,S=1,T=1>",
    ),
    ((label(16), unread("00010000c0000201", 2, 8)), " <MPLS:L=16,E=0,S=1,T=1;2/8:00010000,c0000201>"),
    ((unread(""),), " <3/1:>"),
    ((unread("0a0b0c"), unread("0a0b0c0d0e")), " <3/1:0a0b0c;3/1:0a0b0c0d,0e>"),
    ((interface(index=3),), " <INC:3>"),
    (
        (interface(index=4_294_967_295, address=END6, name="xe-0/0/1", mtu=9_192),),
        ' <INC:4294967295,2001:db8::9,"xe-0/0/1",mtu=9192>',
    ),
    ((interface(InterfaceRole.SUB_IP, name="e0"),), ' <SUB:"e0">'),
    ((interface(InterfaceRole.OUTGOING, address=NEAR, mtu=1_500),), " <OUT:10.78.2.2,mtu=1500>"),
    ((interface(InterfaceRole.NEXT_HOP),), " <NXT:>"),
    ((interface(name=r'a b%"\027\092\255>'),), ' <INC:"a%20b%25%22%1B\\%FF>">'),
    ((interface(index=1), label(16), interface(index=2)), " <INC:1;MPLS:L=16,E=0,S=1,T=1;INC:2>"),
]


@pytest.mark.parametrize(("extensions", "text"), EXTENSIONS)
def test_extensions(extensions: tuple[Extension, ...], text: str) -> None:
    assert extensions_in(reply(NEAR, extensions=extensions)) == text


def test_extensions_are_shown_on_request() -> None:
    heard = hop(2, reply(NEAR, 1, extensions=(label(16),)))
    assert row(heard, numeric=True) == " 2  10.78.2.2  1.000 ms\n"
    assert row(heard, numeric=True, extensions=True) == " 2  10.78.2.2 <MPLS:L=16,E=0,S=1,T=1>  1.000 ms\n"
    assert written(lambda writer: writer.hop(heard), extensions=True) == row(heard, extensions=True)


def test_a_responder_is_printed_again_when_its_extensions_differ() -> None:
    heard = hop(
        2,
        *(reply(NEAR, rtt, extensions=(label(number),)) for rtt, number in ((1, 16), (2, 16), (3, 17))),
        reply(NEAR, 4),
    )
    assert row(heard, numeric=True) == " 2  10.78.2.2  1.000 ms  2.000 ms  3.000 ms  4.000 ms\n"
    assert row(heard, extensions=True) == (
        " 2  10.78.2.2 (10.78.2.2) <MPLS:L=16,E=0,S=1,T=1>  1.000 ms  2.000 ms"
        " 10.78.2.2 (10.78.2.2) <MPLS:L=17,E=0,S=1,T=1>  3.000 ms 10.78.2.2 (10.78.2.2)  4.000 ms\n"
    )


ANNOTATIONS_4 = {
    0: "!N", 1: "!H", 2: "!P", 5: "!S", 6: "!N", 7: "!H", 8: "!N", 9: "!X", 10: "!X", 11: "!N", 12: "!H", 13: "!X",
    14: "!V", 15: "!C", 16: "!<16>", 255: "!<255>",
}  # fmt: skip
ANNOTATIONS = [
    *((IPv4Address("10.0.0.1"), (3, code), None, mark) for code, mark in ANNOTATIONS_4.items()),
    (IPv4Address("10.0.0.1"), (3, 4), 1400, "!F-1400"),
    (IPv4Address("10.0.0.1"), (3, 4), None, "!F-0"),
    (IPv4Address("10.0.0.1"), (12, 0), None, "!<12-0>"),
    (IPv4Address("10.0.0.1"), (11, 1), None, "!<11-1>"),
    *(
        (END6, (1, code), None, mark)
        for code, mark in {0: "!N", 1: "!X", 2: "!H", 3: "!H", 5: "!<5>", 255: "!<255>"}.items()
    ),
    (END6, (2, 0), 1280, "!F-1280"),
    (END6, (2, 0), None, "!F-0"),
    (END6, (4, 1), None, "!<4-1>"),
    (END6, (3, 1), None, "!<3-1>"),
]


@pytest.mark.parametrize(("address", "message", "mtu", "mark"), ANNOTATIONS)
def test_annotations(address: Address, message: tuple[int, int], mtu: int | None, mark: str) -> None:
    assert annotation(reply(address, unreachable=message, mtu=mtu)) == f" {mark}"


@pytest.mark.parametrize("message", [(3, 3), (0, 0), (1, 4)])
def test_arrival_is_not_annotated(message: tuple[int, int]) -> None:
    arrived = Reply(
        address=END,
        kind=ReplyKind.DESTINATION,
        rtt_ns=1,
        icmp_type=message[0],
        icmp_code=message[1],
        reply_ttl=None,
        quoted_ttl=None,
    )
    assert annotation(arrived) == ""


@pytest.mark.parametrize(
    ("destination", "address", "options", "size", "header"),
    [
        ("10.77.3.2", END, {}, 60, "traceroute to 10.77.3.2 (10.77.3.2), 30 hops max, 60 byte packets"),
        ("x.example", END6, {"max_ttl": 9}, 80, "traceroute to x.example (2001:db8::9), 9 hops max, 80 byte packets"),
        ("x\x1b[2J", END, {}, 1500, "traceroute to x[2J (10.77.3.2), 30 hops max, 1500 byte packets"),
    ],
)
def test_headers(destination: str, address: Address, options: Any, size: int, header: str) -> None:
    assert written(lambda writer: writer.begin(destination, address, TraceOptions(**options), size)) == header + "\n"


def written(tell: Callable[[TextWriter], None], *, numeric: bool = False, extensions: bool = False) -> str:
    lines: list[str] = []
    tell(TextWriter(lines.append, numeric=numeric, extensions=extensions))
    return "".join(lines)


def text_of(trace: Trace, *, numeric: bool, extensions: bool = False) -> str:
    def tell(writer: TextWriter) -> None:
        assert trace.address is not None
        writer.begin(trace.destination, trace.address, TraceOptions(), 60)
        for heard in trace.hops:
            writer.hop(heard)
        writer.end(trace)

    return written(tell, numeric=numeric, extensions=extensions)


def trace_of(address: Address, *hops: Hop) -> Trace:
    return Trace(
        destination="demo.example.net",
        address=address,
        source=None,
        protocol=Protocol.UDP,
        flow=None,
        started_at_ns=0,
        duration_ns=0,
        stop_reason=StopReason.MAX_TTL,
        hops=hops,
    )


def golden_text() -> str:
    trace = trace_of(
        END,
        hop(1, *(reply(IPv4Address("10.0.0.1"), rtt, name="gw.example.net") for rtt in (0.8124, 0.7901, 0.8013))),
        hop(2, None, None, None, verdict=Verdict.SILENT),
        hop(3, reply(NEAR, 6.1, name="br1.example.net", extensions=(label(16_001),)), None, reply(ALSO_NEAR, 6.3)),
        hop(4, *(reply(END, rtt, unreachable=(3, 13)) for rtt in (12.5, 12.25, 12.125))),
    )
    return text_of(trace, numeric=False, extensions=True)


def test_golden() -> None:
    assert golden_text() == (GOLDEN / "trace.txt").read_text()


# What jc reads must be what the trace says. jc drops a star that follows a time, so stars are not compared.


def heard_by_jc(text: str) -> list[tuple[int, list[tuple[str, str | None, float, str | None]]]]:
    parsed: Any = jc.parse("traceroute", text, quiet=True)
    return [
        (
            line["hop"],
            [
                (probe["ip"], probe["name"], probe["rtt"], probe["annotation"])
                for probe in line["probes"]
                if probe["rtt"] is not None
            ],
        )
        for line in parsed["hops"]
    ]


def heard_by_us(trace: Trace, *, numeric: bool) -> list[tuple[int, list[tuple[str, str | None, float, str | None]]]]:
    return [
        (
            heard.ttl,
            [
                (
                    str(probe.reply.address),
                    None if numeric else probe.reply.name or str(probe.reply.address),
                    float(f"{probe.reply.rtt_ns / 1e6:.3f}"),
                    annotation(probe.reply).strip() or None,
                )
                for probe in heard.probes
                if probe.reply is not None and probe.reply.rtt_ns is not None
            ],
        )
        for heard in trace.hops
    ]


# None ends in "::": jc misreads those.
ADDRESSES = {
    4: st.ip_addresses(v=4),
    6: st.integers(1, 0xFFFF).map(lambda low: IPv6Address(0x20010DB8 << 96 | 0xABCD << 64 | low)),
}
MESSAGES = {4: [None, (3, 0), (3, 1), (3, 4), (3, 13), (3, 77), (12, 0)], 6: [None, (1, 1), (1, 3), (2, 0), (4, 2)]}


# No interfaces and unknown objects: jc takes their colons for IPv6, whoever prints them.
LABELS = st.builds(label, st.integers(0, 2**20 - 1), traffic_class=st.integers(0, 7), ttl=st.integers(0, 255))


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    version = draw(st.sampled_from([4, 6]))
    few = draw(st.lists(ADDRESSES[version], min_size=1, max_size=3))
    replies = st.builds(
        reply,
        st.sampled_from(few),
        st.floats(0, 5_000),
        extensions=st.lists(LABELS, max_size=3).map(tuple),
        unreachable=st.sampled_from(MESSAGES[version]),
        mtu=st.none() | st.integers(68, 9_000),
    )
    named = {
        address: draw(st.none() | st.from_regex(r"[a-z][a-z0-9-]{0,9}\.example", fullmatch=True)) for address in few
    }
    hops = []
    for ttl in range(1, draw(st.integers(1, 5)) + 1):
        heard = draw(st.lists(st.none() | replies, min_size=1, max_size=4))
        verdict = draw(st.none() | st.sampled_from(Verdict))
        named_replies = [one and replace(one, name=named[one.address]) for one in heard]
        hops.append(hop(ttl, *named_replies, verdict=verdict))
    return trace_of(draw(ADDRESSES[version]), *hops)


@given(traces(), st.booleans(), st.booleans())
def test_jc_reads_any_trace(trace: Trace, numeric: bool, extensions: bool) -> None:
    text = text_of(trace, numeric=numeric, extensions=extensions)
    assert heard_by_jc(text) == heard_by_us(trace, numeric=numeric)


@pytest.mark.parametrize("scenario", bundled_scenarios())
def test_jc_reads_every_bundled_scenario(scenario: str) -> None:
    internet = Internet(load_scenario(scenario))
    for network in internet.scenario.paths[0].destinations:
        trace = VirtualTrace(internet, network[-1]).run()
        text = text_of(trace, numeric=True)
        parsed: Any = jc.parse("traceroute", text, quiet=True)
        assert (parsed["destination_ip"], parsed["max_hops"], parsed["data_bytes"]) == (str(trace.address), 30, 60)
        assert heard_by_jc(text) == heard_by_us(trace, numeric=True)


def sized(ttl: int, mtu: int | None, *replies: Reply | None) -> Hop:
    return replace(hop(ttl, *replies), mtu=mtu)


def test_the_size_is_shown_once_where_it_changes() -> None:
    """As `traceroute --mtu -n` of Debian 12 prints it: behind the first answer."""
    lines: list[str] = []
    writer = TextWriter(lines.append, numeric=True)
    near, end = reply(NEAR), reply(END)
    for row_ in (
        sized(1, 1500, near, near),
        sized(2, 1500, near),
        sized(3, 1400, None, None),
        sized(4, 1400, None, end, end),
        sized(5, None, None),
    ):
        writer.hop(row_)
    assert lines == [
        " 1  10.78.2.2  1.000 ms F=1500  1.000 ms\n",
        " 2  10.78.2.2  1.000 ms\n",
        " 3  * *\n",
        " 4  * 10.77.3.2  1.000 ms F=1400  1.000 ms\n",
        " 5  *\n",
    ]
