"""(ICMP type, code) to what it says about the probe: a table look-up per family.

A kind is a small int here, an index into `KINDS`, so that it fits a column; 0 means that
the message is none of our business (redirects, source quench, router advertisements,
echo requests). This file knows no packet.

Source: RFC 792, RFC 1812 5.2.7, RFC 4443.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allhops.model import PortState, ReplyKind
from allhops.wire.family import FAMILIES

if TYPE_CHECKING:
    from allhops.wire.family import Family

IGNORED, TIME_EXCEEDED, DESTINATION, UNREACHABLE = range(4)

KINDS: tuple[ReplyKind | None, ...] = (
    None,
    ReplyKind.TIME_EXCEEDED,
    ReplyKind.DESTINATION,
    ReplyKind.UNREACHABLE,
)

NO_PORT, OPEN, CLOSED = range(3)

PORT_STATES: tuple[PortState | None, ...] = (None, PortState.OPEN, PortState.CLOSED)
"""Column value to public value."""


def _table(family: Family) -> bytes:
    """Kinds of ICMP errors, indexed by type * 256 + code."""
    kinds = bytearray(1 << 16)
    for code in range(256):
        kinds[family.unreachable << 8 | code] = UNREACHABLE
        kinds[family.parameter_problem << 8 | code] = UNREACHABLE
        # Code 1 is "reassembly time exceeded": a complaint about fragments, not a hop.
        kinds[family.time_exceeded << 8 | code] = UNREACHABLE
    kinds[family.time_exceeded << 8] = TIME_EXCEEDED
    kinds[family.unreachable << 8 | family.port_unreachable] = DESTINATION
    too_big_type, too_big_code = family.too_big
    kinds[too_big_type << 8 | too_big_code] = UNREACHABLE
    return bytes(kinds)


ERROR_KINDS = {version: _table(family) for version, family in FAMILIES.items()}
"""By IP version: bytes (65536,), kind of an ICMP error about one of our probes."""
