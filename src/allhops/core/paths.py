"""The ledger is read as a path: columns become hops.

This file decides nothing about when a path is complete (see course.py) and knows no clock.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from allhops.core.evidence import DIRECT, evidence_in, flags_in
from allhops.core.lanes.hearsay import QUOTED_HEADER
from allhops.core.ledger import ANSWERED, STATES
from allhops.model import Address, Hop, Probe, ProbeState, Reply, Verdict
from allhops.wire.classify import KINDS, PORT_STATES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from allhops.core.ledger import Ledger
    from allhops.core.plan import Plan

_OCTETS = tuple(map(str, range(256)))
_ADDRESS_TYPES: dict[int, type[IPv4Address | IPv6Address]] = {4: IPv4Address, 16: IPv6Address}


def address_from(packed: bytes) -> Address:
    """Address of 4 or 16 bytes in network order."""
    return _ADDRESS_TYPES[len(packed)](packed)


def address_text(packed: bytes) -> str:
    """The text of such an address; for IPv4 a sixth of what the detour over the value costs.

    >>> address_text(bytes([192, 0, 2, 1])), address_text(bytes(15) + bytes([1]))
    ('192.0.2.1', '::1')
    """
    if len(packed) == 4:
        a, b, c, d = packed
        return f"{_OCTETS[a]}.{_OCTETS[b]}.{_OCTETS[c]}.{_OCTETS[d]}"
    return str(IPv6Address(packed))


def reply_from(plan: Plan, ledger: Ledger, slot: int) -> Reply | None:
    """The reply that an answered slot holds."""
    kind = KINDS[ledger.kind[slot]]
    if kind is None:
        return None
    flags = ledger.flags[slot]
    has_header = not (flags & DIRECT or ledger.hearsay[slot] & QUOTED_HEADER)
    port_state = PORT_STATES[ledger.port_state[slot]]
    return Reply(
        address=address_from(ledger.responder_of(slot, plan.layout.family.address_size)),
        kind=kind,
        rtt_ns=ledger.rtt_ns(slot),
        icmp_type=ledger.icmp_type[slot] if port_state is None else None,
        icmp_code=ledger.icmp_code[slot] if port_state is None else None,
        reply_ttl=ledger.reply_ttl[slot] or None,
        quoted_ttl=ledger.quoted_ttl[slot] if has_header else None,
        quoted_tos=ledger.quoted_tos[slot] if has_header else None,
        mtu=ledger.mtu[slot] or None,
        port_state=port_state,
        extensions=ledger.extensions.get(slot, ()),
        matched=evidence_in(ledger.matched[slot]),
        flags=flags_in(flags),
        duplicates=ledger.duplicates[slot],
    )


def probe_from(plan: Plan, ledger: Ledger, slot: int) -> Probe:
    """The probe of a slot that was sent; one that has not ended counts as cancelled."""
    return Probe(
        attempt=plan.attempt_of(slot) + 1,
        probe_ttl=plan.ttl_of(slot),
        state=STATES[ledger.state[slot]] or ProbeState.CANCELLED,
        reply=reply_from(plan, ledger, slot) if ledger.state[slot] == ANSWERED else None,
        late_rtt_ns=ledger.late_rtt_ns(slot),
    )


def hop_from(plan: Plan, ledger: Ledger, ttl: int, slots: Iterable[int], verdict: Verdict | None = None) -> Hop:
    """The hop at one TTL, made of these slots."""
    return Hop(ttl=ttl, probes=tuple(probe_from(plan, ledger, slot) for slot in slots), verdict=verdict)
