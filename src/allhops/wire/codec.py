"""(TTL, attempt) to a 16-bit mark and back.

The mark is what names a probe inside its flow. It rides where load balancers do not
look: the IP ID (IPv4), the payload (IPv6), the ICMP sequence, the TCP sequence number.
From the top: 8 bits TTL, 4 bits attempt, 4 check bits keyed by the session. TTL is
never 0, so the mark is never 0 either: Linux rewrites an IP ID of 0 when DF is clear.

Every function is arithmetic that means the same for an int and for an array. This
file knows no packet.
"""

from __future__ import annotations

MAX_TTL = 255
MAX_ATTEMPTS = 16
_SPREAD = 0x9E37
"""2**16 divided by the golden ratio: neighbouring marks get unrelated check bits."""


def check_bits(body: int, key: int) -> int:
    """Four bits that a stranger who does not know `key` (16 bits) gets right once in sixteen times."""
    return ((body * _SPREAD + key) & 0xFFFF) >> 12


def encode_mark(ttl: int, attempt: int, key: int) -> int:
    """Mark of the probe with this TTL (1..255) and attempt (0..15).

    >>> mark = encode_mark(7, 2, key=0xBEEF)
    >>> mark >> 8, mark >> 4 & 15
    (7, 2)
    """
    body = ttl * 16 + attempt
    return body * 16 + check_bits(body, key)


def mark_ttl(mark: int) -> int:
    """TTL that a mark names: 0..255, where 0 was never sent."""
    return mark >> 8


def mark_attempt(mark: int) -> int:
    """Attempt that a mark names: 0..15."""
    return mark >> 4 & 15


def mark_is_ours(mark: int, key: int) -> bool:
    """Whether the check bits are those of this session's key."""
    return mark & 15 == check_bits(mark >> 4, key)


def balance(mark: int, key: int) -> int:
    """The 16-bit word that, beside `mark`, keeps the sum of both constant.

    With it in the packet the transport checksum is the same for every probe of a flow,
    which constant-flow ICMP needs (the checksum is part of what balancers hash) and which
    makes the quoted checksum evidence for all others.
    Source: Augustin et al., "Avoiding traceroute anomalies with Paris traceroute", IMC 2006.

    >>> (0x0712 + balance(0x0712, 0xBEEF)) % 0xFFFF == (0x1E25 + balance(0x1E25, 0xBEEF)) % 0xFFFF
    True
    """
    total = (mark ^ 0xFFFF) + key
    return (total & 0xFFFF) + (total >> 16)
