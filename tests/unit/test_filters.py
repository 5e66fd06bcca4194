"""The BPF programs, run by a small machine of its own: what it lets through and what not."""

from __future__ import annotations

import pytest

from allhops.model import Protocol
from allhops.net.filters import MOST_EXPECTED, Expected, answers_about, answers_to
from allhops.testing.packets import ACK, FIN, LAYOUTS, RST, SYN
from allhops.wire.family import FAMILIES
from allhops.wire.probes import LAYOUTS as PROBE_LAYOUTS
from benchmarks.replies import COOKIE, changed, echo_reply, error_about, plan_for, probe_of, tcp_answer, valid_replies


def passes(program: list[tuple[int, int, int, int]], data: bytes) -> bool:
    """Classic BPF, as much of it as the programs use."""
    accumulator = index = at = 0
    while True:
        opcode, if_true, if_false, k = program[at]
        at += 1
        if opcode == 0xB1:
            index = (data[k] & 15) * 4
        elif opcode == 0x01:
            index = k
        elif opcode == 0x50:
            accumulator = data[index + k]
        elif opcode == 0x40:
            if len(data) < index + k + 4:
                return False
            accumulator = int.from_bytes(data[index + k : index + k + 4])
        elif opcode == 0x80:
            accumulator = len(data)
        elif opcode == 0x64:
            accumulator <<= k
        elif opcode in (0x0C, 0x1C):
            accumulator += index if opcode == 0x0C else -index
        elif opcode == 0x07:
            index = accumulator
        elif opcode == 0x05:
            at += k
        elif opcode == 0x35:
            at += if_true if accumulator >= k else if_false
        elif opcode == 0x48:
            if len(data) < index + k + 2:
                return False
            accumulator = int.from_bytes(data[index + k : index + k + 2])
        elif opcode == 0x54:
            accumulator &= k
        elif opcode == 0x15:
            at += if_true if accumulator == k else if_false
        elif opcode == 0x45:
            at += if_true if accumulator & k else if_false
        else:
            assert opcode == 0x06
            return k > 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("port", [40_000, 40_001])
@pytest.mark.parametrize("others", [(), (1,), (1, 65_535), tuple(range(100, 900))])
def test_only_answers_to_our_ports_pass(version: int, port: int, others: tuple[int, ...]) -> None:
    program = answers_to(FAMILIES[version], (*others, 40_000))
    probe = probe_of(plan_for(Protocol.TCP, version, source_port=port))
    start = 0 if version == 4 else LAYOUTS[version].header_bytes
    for flags in range(64):
        wanted = bool(flags & RST) or flags & (SYN | ACK) == SYN | ACK
        assert passes(program, tcp_answer(probe, flags)[start:]) is (wanted and port == 40_000)


@pytest.mark.parametrize("version", [4, 6])
def test_without_leases_nothing_passes(version: int) -> None:
    start = 0 if version == 4 else 40
    answer = tcp_answer(probe_of(plan_for(Protocol.TCP, version)))[start:]
    assert not passes(answers_to(FAMILIES[version], ()), answer)


def test_a_program_stays_below_the_kernels_limit() -> None:
    answer = tcp_answer(probe_of(plan_for(Protocol.TCP, 4)))
    data = tcp_answer(probe_of(plan_for(Protocol.TCP, 4)), ACK | FIN)
    for ports in (range(1, 2001), range(1, 10_000)):
        program = answers_to(FAMILIES[4], ports)
        assert len(program) <= 4096
        assert passes(program, answer) is (len(ports) > 2000)
        assert not passes(program, data)


PORT = 40_000
PROBE_TYPES = [(protocol, version) for protocol in Protocol for version in (4, 6)]


def shown(version: int, packet: bytes) -> bytes:
    """A packet as a raw socket shows it to its filter."""
    return packet if version == 4 else packet[40:]


def about(version: int, *, port: int = PORT, cookie: bytes = COOKIE) -> list[tuple[int, int, int, int]]:
    """A filter for a trace by each protocol, and for others beside it."""
    layouts = [PROBE_LAYOUTS[protocol, version] for protocol in Protocol]
    ours = [Expected(layout, port, cookie) for layout in layouts]
    return answers_about(FAMILIES[version], [Expected(layouts[0], 1, b"abcd"), *ours, Expected(layouts[1], 2, b"efgh")])


def is_icmp(version: int, packet: bytes) -> bool:
    return packet[9 if version == 4 else 6] == FAMILIES[version].icmp_protocol


@pytest.mark.parametrize(("protocol", "version"), PROBE_TYPES)
def test_icmp_passes_by_flow_and_by_cookie(protocol: Protocol, version: int) -> None:
    for reply in filter(lambda reply: is_icmp(version, reply), valid_replies(protocol, version)):
        assert passes(about(version), shown(version, reply))
        assert passes(about(version, cookie=b"else"), shown(version, reply))
        assert passes(about(version, port=PORT + 1), shown(version, reply)) or COOKIE not in reply


@pytest.mark.parametrize(("protocol", "version"), PROBE_TYPES)
@pytest.mark.parametrize("quote", [None, 8])
def test_icmp_about_other_peoples_packets_is_dropped(protocol: Protocol, version: int, quote: int | None) -> None:
    probe = probe_of(plan_for(protocol, version, source_port=PORT + 1)).replace(COOKIE, b"else")
    reply = error_about(probe, quote=quote and quote + LAYOUTS[version].header_bytes)
    assert not passes(about(version), shown(version, reply))


@pytest.mark.parametrize("version", [4, 6])
def test_an_echo_reply_that_may_be_a_guess_passes(version: int) -> None:
    request = probe_of(plan_for(Protocol.ICMP, version, source_port=PORT + 1)).replace(COOKIE, b"else")
    assert passes(about(version), shown(version, echo_reply(request, payload=0)))
    assert not passes(about(version), shown(version, echo_reply(request)))


def test_options_in_the_quote_are_stepped_over() -> None:
    probe = probe_of(plan_for(Protocol.UDP, 4)).replace(COOKIE, b"else")
    with_options = error_about(changed(probe[:20] + b"\x01\x01\x01\x00" + probe[20:], 0, b"\x46"))
    assert passes(about(4), with_options)
    assert not passes(about(4, port=PORT + 1), with_options)


@pytest.mark.parametrize("version", [4, 6])
def test_a_filter_for_the_most_traces_stays_below_the_kernels_limit(version: int) -> None:
    layouts = [PROBE_LAYOUTS[protocol, version] for protocol in Protocol]
    many = [Expected(layouts[at % 3], at, at.to_bytes(4)) for at in range(MOST_EXPECTED)]
    assert len(answers_about(FAMILIES[version], many)) <= 4096
