"""The BPF program, run by a small machine of its own: what it lets through and what not."""

from __future__ import annotations

import pytest

from allhops.model import Protocol
from allhops.net.filters import answers_to
from allhops.testing.packets import ACK, FIN, LAYOUTS, RST, SYN
from allhops.wire.family import FAMILIES
from benchmarks.replies import plan_for, probe_of, tcp_answer


def passes(program: list[tuple[int, int, int, int]], data: bytes) -> bool:
    """Classic BPF, as much of it as `answers_to` uses."""
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
        elif opcode == 0x48:
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
