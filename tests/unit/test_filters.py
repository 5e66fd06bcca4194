"""The BPF programs, run by a small machine of its own: what it lets through and what not."""

from __future__ import annotations

import pytest

from allhops.model import Protocol
from allhops.net.filters import MOST_EXPECTED, Expected, answers_about, answers_arriving, answers_to
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
            if len(data) <= k:
                return False
            index = (data[k] & 15) * 4
        elif opcode == 0x01:
            index = k
        elif opcode == 0x50:
            if len(data) <= index + k:
                return False
            accumulator = data[index + k]
        elif opcode == 0x40:
            if len(data) < index + k + 4:
                return False
            accumulator = int.from_bytes(data[index + k : index + k + 4])
        elif opcode in (0x20, 0x28, 0x30):
            size = {0x20: 4, 0x28: 2, 0x30: 1}[opcode]
            if len(data) < k + size:
                return False
            accumulator = int.from_bytes(data[k : k + size])
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


# A packet socket's, which sees all that arrives.

PADDING = bytes(46)
"""What Ethernet may put behind a short packet."""


def arriving(
    version: int, *, sources: tuple[bytes, ...] = (), port: int = PORT, cookie: bytes = COOKIE
) -> list[tuple[int, int, int, int]]:
    """For a trace by each protocol from the address that the probes have, or from others."""
    ours = (probe_of(plan_for(Protocol.UDP, version))[SOURCE[version]],)
    expected = [Expected(PROBE_LAYOUTS[protocol, version], port, cookie) for protocol in Protocol]
    return answers_arriving(FAMILIES[version], sources or ours, expected, [port])


def heard(protocol: Protocol, version: int) -> list[bytes]:
    """What a raw socket would hear of them: no datagrams."""
    return [reply for reply in valid_replies(protocol, version) if reply[9 if version == 4 else 6] != 17]


SOURCE = {4: slice(12, 16), 6: slice(8, 24)}


def to(version: int, packet: bytes) -> bytes:
    return packet[16:20] if version == 4 else packet[24:40]


@pytest.mark.parametrize(("protocol", "version"), PROBE_TYPES)
@pytest.mark.parametrize("padding", [b"", PADDING])
def test_a_packet_socket_passes_every_answer(protocol: Protocol, version: int, padding: bytes) -> None:
    for reply in heard(protocol, version):
        assert passes(arriving(version), reply + padding)
        assert passes(arriving(version, sources=(bytes(16), reply[SOURCE[version]], to(version, reply))), reply)


@pytest.mark.parametrize(("protocol", "version"), PROBE_TYPES)
def test_a_packet_socket_drops_what_is_for_others(protocol: Protocol, version: int) -> None:
    for reply in heard(protocol, version):
        assert not passes(arriving(version, sources=(bytes([9] * 16),)), reply)
        elsewhere = arriving(version, port=PORT + 1, cookie=b"else")
        is_bare = reply[FAMILIES[version].header_size] == FAMILIES[version].echo_reply and len(reply) < 32 + 20
        assert not passes(elsewhere, reply) or is_bare


@pytest.mark.parametrize(("protocol", "version"), PROBE_TYPES)
def test_a_packet_socket_drops_our_own_probes(protocol: Protocol, version: int) -> None:
    """Over loopback it sees them arrive."""
    probe = probe_of(plan_for(protocol, version))
    both = (probe[SOURCE[version]], to(version, probe))
    assert not passes(arriving(version, sources=both), probe)


@pytest.mark.parametrize("version", [4, 6])
def test_a_padded_echo_reply_is_as_long_as_its_header_says(version: int) -> None:
    request = probe_of(plan_for(Protocol.ICMP, version, source_port=PORT + 1)).replace(COOKIE, b"else")
    assert passes(arriving(version), echo_reply(request, payload=0) + PADDING)
    assert not passes(arriving(version), echo_reply(request) + PADDING)


@pytest.mark.parametrize("flags", [0x2000, 0x0001, 0x2004])
def test_a_packet_socket_drops_fragments(flags: int) -> None:
    reply = valid_replies(Protocol.ICMP, 4)[0]
    assert not passes(arriving(4), changed(reply, 6, flags.to_bytes(2)))
    assert passes(arriving(4), changed(reply, 6, b"\x40\x00"))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("length", [0, 1, 8, 19, 20, 27, 39, 40, 47])
def test_a_packet_socket_drops_what_is_cut(version: int, length: int) -> None:
    for reply in heard(Protocol.UDP, version):
        assert not passes(arriving(version), reply[:length])


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_sockets_filter_stays_below_the_kernels_limit(version: int) -> None:
    layouts = [PROBE_LAYOUTS[protocol, version] for protocol in Protocol]
    many = [Expected(layouts[at % 3], at, at.to_bytes(4)) for at in range(MOST_EXPECTED)]
    sources = [at.to_bytes(16) for at in range(1, MOST_EXPECTED)]
    assert len(answers_arriving(FAMILIES[version], sources, many, range(1, MOST_EXPECTED))) <= 4096
