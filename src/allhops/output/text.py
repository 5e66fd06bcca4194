"""traceroute(8)'s text, to the letter, so that whatever reads that reads this.

    traceroute to example.org (192.0.2.9), 30 hops max, 60 byte packets
     1  gw.example.net (10.0.0.1)  0.812 ms  0.790 ms  0.801 ms
     2  * * *

This file knows no terminal and no clock.

Source: traceroute 2.1's manual and output; docs/formats.md.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING

from allhops.enrich.clean import clean_text
from allhops.model import InterfaceInfo, InterfaceRole, MplsLabel, ReplyKind, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.model import Address, Extension, Hop, Reply, Trace, UnknownObject
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


_ROLES = {
    InterfaceRole.INCOMING: "INC",
    InterfaceRole.SUB_IP: "SUB",
    InterfaceRole.OUTGOING: "OUT",
    InterfaceRole.NEXT_HOP: "NXT",
}
_ESCAPED = re.compile(r'\\(\d{3})|[ %"]')
"""What an interface's name has that traceroute writes otherwise: the model's own escapes, and these characters."""
_HEX_DIGITS = 8
"""Of an unknown object in one group: a 32-bit word."""


class TextWriter:
    """Rows as they become certain; see `allhops.output.Writer`."""

    def __init__(self, write: Callable[[str], None], *, numeric: bool = False, extensions: bool = False) -> None:
        self._write = write
        self._numeric = numeric
        self._extensions = extensions
        self._mtu: int | None = None

    def begin(self, destination: str, address: Address, options: TraceOptions, size: int) -> None:
        """The header; names in it are as the user wrote them."""
        self._mtu = None
        self._write(
            f"traceroute to {clean_text(destination)} ({address}), {options.max_ttl} hops max, {size} byte packets\n"
        )

    def hop(self, hop: Hop) -> None:
        """One row."""
        is_shown = hop.mtu != self._mtu and any(probe.reply for probe in hop.probes)
        self._write(row(hop, numeric=self._numeric, extensions=self._extensions, mtu=hop.mtu if is_shown else None))
        if is_shown:
            self._mtu = hop.mtu

    def end(self, trace: Trace) -> None:
        """Nothing: parsers expect rows only."""


def row(hop: Hop, *, numeric: bool = False, extensions: bool = False, mtu: int | None = None) -> str:
    """One line for one hop. A responder is named when it, or its extensions, differ from those before on the line.

    `mtu` is shown behind the first answer, where one is to be shown.
    """
    cells = [f"{hop.ttl:2d} "]
    last: tuple[Address, str] | None = None
    for probe in hop.probes:
        if probe.reply is None:
            cells.append(" *")
            continue
        shown = extensions_in(probe.reply) if extensions else ""
        if (probe.reply.address, shown) != last:
            last = probe.reply.address, shown
            cells.append(f" {responder(probe.reply, numeric=numeric)}{shown}")
        cells.append(_rtt(probe.reply) + annotation(probe.reply))
        if mtu is not None:
            cells.append(f" F={mtu}")
            mtu = None
    if hop.inherited is not None:
        address = hop.inherited.address
        cells.append(f" {address if numeric else f'{address} ({address})'} [inherited]")
    if hop.verdict not in (None, Verdict.SILENT):  # stars say that much themselves
        cells.append(f" [{hop.verdict}]")
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


def extensions_in(reply: Reply) -> str:
    """` <MPLS:L=24015,E=0,S=1,T=1>`, with the space before it; nothing where there are none.

    Labels that follow each other are one stack, as routers send them.
    """
    objects: list[str] = []
    for is_stack, extensions in groupby(reply.extensions, lambda extension: isinstance(extension, MplsLabel)):
        told = map(_extension, extensions)
        objects.append(f"MPLS:{'/'.join(told)}" if is_stack else ";".join(told))
    return f" <{';'.join(objects)}>" if objects else ""


def _extension(extension: Extension) -> str:
    if isinstance(extension, MplsLabel):
        return f"L={extension.label},E={extension.traffic_class},S={extension.bottom_of_stack:d},T={extension.ttl}"
    return _interface(extension) if isinstance(extension, InterfaceInfo) else _unknown(extension)


def _interface(info: InterfaceInfo) -> str:
    """`INC:3,10.0.0.1,"eth0",mtu=1500`: what is not said is left out."""
    said = (
        info.index,
        info.address,
        None if info.name is None else f'"{_ESCAPED.sub(_as_traceroute_escapes, info.name)}"',
        None if info.mtu is None else f"mtu={info.mtu}",
    )
    return f"{_ROLES[info.role]}:{','.join(str(part) for part in said if part is not None)}"


def _as_traceroute_escapes(match: re.Match[str]) -> str:
    """A byte as `%XX`; a backslash needs none."""
    byte = int(match[1]) if match[1] else ord(match[0])
    return "\\" if byte == ord("\\") else f"%{byte:02X}"


def _unknown(unread: UnknownObject) -> str:
    """`CLASS/CTYPE:hex,hex`."""
    words = (unread.data[at : at + _HEX_DIGITS] for at in range(0, len(unread.data), _HEX_DIGITS))
    return f"{unread.class_num}/{unread.c_type}:{','.join(words)}"
