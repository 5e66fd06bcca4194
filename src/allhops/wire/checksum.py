"""The Internet checksum.

Sums are kept unfolded as long as possible: one's complement addition is addition
modulo 0xFFFF, so the order of adding and folding does not matter. `fold` is written
in arithmetic that means the same for an int and for an array of them. This file
knows no packet.

Source: RFC 1071, RFC 1624.
"""

from __future__ import annotations

MASK = 0xFFFF


def fold(total: int) -> int:
    """Fold a sum of 16-bit words, below 2**32, into 16 bits by end-around carry.

    >>> hex(fold(0x1FFFE))
    '0xffff'
    """
    total = (total & MASK) + (total >> 16)
    return (total & MASK) + (total >> 16)


def word_sum(data: bytes | bytearray | memoryview) -> int:
    """One's complement sum of big-endian 16-bit words, folded; odd data is padded with a zero byte.

    A number in base 2**16 is congruent to the sum of its digits modulo 2**16 - 1, so
    one division of the whole does the work of the loop.

    >>> hex(word_sum(bytes.fromhex("0001f203f4f5f6f7")))  # RFC 1071 section 3
    '0xddf2'
    """
    number = int.from_bytes(data, "big")
    if len(data) % 2:
        number <<= 8
    if not number:
        return 0
    return number % MASK or MASK


def internet_checksum(data: bytes | bytearray | memoryview) -> int:
    """Checksum to store for `data` whose checksum field is zero; 0 over data that includes a right one.

    >>> internet_checksum(bytes.fromhex("45000073000040004011b861c0a80001c0a800c7"))
    0
    """
    return word_sum(data) ^ MASK


def pseudo_header_sum(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """Unfolded sum of the pseudo-header that UDP, TCP and ICMPv6 checksums cover.

    Source: RFC 768, RFC 9293 3.1, RFC 8200 8.1. `length` is that of the transport
    header and its data, bytes, below 65,536.
    """
    return word_sum(source) + word_sum(destination) + protocol + length
