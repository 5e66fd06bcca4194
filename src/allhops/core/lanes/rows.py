"""One reply as numbers: the same columns whether it quotes its probe or answers it.

An ICMP error shows the probe itself. A direct answer shows it in the mirror: an echo reply has the request's
identifier, sequence and payload; a SYN-ACK or RST acknowledges the SYN's sequence number. Either way what is left
is a `Sighting`: which words of which probe the reply shows. This file knows no packet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from allhops.core.lanes.hearsay import SEEN_WHOLE

if TYPE_CHECKING:
    from allhops.model import Extension
    from allhops.wire.probes import Layout


class Sighting(NamedTuple):
    """A probe of a kind that we send, ours or a stranger's, as a reply shows it; None for what it does not show.

    Words are 16 bits. A direct answer shows the probe's destination as its own source address, and the other way round.
    """

    layout: Layout
    source: bytes
    destination: bytes
    flow: int
    peer: int | None
    ip_id: int | None
    checksum: int | None
    mark: int | None
    balance: int | None
    cookie: bytes | None
    is_quote: bool

    @property
    def is_bare(self) -> bool:
        """Whether it shows nothing of the session's secrets: an echo reply without its payload."""
        return self.cookie is None and self.balance is None and self.checksum is None


class ReplyRow(NamedTuple):
    """One reply: what it says, and which probe it is about."""

    stamp_ns: int
    kind: int
    """Index into `classify.KINDS`."""
    responder: bytes
    reply_ttl: int
    icmp_type: int
    icmp_code: int
    quoted_ttl: int
    quoted_tos: int
    mtu: int
    port_state: int
    """Index into `classify.PORT_STATES`."""
    extensions: tuple[Extension, ...] | None
    """None when they are broken."""
    probe: Sighting
    hearsay: int = SEEN_WHOLE
    """What of it nobody saw; see hearsay.py."""

    @property
    def flow_key(self) -> tuple[int, int, int]:
        """(IP version, protocol number, source port or identifier): what a lease owns."""
        layout = self.probe.layout
        return layout.family.version, layout.protocol, self.probe.flow
