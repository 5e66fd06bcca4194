"""Which sizes are worth asking when nobody names the one that fits.

First those that links and tunnels have, as RFC 1191 7 and RFC 4821 7.6 advise: the answer is nearly always one of
them. What lies between two of them is divided evenly, with the next larger size always among those asked: its silence
says that the common size was it. This file knows no packet and no clock.
"""

from __future__ import annotations

COMMON_SIZES = (
    *(65_535, 32_000, 17_914),  # RFC 1191 7.1: the most there is, a guess, 16 Mb/s token ring
    *(9_216, 9_000, 8_166, 4_470, 4_352, 2_002),  # jumbo frames, FDDI and others of RFC 1191
    1_500,  # Ethernet
    *(1_492, 1_480, 1_476, 1_472),  # PPPoE; IP or IPv6 in IPv4; GRE; PPPoE around one of them
    *(1_462, 1_460, 1_450, 1_440, 1_420, 1_400),  # VXLAN, WireGuard, IPsec, mobile networks
    *(1_380, 1_360, 1_300),
    1_280,  # what every IPv6 link carries
    *(1_006, 576, 508, 296, 68),  # RFC 1191 7.1, and what every IPv4 host takes in
)
"""Bytes of a whole packet, largest first."""
SPREAD = 8
"""Sizes asked at once between two neighbours."""


def common_sizes(low: int, high: int) -> tuple[int, ...]:
    """Those between two sizes, which are left out; largest first.

    >>> common_sizes(1420, 1492)
    (1480, 1476, 1472, 1462, 1460, 1450, 1440)
    """
    return tuple(size for size in COMMON_SIZES if low < size < high)


def spread_sizes(low: int, high: int) -> tuple[int, ...]:
    """At most `SPREAD` sizes between two, the smallest among them; largest first. None between neighbours.

    >>> spread_sizes(1400, 1420)
    (1417, 1415, 1412, 1410, 1407, 1405, 1402, 1401)
    >>> spread_sizes(1400, 1403)
    (1402, 1401)
    """
    if high - low < 2:
        return ()
    divided = {low + (high - low) * step // SPREAD for step in range(1, SPREAD)}
    return tuple(sorted({low + 1, *divided} - {low}, reverse=True))
