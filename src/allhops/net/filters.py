"""The kernel's own sieve for raw sockets: classic BPF that lets through only what may answer our probes.

A raw socket sees every segment or ICMP message that reaches this machine. The filters drop the rest before it is
queued, so that neither other people's traffic nor a flood of forgeries fills our buffer or wakes us. A packet socket
sees everything, and the whole of it: its filter asks first whether it is for one of our addresses.

TCP: SYN-ACK and RST to ports that are leased. ICMP: what quotes or answers a leased flow, or has the cookie of a trace
where ours stands, for a NAT may change the port and not the payload; and echo replies without a payload, for those
may be guesses, and guesses are counted.

Source: Linux Documentation/networking/filter.rst; opcodes from linux/bpf_common.h.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, NamedTuple

from allhops.wire.extensions import ICMP_HEADER
from allhops.wire.family import IPV4
from allhops.wire.probes import ACK, COOKIE_SIZE, RST, SYN, TCP

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection

    from allhops.wire.family import Family
    from allhops.wire.probes import Layout

_SOL_SOCKET = 1
_SO_ATTACH_FILTER = 26
_INSTRUCTION = struct.Struct("@HBBI")
_PROGRAM = struct.Struct("@HP")

_X_IS_IPV4_HEADER_LENGTH = 0xB1  # ldxb 4*([k]&0xf)
_X_IS = 0x01  # ldx #k
_LOAD_BYTE_AT = 0x30  # ldb [k]
_LOAD_HALF_AT = 0x28  # ldh [k]
_LOAD_WORD_AT = 0x20  # ld [k]
_LOAD_BYTE = 0x50  # ldb [x + k]
_LOAD_HALF = 0x48  # ldh [x + k]
_LOAD_WORD = 0x40  # ld [x + k]
_LOAD_LENGTH = 0x80  # ld #len
_SHIFT_LEFT = 0x64  # lsh #k
_ADD_X = 0x0C  # add x
_SUBTRACT_X = 0x1C  # sub x
_X_IS_A = 0x07  # tax
_JUMP = 0x05  # ja k
_JUMP_IF_AT_LEAST = 0x35  # jge #k, true, false
_AND = 0x54  # and #k
_JUMP_IF_EQUAL = 0x15  # jeq #k, true, false
_JUMP_IF_SET = 0x45  # jset #k, true, false
_RETURN = 0x06  # ret #k

_FLAGS_OFFSET = 13
_DESTINATION_PORT_OFFSET = 2
_FRAGMENT_OFFSET = 6
"""Where an IPv4 header has flags and fragment offset."""
_IS_FRAGMENT = 0x3FFF
"""More fragments follow, or this is not the first."""
_WHOLE_PACKET = 0xFFFFFFFF
MOST_EXPECTED = 32
"""Traces at once for which the ICMP filter is worth what it costs to attach (3 us for each of them, at every beginning
of one); with more of them all ICMP comes through, and it is the lane's sieve that spares us."""
_MOST_PORTS = 2_000
"""A program has at most 4,096 instructions (BPF_MAXINSNS), and a port takes two. With more, flags alone decide."""

_Instruction = tuple[int, int, int, int]
"""(opcode, instructions to skip if true, if false, k)."""


def answer_types(family: Family) -> tuple[int, ...]:
    """The ICMP types that can answer a probe."""
    return family.echo_reply, family.time_exceeded, family.unreachable, family.too_big[0], family.parameter_problem


def answers_to(family: Family, ports: Collection[int], *, whole: bool = False) -> list[_Instruction]:
    """A program that passes SYN-ACK and RST segments to these ports.

    IPv4 raw sockets show the filter the IP header first, IPv6 ones begin at the TCP header; with `whole` both show it.
    """
    program = [
        _x_is_the_transport(family, whole=whole),
        (_LOAD_BYTE, 0, 0, _FLAGS_OFFSET),
        (_JUMP_IF_SET, 3, 0, RST),
        (_AND, 0, 0, SYN | ACK),
        (_JUMP_IF_EQUAL, 1, 0, SYN | ACK),
        (_RETURN, 0, 0, 0),
        (_LOAD_HALF, 0, 0, _DESTINATION_PORT_OFFSET),
    ]
    if len(ports) > _MOST_PORTS:
        return [*program, (_RETURN, 0, 0, _WHOLE_PACKET)]
    for port in ports:
        program += [(_JUMP_IF_EQUAL, 0, 1, port), (_RETURN, 0, 0, _WHOLE_PACKET)]
    return [*program, (_RETURN, 0, 0, 0)]


class Expected(NamedTuple):
    """A trace, as its answers show it."""

    layout: Layout
    flow: int
    """Source port or identifier."""
    cookie: bytes


def answers_about(family: Family, expected: Collection[Expected], *, whole: bool = False) -> list[_Instruction]:
    """A program that passes ICMP about these traces; a load beyond the packet's end drops it.

    IPv4 raw sockets show the filter the IP header first, IPv6 ones begin at the ICMP header; with `whole` both show it.
    """
    start = family.header_size if whole else 0
    echo = [one for one in expected if one.layout.protocol == family.icmp_protocol]
    length = [(_LOAD_LENGTH, 0, 0, 0), (_SUBTRACT_X, 0, 0, 0)]
    if whole:  # a link may pad what is short, and a packet socket shows that too: what the header says
        length = [(_LOAD_HALF_AT, 0, 0, family.length_offset)]
        length += [(_SUBTRACT_X, 0, 0, 0)] * family.length_covers_header
    replies = [
        *length,
        (_JUMP_IF_AT_LEAST, 1, 0, ICMP_HEADER + COOKIE_SIZE),
        (_RETURN, 0, 0, _WHOLE_PACKET),
        *_shows_one_of(echo, 0),
    ]
    quote_header = [(_X_IS, 0, 0, start + family.header_size)]
    if family is IPV4:
        quote_header = [
            (_LOAD_BYTE, 0, 0, ICMP_HEADER),
            (_AND, 0, 0, 0x0F),
            (_SHIFT_LEFT, 0, 0, 2),
            (_ADD_X, 0, 0, 0),
            (_X_IS_A, 0, 0, 0),
        ]
    return [
        _x_is_the_transport(family, whole=whole),
        (_LOAD_BYTE, 0, 0, 0),
        (_JUMP_IF_EQUAL, 1, 0, family.echo_reply),
        (_JUMP, 0, 0, len(replies)),
        *replies,
        *quote_header,
        *_shows_one_of(expected, ICMP_HEADER),
    ]


def answers_arriving(
    family: Family, sources: Collection[bytes], expected: Collection[Expected], ports: Collection[int]
) -> list[_Instruction]:
    """A program for a packet socket, which shows from its IP header on whatever arrives.

    It passes what concerns these traces or comes to these ports, is whole and goes to one of these addresses. Of an
    address its last 32 bits are compared: that keeps transit out, and the rest is for who reads it.
    """
    last = family.destination_offset + family.address_size - 4
    about = [
        _x_is_the_transport(family, whole=True),
        (_LOAD_BYTE, 0, 0, 0),
        *_is_one_of(answer_types(family)),
        *answers_about(family, expected, whole=True),
    ]
    program = _is_whole() if family is IPV4 else []  # an IPv6 fragment's next header is no protocol of ours
    return [
        *program,
        (_LOAD_WORD_AT, 0, 0, last),
        *_is_one_of(sorted({int.from_bytes(source[-4:], "big") for source in sources})),
        (_LOAD_BYTE_AT, 0, 0, family.protocol_offset),
        (_JUMP_IF_EQUAL, 1, 0, family.icmp_protocol),
        (_JUMP, 0, 0, len(about)),
        *about,
        *_is_one_of((TCP,)),
        *answers_to(family, ports, whole=True),
    ]


def _x_is_the_transport(family: Family, *, whole: bool) -> _Instruction:
    """Have x be where the transport header begins."""
    if family is IPV4:
        return _X_IS_IPV4_HEADER_LENGTH, 0, 0, 0
    return _X_IS, 0, 0, family.header_size if whole else 0


def _is_whole() -> list[_Instruction]:
    """Drop fragments of IPv4 packets."""
    return [(_LOAD_HALF_AT, 0, 0, _FRAGMENT_OFFSET), (_JUMP_IF_SET, 0, 1, _IS_FRAGMENT), (_RETURN, 0, 0, 0)]


def _is_one_of(values: Collection[int]) -> list[_Instruction]:
    """Drop the packet unless what was loaded is one of these."""
    assert len(values) < 1 << 8  # a conditional jump reaches no further
    tests = [(_JUMP_IF_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [*tests, (_RETURN, 0, 0, 0)]


def _shows_one_of(expected: Collection[Expected], transport: int) -> list[_Instruction]:
    """Pass what shows one of these flows or cookies in a transport header at [x + `transport`], and nothing else."""
    wanted: dict[tuple[int, int], set[int]] = {}
    for layout, flow, cookie in expected:
        start = transport - layout.family.header_size
        wanted.setdefault((layout.flow_offset + start, _LOAD_HALF), set()).add(flow)
        wanted.setdefault((layout.cookie_offset + start, _LOAD_WORD), set()).add(int.from_bytes(cookie, "big"))
    program: list[_Instruction] = []
    for (offset, load), values in sorted(wanted.items()):  # nearest first: a short quote has its flow and no more
        program.append((load, 0, 0, offset))
        for value in sorted(values):
            program += [(_JUMP_IF_EQUAL, 0, 1, value), (_RETURN, 0, 0, _WHOLE_PACKET)]
    return [*program, (_RETURN, 0, 0, 0)]


def everything() -> list[_Instruction]:
    """A program that passes all."""
    return [(_RETURN, 0, 0, _WHOLE_PACKET)]


def attach(sock: socket.socket, program: list[_Instruction]) -> None:
    """Put a program in the place of the one the socket had; what is queued already stays."""
    code = array("B", b"".join(_INSTRUCTION.pack(*instruction) for instruction in program))
    address, _ = code.buffer_info()  # the kernel copies it; an array spares the import of ctypes (5 ms)
    sock.setsockopt(_SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(len(program), address))
