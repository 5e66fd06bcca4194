"""The kernel's own sieve for raw TCP sockets: classic BPF that lets through only answers to our SYNs.

A raw TCP socket sees every segment that reaches this machine. The filter passes SYN-ACK and RST to ports that are
leased and drops the rest before it is queued, so that other people's traffic neither fills our buffer nor wakes us.

Source: Linux Documentation/networking/filter.rst; opcodes from linux/bpf_common.h.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING

from allhops.wire.family import IPV4
from allhops.wire.probes import ACK, RST, SYN

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection

    from allhops.wire.family import Family

_SOL_SOCKET = 1
_SO_ATTACH_FILTER = 26
_INSTRUCTION = struct.Struct("@HBBI")
_PROGRAM = struct.Struct("@HP")

_X_IS_IPV4_HEADER_LENGTH = 0xB1  # ldxb 4*([k]&0xf)
_X_IS = 0x01  # ldx #k
_LOAD_BYTE = 0x50  # ldb [x + k]
_LOAD_HALF = 0x48  # ldh [x + k]
_AND = 0x54  # and #k
_JUMP_IF_EQUAL = 0x15  # jeq #k, true, false
_JUMP_IF_SET = 0x45  # jset #k, true, false
_RETURN = 0x06  # ret #k

_FLAGS_OFFSET = 13
_DESTINATION_PORT_OFFSET = 2
_WHOLE_PACKET = 0xFFFFFFFF
_MOST_PORTS = 2_000
"""A program has at most 4,096 instructions (BPF_MAXINSNS), and a port takes two. With more, flags alone decide."""

_Instruction = tuple[int, int, int, int]
"""(opcode, instructions to skip if true, if false, k)."""


def answers_to(family: Family, ports: Collection[int]) -> list[_Instruction]:
    """A program that passes SYN-ACK and RST segments to these ports.

    IPv4 raw sockets show the filter the IP header first, IPv6 ones begin at the TCP header.
    """
    program = [
        (_X_IS_IPV4_HEADER_LENGTH if family is IPV4 else _X_IS, 0, 0, 0),
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


def attach(sock: socket.socket, program: list[_Instruction]) -> None:
    """Put a program in the place of the one the socket had; what is queued already stays."""
    code = array("B", b"".join(_INSTRUCTION.pack(*instruction) for instruction in program))
    address, _ = code.buffer_info()  # the kernel copies it; an array spares the import of ctypes (5 ms)
    sock.setsockopt(_SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(len(program), address))
