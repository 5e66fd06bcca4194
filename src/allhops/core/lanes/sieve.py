"""Other people's ICMP, told from ours by six bytes before anything is parsed.

A raw socket hears the answers to everybody's packets, and whatever somebody sprays at this machine. To read one as a
reply takes 9 to 20 us, to see that it concerns nobody here 1 to 2 (`python -m benchmarks foreign`): neither is the
flow leased that it quotes, nor is what stands in the cookie's place the cookie of a trace. Either is enough to be
read, for a NAT may change the port but not the payload. It is the very question by which the prober gives a
reply to a trace, so nothing is lost here that would have been found there. This file knows no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allhops.wire.extensions import ICMP_HEADER
from allhops.wire.family import FAMILIES
from allhops.wire.probes import COOKIE_SIZE, layout_of

if TYPE_CHECKING:
    from collections.abc import Container


class Sieve:
    """Holds back what concerns none of `flows` (IP version, protocol, source port or identifier) and `cookies`."""

    __slots__ = ("_cookies", "_flows")

    def __init__(self, flows: Container[tuple[int, int, int]], cookies: Container[bytes]) -> None:
        self._flows = flows
        self._cookies = cookies

    def passes(self, packet: memoryview) -> bool:
        """Whether a whole IP packet has to be read. What this cannot make out has to."""
        try:
            family = FAMILIES[packet[0] >> 4]
            transport = family.header_length(packet[0])
            if packet[family.protocol_offset] != family.icmp_protocol:
                return True
            if packet[transport] == family.echo_reply:  # laid out like its request
                probe, protocol = transport - family.header_size, family.icmp_protocol
            else:
                quote = transport + ICMP_HEADER
                protocol = packet[quote + family.protocol_offset]
                probe = quote + family.header_length(packet[quote]) - family.header_size
            layout = layout_of(family.version, protocol)
            if layout is None:
                return False
            flow, cookie = probe + layout.flow_offset, probe + layout.cookie_offset
            if (family.version, protocol, packet[flow] << 8 | packet[flow + 1]) in self._flows:
                return True
            if len(packet) < cookie + COOKIE_SIZE:
                # A quote without one has only its flow. An echo reply without one may be a guess: those are counted.
                return probe < transport
            return bytes(packet[cookie : cookie + COOKIE_SIZE]) in self._cookies
        except (IndexError, KeyError):
            return True
