"""traceroute(8)'s text, to the letter, so that whatever reads that reads this.

    traceroute to example.org (192.0.2.9), 30 hops max, 60 byte packets
     1  gw.example.net (10.0.0.1)  0.812 ms  0.790 ms  0.801 ms
     2  * * *

This file knows no terminal and no clock.

Source: traceroute 2.1's manual and output; docs/formats.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allhops.enrich.clean import clean_text
from allhops.model import ReplyKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.model import Address, Hop, Reply, Trace
    from allhops.options import TraceOptions

_UNREACHABLE_TYPES = {4: 3, 6: 1}
"""ICMP type of Destination Unreachable by IP version."""
_UNREACHABLE_MARKS = {
    4: {
        0: "!N",  # network
        1: "!H",  # host
        2: "!P",  # protocol
        5: "!S",  # source route failed
        6: "!N",  # network unknown
        7: "!H",  # host unknown
        8: "!N",  # source isolated
        9: "!X",  # network prohibited
        10: "!X",  # host prohibited
        11: "!N",  # network, for this type of service
        12: "!H",  # host, for this type of service
        13: "!X",  # communication prohibited
        14: "!V",  # host precedence violation
        15: "!C",  # precedence cutoff
    },
    6: {
        0: "!N",  # no route
        1: "!X",  # prohibited
        2: "!H",  # beyond the scope of the source address
        3: "!H",  # address unreachable
    },
}
"""Annotation by IP version and code of Destination Unreachable."""
_TOO_BIG = {(4, 3, 4), (6, 2, 0)}
"""(IP version, type, code) of "fragmentation needed" and "packet too big"."""


class TextWriter:
    """Rows as they become certain; see `allhops.output.Writer`."""

    def __init__(self, write: Callable[[str], None], *, numeric: bool = False) -> None:
        self._write = write
        self._numeric = numeric

    def begin(self, destination: str, address: Address, options: TraceOptions, size: int) -> None:
        """The header; names in it are as the user wrote them."""
        self._write(
            f"traceroute to {clean_text(destination)} ({address}), {options.max_ttl} hops max, {size} byte packets\n"
        )

    def hop(self, hop: Hop) -> None:
        """One row."""
        self._write(row(hop, numeric=self._numeric))

    def end(self, trace: Trace) -> None:
        """Nothing: parsers expect rows only."""


def row(hop: Hop, *, numeric: bool = False) -> str:
    """One line for one hop. A responder is named when it differs from the one before it on the line."""
    cells = [f"{hop.ttl:2d} "]
    last: Address | None = None
    for probe in hop.probes:
        if probe.reply is None:
            cells.append(" *")
            continue
        if probe.reply.address != last:
            last = probe.reply.address
            cells.append(f" {responder(probe.reply, numeric=numeric)}")
        cells.append(_rtt(probe.reply) + annotation(probe.reply))
    return "".join(cells) + "\n"


def responder(reply: Reply, *, numeric: bool = False) -> str:
    """`ADDR`, or `NAME (ADDR)` with the address in place of a missing name."""
    return str(reply.address) if numeric else f"{reply.name or reply.address} ({reply.address})"


def annotation(reply: Reply) -> str:
    """` !X` and its kin, with the space before it; nothing for a hop or the destination's own answer."""
    if reply.kind is not ReplyKind.UNREACHABLE:
        return ""
    version, kind, code = reply.address.version, reply.icmp_type, reply.icmp_code
    if (version, kind, code) in _TOO_BIG:
        return f" !F-{reply.mtu or 0}"
    if kind == _UNREACHABLE_TYPES[version] and code is not None:
        return f" {_UNREACHABLE_MARKS[version].get(code, f'!<{code}>')}"
    return f" !<{kind}-{code}>"


def _rtt(reply: Reply) -> str:
    """Milliseconds; a star when the clock was stepped between the two stamps and nobody knows."""
    return " *" if reply.rtt_ns is None else f"  {reply.rtt_ns / 1e6:.3f} ms"
