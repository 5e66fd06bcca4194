"""The command: bad input is one line and the right exit status, hosts come in order, signals keep what is known."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops import __version__
from allhops.cli import main, run
from allhops.cli.arguments import BACKENDS, read_arguments
from allhops.cli.endings import what_was_not_sent, which_flow_was_not, why_it_ended
from allhops.core.ledger import Counters
from allhops.errors import AllhopsError, CapacityError, PrivilegeError, ResolveError, SendError, UsageError
from allhops.model import Flow, Hop, MplsLabel, Probe, ProbeState, Protocol, Reply, ReplyKind, StopReason, Trace
from allhops.net import doctor, privileges, prober
from allhops.options import TraceOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from allhops.model import Address

ROUTER = IPv4Address("10.0.0.1")
END = IPv4Address("203.0.113.9")


def hop(ttl: int, address: Address | None, kind: ReplyKind = ReplyKind.TIME_EXCEEDED) -> Hop:
    codes = {ReplyKind.TIME_EXCEEDED: (11, 0), ReplyKind.DESTINATION: (3, 3), ReplyKind.UNREACHABLE: (3, 1)}
    reply = address and Reply(
        address=address,
        kind=kind,
        rtt_ns=1_000_000,
        icmp_type=codes[kind][0],
        icmp_code=codes[kind][1],
        reply_ttl=64,
        quoted_ttl=1,
    )
    state = ProbeState.ANSWERED if reply else ProbeState.TIMED_OUT
    return Hop(ttl=ttl, probes=(Probe(attempt=1, probe_ttl=ttl, state=state, reply=reply or None),))


def trace(destination: str, reason: StopReason, *hops: Hop, error: str | None = None) -> Trace:
    return Trace(
        destination=destination,
        address=END,
        source=IPv4Address("192.0.2.1"),
        protocol=Protocol.UDP,
        flow=Flow(source_port=40_000, destination_port=33_434),
        started_at_ns=0,
        duration_ns=0,
        stop_reason=reason,
        hops=hops,
        error=error,
    )


def reached(destination: str) -> Trace:
    return trace(destination, StopReason.REACHED, hop(1, ROUTER), hop(2, END, ReplyKind.DESTINATION))


class StubTracing:
    """A trace that has its rows already; one that is interrupted never ends by itself."""

    size = 60
    address = END

    def __init__(self, result: Trace, options: TraceOptions) -> None:
        self.destination = result.destination
        self.options = options
        self._result = result
        self._ended = asyncio.Event()
        if result.stop_reason is not StopReason.INTERRUPTED:
            self._ended.set()

    async def __aiter__(self) -> AsyncIterator[Hop]:
        for heard in self._result.hops:
            yield heard
        if not self._ended.is_set():
            os.kill(os.getpid(), StubProber.signal)
        await self._ended.wait()

    async def result(self) -> Trace:
        await self._ended.wait()
        return self._result

    def interrupt(self) -> None:
        self._ended.set()


class StubProber:
    """Has a result or an error for each host; a host without either hangs in the resolver."""

    results: dict[str, Trace | AllhopsError]
    refusal: AllhopsError | None
    signal: signal.Signals
    rate_pps: float | None
    backend: str
    counters: Counters

    def __init__(self, *, rate_pps: float | None = None, backend: str = "", transport: object = None) -> None:
        StubProber.rate_pps = rate_pps
        StubProber.backend = backend

    async def __aenter__(self) -> Self:
        if StubProber.refusal is not None:
            raise StubProber.refusal
        return self

    async def __aexit__(self, *exception: object) -> None:
        pass

    async def start(
        self,
        destination: str,
        options: TraceOptions,
        *,
        on_responder: Callable[[Address], None] | None = None,
        lookup: object = None,
    ) -> StubTracing:
        result = StubProber.results.get(destination)
        if result is None:
            await asyncio.get_running_loop().create_future()
        if isinstance(result, AllhopsError):
            raise result
        assert isinstance(result, Trace)
        for heard in result.hops:
            for probe in heard.probes:
                if on_responder is not None and probe.reply is not None:
                    on_responder(probe.reply.address)
        return StubTracing(result, options)


@pytest.fixture(autouse=True)
def stub_prober(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    StubProber.results = {name: reached(name) for name in ("a.example", "b.example", "c.example")}
    StubProber.refusal = None
    StubProber.signal = signal.SIGINT
    StubProber.rate_pps = None
    StubProber.backend = ""
    StubProber.counters = Counters()
    monkeypatch.setattr(run, "Prober", StubProber)
    monkeypatch.setattr(run, "ask_system", {ROUTER: "gw.example."}.get)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


# Bad input

FLOW_LABEL_FOR_IPV4 = "-l/--flow-label is for IPv6, and these probes are IPv4: leave it out, or ask for IPv6"
BAD_ARGUMENTS = [
    ([], "no HOST to trace (allhops --help lists the options)"),
    (["-q", "0", "x"], "-q/--attempts must be a whole number from 1 to 10, not 0"),
    (["-q", "11", "x"], "-q/--attempts must be a whole number from 1 to 10, not 11"),
    (["-q-1", "x"], "-q/--attempts must be a whole number from 1 to 10, not -1"),
    (["-q", "many", "x"], "-q/--attempts: write a whole number, not 'many' (allhops --help lists the options)"),
    (["-q", "9" * 5_000, "x"], None),
    (["-m", "300", "x"], "-m/--max-ttl must be a whole number from 1 to 255, not 300"),
    (
        ["-f", "9", "-m", "5", "x"],
        "-f/--first-ttl (9) is larger than -m/--max-ttl (5): lower one of them",
    ),
    (["-w", "nan", "x"], "-w/--wait must be more than 0 and at most 60 seconds, not nan"),
    (["-w", "inf", "x"], "-w/--wait must be more than 0 and at most 60 seconds, not inf"),
    (["-w", "1e99", "x"], "-w/--wait must be more than 0 and at most 60 seconds, not 1e+99"),
    (["-w", "0", "x"], "-w/--wait must be more than 0 and at most 60 seconds, not 0.0"),
    (["-w", "5,3,10", "x"], "-w/--wait: write seconds, as in 1.5, not '5,3,10' (allhops --help lists the options)"),
    (["-p", "70000", "x"], "-p/--port must be a whole number from 1 to 65535, not 70000"),
    (["--source-port", "0", "x"], "--source-port must be a whole number from 1 to 65535, not 0"),
    (["--size", "0", "x"], "--size must be a whole number from 1 to 65000, not 0"),
    (["--gap-limit", "0", "x"], "--gap-limit must be a whole number from 1 to 255, not 0"),
    (["-t", "256", "x"], "-t/--tos must be a whole number from 0 to 255, not 256"),
    (["-t", "low", "x"], None),
    (["--rate", "0", "x"], "--rate: write probes a second, more than 0, not '0' (allhops --help lists the options)"),
    (["--rate", "nan", "x"], None),
    (["-q", "5", "-q", "0", "x"], "-q/--attempts must be a whole number from 1 to 10, not 0"),
    (["-4", "-6", "x"], "-6 contradicts -4: drop one of them"),
    (["-I", "-T", "x"], "-T/--tcp contradicts -I/--icmp: drop one of them"),
    (["--tcp", "x", "--udp"], "-U/--udp contradicts -T/--tcp: drop one of them"),
    (["-UI", "x"], "-I/--icmp contradicts -U/--udp: drop one of them"),
    (["--dscp", "EF", "-t", "184", "x"], "-t/--tos contradicts --dscp: drop one of them"),
    (["-t", "0", "--dscp", "0", "x"], "--dscp contradicts -t/--tos: drop one of them"),
    (["-i", "lo", "--simulate", "demo", "x"], "-i/--interface contradicts --simulate: drop one of them"),
    (["--mtu", "--size", "1000", "x"], "--mtu contradicts --size: drop one of them"),
    (["-T", "--mtu", "x"], "--mtu needs large probes, and a TCP SYN is a small one: choose udp or icmp"),
    (["--simulate", "demo", "--backend", "raw", "x"], "--backend contradicts --simulate: drop one of them"),
    (["--backend", "magic", "x"], None),
    (
        ["-I", "-p", "53", "x"],
        "-p/--port means nothing to icmp, which has no ports: leave it out, or choose udp or tcp",
    ),
    (["-T", "-p", "0", "x"], "-p/--port must be a whole number from 1 to 65535, not 0"),
    (["-F4", "-l", "9", "x"], FLOW_LABEL_FOR_IPV4),
    (["-l", "1048576", "x"], "-l/--flow-label must be a whole number from 0 to 1048575, not 1048576"),
    (["-l", "-1", "x"], "-l/--flow-label: expected one argument (allhops --help lists the options)"),
    (
        ["-l", "blue", "x"],
        "-l/--flow-label: write a number from 0 to 1048575, as in 74565 or 0x12345, not 'blue' "
        "(allhops --help lists the options)",
    ),
    (
        ["--dscp", "64", "x"],
        "--dscp: write a number from 0 to 63 or a name such as EF, AF41 or CS5, not '64' "
        "(allhops --help lists the options)",
    ),
    (["--dscp=-1", "x"], None),
    (["--dscp", "AF44", "x"], None),
    (["--dscp", "", "x"], None),
    (
        ["-x.example"],
        "-x.example: no such option (allhops --help lists the options); write -- before a HOST that begins with -",
    ),
    (["x", "--jso"], None),
    (["x", "-m"], "-m/--max-ttl: expected one argument (allhops --help lists the options)"),
    (["x", "--evil\x1b[2J\n"], None),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD_ARGUMENTS)
def test_bad_arguments(arguments: list[str], sentence: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    line = the_one_line(capsys)
    assert sentence is None or line == f"allhops: {sentence}"


def the_one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    return err[:-1]


FLAGS = ["-4", "-6", "-n", "-e", "-U", "-I", "-T", "-F", "--json", "--"]
VALUED = [
    *("-q", "-f", "-m", "-p", "-t", "-l", "-s", "-i", "-w", "--source-port", "--size", "--dscp", "--gap-limit"),
    *("--rate", "--simulate", "--backend"),
]
ABSURD = [
    "0",
    "-1",
    "1",
    "65536",
    "70000",
    "9" * 30,
    "nan",
    "inf",
    "-inf",
    "1e99",
    "1e-99",
    "0x",
    "EF",
    "",
    " ",
    "\u0663",
]


@given(st.lists(st.text(max_size=8) | st.sampled_from([*FLAGS, *VALUED, *ABSURD, "x"])))
def test_any_arguments_are_a_request_or_a_usage_error(arguments: list[str]) -> None:
    with contextlib.suppress(UsageError, SystemExit):  # SystemExit is --help's
        assert read_arguments(arguments).hosts


ANY_VALUE = st.sampled_from(ABSURD) | st.text(max_size=8) | st.integers().map(str) | st.floats().map(str)


@given(st.sampled_from(["-U", "-I", "-T"]), st.sampled_from(VALUED), ANY_VALUE)
def test_any_value_of_any_option_is_taken_or_refused_in_one_line(protocol: str, option: str, value: str) -> None:
    StubProber.results["x"] = reached("x")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as complaints:
        status = main([protocol, option, value, "--", "x"])
    refused = complaints.getvalue()
    assert (status, refused.count("\n")) == ((2, 1) if refused else (0, 0))
    assert refused.rstrip("\n").isprintable()


ERRORS = [
    (ResolveError("x: no such name"), 2, "x: no such name"),
    (UsageError("x cannot be traced: a multicast group has no single path"), 2, None),
    (UsageError("source port 9 is in use"), 2, "x: source port 9 is in use"),
    (SendError(101, "x: no route to that network"), 4, "x: no route to that network"),
    (CapacityError("out of file descriptors"), 4, "x: out of file descriptors"),
    (UsageError("size must be at least 60 for tcp"), 2, "x: --size must be at least 60 for tcp"),
    (UsageError("leave source_port out"), 2, "x: leave --source-port out"),
]


@pytest.mark.parametrize(("error", "status", "sentence"), ERRORS)
def test_a_host_that_cannot_be_traced(
    error: AllhopsError, status: int, sentence: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    StubProber.results["x"] = error
    assert main(["x"]) == status
    assert the_one_line(capsys) == f"allhops: {sentence or error}"


def test_no_permission(capsys: pytest.CaptureFixture[str]) -> None:
    StubProber.refusal = PrivilegeError("raw sockets are not allowed: run it with sudo")
    assert main(["a.example"]) == 3
    assert the_one_line(capsys) == "allhops: raw sockets are not allowed: run it with sudo"


@pytest.mark.parametrize("scenario", ["no-such-scenario", "/nowhere/at.toml", "/dev/null", ""])
def test_a_scenario_that_cannot_be_read(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--simulate", scenario, "x"]) == 2
    the_one_line(capsys)


# Requests


def test_defaults_are_those_of_the_library() -> None:
    request = read_arguments(["a.example"])
    assert request.options == TraceOptions()
    assert (request.numeric, request.extensions, request.output) == (False, False, "text")
    assert (request.rate_pps, request.backend, request.simulate) == (None, "auto", None)


def test_letters() -> None:
    line = (
        "-6 -n -e -U -F -q 2 -m 20 -f 3 -w 1.5 -p 53 -s ::1 -i lo -t 0xb8 -l 0x12345 --source-port 4000 --size 100 "
        "--gap-limit 9 --json --rate 50 --backend raw a b"
    )
    request = read_arguments(line.split())
    assert request.hosts == ("a", "b")
    assert (request.numeric, request.extensions, request.output) == (True, True, "json")
    assert (request.rate_pps, request.backend) == (50.0, "raw")
    assert request.options == TraceOptions(
        ip_version=6, attempts=2, max_ttl=20, first_ttl=3, timeout=1.5, destination_port=53, source="::1",
        interface="lo", tos=184, source_port=4000, size=100, gap_limit=9, dont_fragment=True, flow_label=0x12345,
    )  # fmt: skip


def test_a_scenario_is_named() -> None:
    assert read_arguments(["--simulate", "demo", "x"]).simulate == "demo"


PROTOCOLS = [
    ([], Protocol.UDP, 33_434),
    (["-U"], Protocol.UDP, 33_434),
    (["--udp", "-p", "53"], Protocol.UDP, 53),
    (["-I"], Protocol.ICMP, None),
    (["--icmp", "--source-port", "7"], Protocol.ICMP, None),
    (["-T"], Protocol.TCP, 80),
    (["--tcp", "-p", "443"], Protocol.TCP, 443),
    (["-TT"], Protocol.TCP, 80),
]


@pytest.mark.parametrize(("arguments", "protocol", "port"), PROTOCOLS)
def test_each_protocol_has_its_port(arguments: list[str], protocol: Protocol, port: int | None) -> None:
    options = read_arguments([*arguments, "x"]).options
    assert (options.protocol, options.destination_port) == (protocol, port)


DSCPS = [
    *(("0", 0), ("63", 252), ("0x2e", 184), ("EF", 184), ("ef", 184), ("AF41", 136), ("AF11", 40), ("CS5", 160)),
    *(("CS0", 0), ("BE", 0), ("DF", 0), ("LE", 4), ("VA", 176), ("af43", 152)),
]


@pytest.mark.parametrize(("point", "tos"), DSCPS)
def test_dscp_is_the_upper_six_bits(point: str, tos: int) -> None:
    assert read_arguments(["--dscp", point, "x"]).options.tos == tos


def test_every_option_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert [option for option in [*FLAGS, *VALUED] if f" {option} " not in f"{out} -- ".replace(",", " ")] == []


def test_options_may_stand_between_hosts() -> None:
    assert read_arguments(["a", "-nq1", "b", "--", "-c", "--"]).hosts == ("a", "b", "-c", "--")


@pytest.mark.parametrize("flag", ["--help", "-h", "--version"])
def test_help_and_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("usage: allhops [options] HOST..." if "h" in flag else f"allhops {__version__}\n")


# Output


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["a.example"]) == 0
    assert capsys.readouterr() == (
        "traceroute to a.example (203.0.113.9), 30 hops max, 60 byte packets\n"
        " 1  gw.example (10.0.0.1)  1.000 ms\n"
        " 2  203.0.113.9 (203.0.113.9)  1.000 ms\n",
        "",
    )


def test_extensions_are_shown_with_e(capsys: pytest.CaptureFixture[str]) -> None:
    label = MplsLabel(label=16_001, traffic_class=0, bottom_of_stack=True, ttl=1)
    answer = hop(1, ROUTER).probes[0].reply
    assert answer is not None
    row = replace(hop(1, ROUTER).probes[0], reply=replace(answer, extensions=(label,)))
    StubProber.results["x"] = trace(
        "x", StopReason.REACHED, Hop(ttl=1, probes=(row,)), hop(2, END, ReplyKind.DESTINATION)
    )
    assert main(["-n", "x"]) == 0
    assert "MPLS" not in capsys.readouterr().out
    assert main(["-ne", "x"]) == 0
    assert " 1  10.0.0.1 <MPLS:L=16001,E=0,S=1,T=1>  1.000 ms\n" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["-n", "a.example"], ["--json", "a.example"]])
def test_replies_that_the_kernel_dropped_are_owned_up_to(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    StubProber.counters = Counters(kernel_drops=12)
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out
    assert err == (
        "allhops: at least 12 packets were lost here, which came faster than this machine reads: try a lower --rate\n"
    )


def test_without_names_nobody_is_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(run, "ask_system", None)
    assert main(["-n", "a.example"]) == 0
    assert " 1  10.0.0.1  1.000 ms\n" in capsys.readouterr().out


def test_hosts_come_in_the_order_given_and_the_worst_status_wins(capsys: pytest.CaptureFixture[str]) -> None:
    StubProber.results["b.example"] = ResolveError("b.example: no such name")
    StubProber.results["c.example"] = trace("c.example", StopReason.GAP_LIMIT, hop(1, ROUTER), hop(2, None))
    assert main(["c.example", "b.example", "a.example"]) == 2
    out, err = capsys.readouterr()
    assert [line.split()[2] for line in out.splitlines() if line.startswith("traceroute")] == ["c.example", "a.example"]
    assert err.splitlines() == [
        "allhops: c.example: no answer after hop 1 (gap_limit)",
        "allhops: b.example: no such name",
    ]


def test_json_has_a_line_for_each_host(capsys: pytest.CaptureFixture[str]) -> None:
    StubProber.results["b.example"] = ResolveError("b.example: no such name")
    assert main(["--json", "a.example", "b.example"]) == 2
    out, err = capsys.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert (first["destination"], first["reached"]) == ("a.example", True)
    assert [probe["name"] for heard in first["hops"] for probe in heard["probes"]] == ["gw.example", None]
    assert (second["destination"], second["stop_reason"]) == ("b.example", "local_error")
    assert second["error"] == "b.example: no such name"
    assert err == "allhops: b.example: no such name\n"


@pytest.mark.parametrize(
    ("arguments", "rate_pps"),
    [(["a.example"], None), (["a.example", "b.example"], 5_000.0), (["--rate", "7", "a.example", "b.example"], 7.0)],
)
def test_only_several_hosts_have_a_rate_by_default(arguments: list[str], rate_pps: float | None) -> None:
    assert main(arguments) == 0
    assert StubProber.rate_pps == rate_pps


def test_back_ends_are_those_of_the_prober() -> None:
    assert BACKENDS == prober.BACKENDS
    for backend in BACKENDS:
        assert main(["--backend", backend, "a.example"]) == 0
        assert StubProber.backend == backend


ENDINGS = [
    (reached("x"), 0, None),
    (
        trace("x", StopReason.UNREACHABLE, hop(1, ROUTER, ReplyKind.UNREACHABLE)),
        1,
        "x: 10.0.0.1 at hop 1 says that it cannot be reached (unreachable)",
    ),
    (trace("x", StopReason.GAP_LIMIT, hop(1, None)), 1, "x: no answer from any hop (gap_limit)"),
    (
        trace("x", StopReason.MAX_TTL, hop(1, ROUTER)),
        1,
        "x: not reached by hop 1: a larger -m looks further (max_ttl)",
    ),
    (trace("x", StopReason.LOOP, hop(1, ROUTER)), 1, "x: the path has run in a circle by hop 1 (loop)"),
    (
        trace("x", StopReason.LOCAL_ERROR, error="a local firewall blocks the probes"),
        4,
        "x: a local firewall blocks the probes (local_error)",
    ),
]


@pytest.mark.parametrize(("ended", "status", "sentence"), ENDINGS)
def test_every_trace_says_why_it_ended(
    ended: Trace, status: int, sentence: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    StubProber.results["x"] = ended
    assert main(["-n", "x"]) == status
    assert why_it_ended(ended) == sentence
    assert capsys.readouterr().err == (f"allhops: {sentence}\n" if sentence else "")


def test_stars_of_our_own_making_are_owned_up_to() -> None:
    ended = reached("x")
    unsent = Probe(attempt=2, probe_ttl=1, state=ProbeState.LOCAL_ERROR)
    row = replace(ended.hops[0], probes=(*ended.hops[0].probes, unsent))
    assert what_was_not_sent(ended) is None
    assert (
        what_was_not_sent(replace(ended, hops=(row,))) == "x: 1 of the stars is this machine's own doing: "
        "probes that could not leave, or were out when its network was down"
    )


def test_a_flow_that_was_not_constant_is_owned_up_to(capsys: pytest.CaptureFixture[str]) -> None:
    ended = replace(reached("x"), protocol=Protocol.TCP, flow_constant=False)
    assert which_flow_was_not(reached("x")) is None
    assert which_flow_was_not(replace(ended, flow=None)) is None
    StubProber.results["x"] = ended
    assert main(["-n", "x"]) == 0
    assert capsys.readouterr().err == (
        "allhops: x: without root each tcp probe has a source port of its own, "
        "so load balancers may have sent them different ways\n"
    )


# The doctor


@pytest.mark.parametrize(("verdict", "status"), [(doctor.Verdict.WORKS, 0), (doctor.Verdict.MISSING, 1)])
def test_doctor(
    verdict: doctor.Verdict, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = [doctor.Finding(topic="raw udp IPv4", verdict=verdict, says="constant flow")]
    monkeypatch.setattr(doctor, "diagnose", lambda: findings)
    assert main(["doctor"]) == status
    assert capsys.readouterr() == (f"{verdict:<7}  raw udp IPv4  constant flow\n", "")


@pytest.mark.parametrize("arguments", [["--", "doctor"], ["doctor", "-n"], ["-n", "doctor"], ["doctor", "doctor"]])
def test_a_host_may_be_named_doctor(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    StubProber.results["doctor"] = reached("doctor")
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("traceroute to doctor ")


# Under sudo

NOBODY = 65_534
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be left")


class StubTransport:
    """Takes note of when it was opened wholly."""

    def open_all(self, interface: str | None) -> None:
        UNDER_SUDO.append(f"open all of {interface}")


UNDER_SUDO: list[str] = []


@pytest.fixture
def under_sudo(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Root by sudo, as far as the command can tell; what it does about it."""
    UNDER_SUDO.clear()
    monkeypatch.setenv("SUDO_UID", str(NOBODY))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(privileges, "drop_to_caller", lambda: UNDER_SUDO.append("drop"))
    monkeypatch.setattr(StubProber, "transport", StubTransport(), raising=False)
    monkeypatch.setattr(StubProber, "start", noted(StubProber.start))
    return UNDER_SUDO


def noted(start: Any) -> Any:
    async def start_noted(*arguments: Any, **keywords: Any) -> StubTracing:
        UNDER_SUDO.append("start")
        tracing: StubTracing = await start(*arguments, **keywords)
        return tracing

    return start_noted


def test_sockets_are_opened_before_root_is_left_and_names_resolved_after(under_sudo: list[str]) -> None:
    assert main(["-n", "-i", "lo", "a.example"]) == 0
    assert under_sudo == ["open all of lo", "drop", "start"]


def test_a_simulation_needs_no_root_at_all(under_sudo: list[str]) -> None:
    assert main(["--simulate", "no-such-scenario", "x"]) == 2
    assert under_sudo == ["drop"]


def test_elsewhere_nothing_is_dropped(under_sudo: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID")
    assert main(["-n", "a.example"]) == 0
    assert under_sudo == ["start"]


def test_who_cannot_leave_root_does_not_go_on(
    under_sudo: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise PrivilegeError("root's privileges could not be given up")

    monkeypatch.setattr(privileges, "drop_to_caller", refuse)
    assert main(["-n", "a.example"]) == 3
    assert "start" not in under_sudo
    assert the_one_line(capsys) == "allhops: root's privileges could not be given up"


def after_sudo(*command: str) -> subprocess.CompletedProcess[str]:
    """Python runs this as root, called by nobody through sudo."""
    environment = {**os.environ, "SUDO_UID": str(NOBODY), "SUDO_GID": str(NOBODY)}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, env=environment)


WHOLE_RUNS = [
    ["127.0.0.1"],
    ["-I", "::1"],
    ["--json", "--backend", "errqueue", "::1"],
    ["--simulate", "demo", "203.0.113.9"],
]


@AS_ROOT
@pytest.mark.parametrize("arguments", WHOLE_RUNS)
def test_a_whole_run_after_root_was_left(arguments: list[str]) -> None:
    ended = after_sudo("-m", "allhops", "-n", *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")


LEAVE_AND_ENCODE = """
import os
from allhops.cli.sudo import leave_root

leave_root()
print(os.getresuid(), "é.example".encode("idna"))
"""


@AS_ROOT
def test_names_can_be_encoded_after_root_was_left() -> None:
    ended = after_sudo("-c", LEAVE_AND_ENCODE)
    assert (ended.stdout, ended.stderr) == (f"{(NOBODY,) * 3} b'xn--9ca.example'\n", "")


# Signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_keeps_what_is_known(number: signal.Signals, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    StubProber.signal = number
    StubProber.results["a.example"] = trace("a.example", StopReason.INTERRUPTED, hop(1, ROUTER))
    assert main(["-n", "a.example", "hangs.example", "b.example"]) == status
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "traceroute to a.example (203.0.113.9), 30 hops max, 60 byte packets",
        " 1  10.0.0.1  1.000 ms",
        "traceroute to b.example (203.0.113.9), 30 hops max, 60 byte packets",
        " 1  10.0.0.1  1.000 ms",
        " 2  203.0.113.9  1.000 ms",
    ]
    assert err == "allhops: a.example: interrupted after hop 1 (interrupted)\n"
    assert signal.getsignal(number) is signal.SIG_DFL  # so that a second one ends the process at once


def test_json_of_a_host_that_a_signal_found_in_the_resolver(capsys: pytest.CaptureFixture[str]) -> None:
    StubProber.results["a.example"] = trace("a.example", StopReason.INTERRUPTED, hop(1, ROUTER))
    assert main(["--json", "a.example", "hangs.example"]) == 130
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["stop_reason"] for line in lines] == ["interrupted", "interrupted"]
    assert [len(line["hops"]) for line in lines] == [1, 0]


# Output that fails


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["-n", "a.example"]) == 74
    assert the_one_line(capsys) == "allhops: cannot write the results: No space left on device"


def test_a_reader_that_leaves(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["-n", "a.example"]) == 0
    assert capsys.readouterr() == ("", "")


def test_no_stdout_at_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["-n", "a.example"]) == 74
    assert the_one_line(capsys) == "allhops: cannot write the results: Bad file descriptor"


def test_no_stderr_at_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert main([]) == 2
    assert capsys.readouterr().out == ""


def test_names_that_the_terminal_cannot_show(monkeypatch: pytest.MonkeyPatch) -> None:
    StubProber.results["münchen.example"] = reached("münchen.example")
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert main(["-n", "münchen.example"]) == 0
        assert raw.getvalue().startswith(rb"traceroute to m\xfcnchen.example (203.0.113.9)")


@pytest.mark.parametrize(("stdout", "status"), [("/dev/full", 74), ("/dev/null", 0)])
def test_the_interpreter_adds_no_complaint_at_exit(stdout: str, status: int) -> None:
    with open(stdout, "w") as out:
        ended = subprocess.run(
            [sys.executable, "-m", "allhops", "--version"], stdout=out, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ended.returncode, len(ended.stderr.splitlines())) == (status, 1 if status else 0)


def test_closed_descriptors_do_not_become_sockets(tmp_path: Path) -> None:
    scenario = tmp_path / "short.toml"
    scenario.write_text(SHORT_PATH)
    shell = ["sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, "-m", "allhops"]
    ended = subprocess.run(
        [*shell, "--simulate", scenario, "203.0.113.9"], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (74, "allhops: cannot write the results: Bad file descriptor\n")


# Start-up


def test_what_starting_up_may_not_import() -> None:
    code = (
        "import sys; from allhops.cli import command, run; from allhops.output import writer; writer('text', print); "
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {
        "allhops.net.doctor",
        "allhops.net.privileges",
        "ctypes",
        "dpkt",
        "json",
        "tomllib",
        "importlib.metadata",
        "numpy",
        "allhops.testing",
    } & set(loaded)


def test_what_a_batch_may_not_import() -> None:
    code = (
        "import sys; from allhops.cli import command; from allhops.cli.batch import arguments, run; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {
        "allhops.api",
        "allhops.net.doctor",
        "allhops.net.prober",
        "allhops.net.privileges",
        "allhops.output.parquet",
        "allhops.output.table_files",
        "allhops.testing",
        "importlib.metadata",
        "numpy.typing",
        "pathlib",
        "pyarrow",
        "tomllib",
    } & set(loaded)


def test_what_a_batch_has_no_use_for(tmp_path: Path) -> None:
    """Threads for matrices, and looking for garbage among what was imported."""
    empty = tmp_path / "list.txt"
    empty.touch()
    code = (
        "import gc, os; from allhops.cli import main; main(); "
        "print(os.environ['OPENBLAS_NUM_THREADS'], gc.isenabled(), gc.get_freeze_count() > 10_000)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "batch", empty, "--simulate", "synthetic:1"],
        env={name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == "1 True True\n"


# All of it together, through the real prober


def test_a_simulated_internet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    scenario = tmp_path / "short.toml"
    scenario.write_text(SHORT_PATH)
    arguments = ["--simulate", str(scenario)]
    assert main([*arguments, "end.example"]) == 0
    assert [line.split("  ")[1] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "gw.example (10.0.0.1)",
        "end.example (203.0.113.9)",
    ]
    for protocol in ("-U", "-I", "-T"):
        assert main([*arguments, "--json", protocol, "-e", "-F", "--dscp", "CS1", "end.example"]) == 0
        told = json.loads(capsys.readouterr().out)
        first = told["hops"][0]["probes"][0]
        assert (first["quoted_tos"], first["flags"]) == (32, [])
        assert "cookie" in first["matched"]
        assert (told["flow"]["destination_port"] is None) == (protocol == "-I")
        assert (told["backend"], told["flow_constant"]) == ("simulated", True)
    assert main([*arguments, "-l", "1", "end.example"]) == 2
    assert capsys.readouterr().err == f"allhops: end.example: {FLOW_LABEL_FOR_IPV4}\n"
    assert main([*arguments, "-6", "end.example"]) == 2
    assert main([*arguments, "elsewhere.example", "224.0.0.1", "0.0.0.0", "255.255.255.255", "203.0.113.9"]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("traceroute to 203.0.113.9 ")
    assert len(err.splitlines()) == 5


SHORT_PATH = """
schema = "allhops.scenario/1"
description = "Two hops"

[vantage]
ipv4 = "192.0.2.1"

[routers.gw]
ipv4 = "10.0.0.1"
name = "gw.example"

[routers.end]
ipv4 = "203.0.113.9"
name = "end.example"

[[paths]]
destination = ["203.0.113.9"]
hops = [{ router = "gw", rtt_ms = 1.0 }, { router = "end", rtt_ms = 2.0 }]
"""
