"""Ordinary replies read many at a time; whatever is not plainly ordinary is left for dissect.py.

Ordinary is an ICMP error, an echo reply, a RST or SYN-ACK without IP options, sound in its lengths and its
checksum, about a packet without IP options. Every rule here is one of dissect.py's, in array operations;
where it would take a second look to know what that one says, nothing is said here. This file knows no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.lanes.columns import CODE_OF, LAYOUT_CODES, NOT_SHOWN, ROW
from allhops.core.lanes.dissect import SHORTEST_QUOTE, TCP_HEADER
from allhops.core.lanes.side_by_side import Packets, side_by_side
from allhops.wire.checksum import MASK
from allhops.wire.classify import CLOSED, DESTINATION, ERROR_KINDS, IGNORED, NO_PORT, OPEN, UNREACHABLE
from allhops.wire.extensions import ICMP_HEADER, SHORTEST_PADDED_QUOTE, VERSION, split_body
from allhops.wire.family import FAMILIES
from allhops.wire.probes import ACK, COOKIE_SIZE, RST, SYN, TCP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.core.lanes import Ring
    from allhops.model import Extension
    from allhops.wire.family import Family
    from allhops.wire.probes import Layout

_KINDS = {version: np.frombuffer(kinds, np.uint8) for version, kinds in ERROR_KINDS.items()}
_LAYOUTS = {version: [layout for layout in LAYOUT_CODES if layout.family.version == version] for version in FAMILIES}
_OPAQUE = np.dtype(f"V{ROW.itemsize}")
_MASK = np.uint64(MASK)


def _pattern(options: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8], int]:
    """(mask, value, offset of the echoed time stamp) of TCP options in hex; `..` is any byte, `ee` of the echo."""
    marks = options.split()
    mask = [0 if mark in ("..", "ee") else 0xFF for mark in marks]
    value = [int(mark, 16) if known else 0 for mark, known in zip(marks, mask, strict=True)]
    return np.array(mask, np.uint8), np.array(value, np.uint8), marks.index("ee")


_OPTIONS = (
    # MSS, SACK permitted, time stamps, NOP, window scale: Linux
    _pattern("02 04 .. .. 04 02 08 0a .. .. .. .. ee ee ee ee 01 03 03 .."),
    # MSS, NOP, window scale, SACK permitted, time stamps: FreeBSD, macOS, Windows
    _pattern("02 04 .. .. 01 03 03 .. 04 02 08 0a .. .. .. .. ee ee ee ee"),
)
"""What a SYN-ACK to a Linux SYN has for options where there are 20 bytes of them."""
_OPTION_BYTES = 20


class Skimmed:
    """What n packets say, as far as they were read."""

    def __init__(self, count: int) -> None:
        self.columns: NDArray[Any] = np.empty(0, ROW)
        """(n,) of `ROW`: replies at their packets' places, stamps and hearsay at all of them; else anything."""
        self.is_reply: NDArray[np.bool_] = np.zeros(count, np.bool_)
        self.is_read: NDArray[np.bool_] = np.zeros(count, np.bool_)
        """Of the others nothing is said: they are looked at one by one."""
        self.foreign = 0
        """Sound packets that are no reply to a kind of probe that we send."""
        self.extensions: list[tuple[Extension, ...] | None] = [()]

    def enter(self, index: NDArray[Any], columns: NDArray[Any]) -> None:
        """Replies at these places."""
        where: Any = slice(None)
        if len(columns) == len(self.is_reply):
            self.columns = columns
        else:
            if not len(self.columns):
                self.columns = np.empty(len(self.is_reply), ROW)
            where = index
            # As opaque bytes: an array of records is copied field by field.
            self.columns.view(_OPAQUE)[where] = columns.view(_OPAQUE)
        self.is_reply[where] = True
        self.is_read[where] = True


def skim(ring: Ring) -> Skimmed:
    """Read what is plainly ordinary."""
    count = ring.count
    result = Skimmed(count)
    for family, packets in side_by_side(ring):
        _skim_family(result, family, packets)
    if result.is_reply.any():
        result.columns["stamp_ns"] = np.frombuffer(ring.stamps_ns, np.int64)[:count]
        hearsay = np.frombuffer(ring.hearsay, np.uint8)[:count]
        if hearsay.any():
            result.columns["hearsay"] = hearsay
    return result


def _skim_family(result: Skimmed, family: Family, packets: Packets) -> None:
    """Read those of one IP version."""
    header = family.header_size
    end = packets.word(family.length_offset).astype(np.int32)
    end += 0 if family.length_covers_header else header
    is_sound = (end >= header + ICMP_HEADER) & (end <= packets.end)
    sound = Packets(packets.index, packets.head, end).where(is_sound)
    protocol = sound.byte(family.protocol_offset)
    is_icmp = protocol == family.icmp_protocol
    if not is_icmp.all():
        _skim_segments(result, family, sound.where(protocol == TCP))
        sound = sound.where(is_icmp)
    if len(sound):
        _skim_icmp(result, family, sound)


def _skim_icmp(result: Skimmed, family: Family, packets: Packets) -> None:
    is_right = _checksums_are_right(family, packets)
    kind = _KINDS[family.version].take(packets.word(family.header_size))
    is_error = kind != IGNORED
    _skim_errors(result, family, packets, kind, is_error & is_right)
    if not is_error.all():
        is_answer = packets.byte(family.header_size) == family.echo_reply
        is_foreign = ~(is_error | is_answer)
        result.is_read[packets.index[is_foreign]] = True
        result.foreign += int(np.count_nonzero(is_foreign))
        _skim_echoes(result, family, packets.where(is_answer & is_right))


def _checksums_are_right(family: Family, packets: Packets) -> NDArray[np.bool_]:
    """ICMP's, from sums of 32-bit numbers.

    Modulo 0xFFFF 2**16 is 1, so that is the sum of the 16-bit words; and swapped bytes leave 0 what it is.
    """
    header = family.header_size
    if family.icmp_has_pseudo_header:
        total = packets.sums(header - 2 * family.address_size)
        total += (packets.end - header + family.icmp_protocol).astype(">u2").view(np.uint16)
    else:
        total = packets.sums(header)
    right: NDArray[np.bool_] = total // _MASK * _MASK == total  # half the time of a remainder
    return right


# ICMP errors


def _skim_errors(
    result: Skimmed, family: Family, packets: Packets, kind: NDArray[np.uint8], is_error: NDArray[np.bool_]
) -> None:
    """Those whose quote is of a packet that we might have sent, without options."""
    header = family.header_size
    quote = header + ICMP_HEADER
    protocol = packets.byte(quote + family.protocol_offset)
    left = is_error & packets.is_plain(family, quote) & (packets.end >= quote + header + SHORTEST_QUOTE)
    for layout in _LAYOUTS[family.version]:
        mask = left & (protocol == layout.protocol)
        if layout.protocol == family.icmp_protocol:
            mask &= packets.byte(quote + header) == family.echo_request
        if mask.all():
            _enter_errors(result, layout, packets, kind)
            return
        if mask.any():
            _enter_errors(result, layout, packets.where(mask), kind[mask])


def _enter_errors(result: Skimmed, layout: Layout, packets: Packets, kind: NDArray[np.uint8]) -> None:
    family = layout.family
    header = family.header_size
    quote = header + ICMP_HEADER
    columns = _columns(layout, packets)
    columns["kind"] = kind
    columns["is_quote"] = True
    _copy_address(columns, "responder", packets, family.source_offset, family)
    _copy_address(columns, "source", packets, quote + family.source_offset, family)
    _copy_address(columns, "destination", packets, quote + family.destination_offset, family)
    columns["icmp_type"] = packets.byte(header)
    columns["icmp_code"] = packets.byte(header + 1)
    columns["quoted_ttl"] = packets.byte(quote + family.ttl_offset)
    columns["quoted_tos"] = packets.word(quote).astype(np.uint16) >> family.tos_shift  # of which a byte fits in
    if (kind == UNREACHABLE).any():
        columns["mtu"] = _mtus(family, packets)
    end = _without_padding(family, packets, _split(result, columns, family, packets))
    columns["flow"] = packets.word(quote + layout.flow_offset)
    columns["peer"] = packets.word(quote + layout.peer_offset)
    if family.id_offset is not None:
        columns["ip_id"] = packets.word(quote + family.id_offset)
    columns["checksum"] = np.maximum(packets.shown_word(quote + layout.checksum_offset, end), 0)
    _show(columns, layout, packets, quote, end)
    result.enter(packets.index, columns)


def _mtus(family: Family, packets: Packets) -> NDArray[Any]:
    header = family.header_size
    icmp_type, code = family.too_big
    is_too_big = packets.word(header) == icmp_type << 8 | code
    number = packets.number(header + ICMP_HEADER - 4)
    number &= np.uint32((1 << 8 * (ICMP_HEADER - family.mtu_offset)) - 1)
    return np.where(is_too_big, np.minimum(number, MASK), 0)


def _split(result: Skimmed, columns: NDArray[Any], family: Family, packets: Packets) -> NDArray[Any]:
    """Where each quote ends; extensions follow some, and those that may have any are looked at one by one."""
    header = family.header_size
    body = header + ICMP_HEADER
    end = packets.end
    claims = packets.byte(header + family.length_attribute) != 0
    structure = body + SHORTEST_PADDED_QUOTE
    if packets.head.shape[1] > structure:
        claims |= (packets.byte(structure) >> 4 == VERSION) & (end > structure)
    if claims.any():
        end = end.copy()
        for position in np.flatnonzero(claims).tolist():
            message = packets.head[position, header : end[position]].tobytes()
            split = split_body(family, message)
            end[position] = body + len(split.quote)
            if split.extensions != ():
                columns["extensions"][position] = len(result.extensions)
                result.extensions.append(split.extensions)
    return end


def _without_padding(family: Family, packets: Packets, end: NDArray[Any]) -> NDArray[Any]:
    """Ends of quotes without the zeros that some routers fill them up with behind 8 bytes of the transport header."""
    shortest = family.header_size + ICMP_HEADER + family.header_size + SHORTEST_QUOTE
    is_doubtful = (packets.number(shortest) == 0) | (end < shortest + 4)
    is_doubtful &= end > shortest
    if is_doubtful.any():
        doubtful = np.flatnonzero(is_doubtful)
        end = end.copy()
        rest = packets.head[doubtful, shortest:]
        rest[np.arange(shortest, shortest + rest.shape[1]) >= end[doubtful, None]] = 0
        end[doubtful[~rest.any(axis=1)]] = shortest
    return end


# Direct answers


def _skim_echoes(result: Skimmed, family: Family, packets: Packets) -> None:
    if not len(packets):
        return
    layout = LAYOUT_CODES[CODE_OF[family.version, family.icmp_protocol]]
    columns = _answers(layout, packets)
    columns["port_state"] = NO_PORT
    columns["flow"] = packets.word(layout.flow_offset)
    columns["peer"] = NOT_SHOWN
    _show(columns, layout, packets, 0, packets.end)
    result.enter(packets.index, columns)


def _skim_segments(result: Skimmed, family: Family, packets: Packets) -> None:
    """RSTs and SYN-ACKs with no TCP options, or with those that answer a Linux SYN in a well-known order."""
    if not len(packets):
        return
    header = family.header_size
    flags = packets.byte(header + 13)
    is_ours = (flags & (SYN | ACK) == SYN | ACK) | (flags & (RST | ACK) == RST | ACK)
    length = packets.byte(header + 12) >> 4
    is_ours &= packets.end >= header + 4 * length.astype(np.int64)
    _enter_segments(result, family, packets.where(is_ours & (length == TCP_HEADER // 4)), None)
    is_long = is_ours & (length == (TCP_HEADER + _OPTION_BYTES) // 4)
    if is_long.any():
        options = packets.head[:, header + TCP_HEADER : header + TCP_HEADER + _OPTION_BYTES]
        for mask, value, echo in _OPTIONS:
            is_so = is_long & ((options & mask) == value).all(axis=1)
            _enter_segments(result, family, packets.where(is_so), header + TCP_HEADER + echo)


def _enter_segments(result: Skimmed, family: Family, packets: Packets, echo: int | None) -> None:
    """Segments that echo our time stamp, which is the cookie, at an offset."""
    if not len(packets):
        return
    header = family.header_size
    layout = LAYOUT_CODES[CODE_OF[family.version, TCP]]
    columns = _answers(layout, packets)
    sequence = packets.number(header + 8) - np.uint32(1)
    columns["port_state"] = np.where(packets.byte(header + 13) & RST, CLOSED, OPEN)
    columns["peer"] = packets.word(header)
    columns["flow"] = packets.word(header + 2)
    columns["mark"] = sequence >> np.uint32(16)
    columns["balance"] = sequence & np.uint32(MASK)
    if echo is not None:
        columns["cookie"] = cookie = packets.number(echo)
        columns["has_cookie"] = cookie != 0
    result.enter(packets.index, columns)


def _answers(layout: Layout, packets: Packets) -> NDArray[Any]:
    """What all answers of the destination's own have in common."""
    family = layout.family
    columns = _columns(layout, packets)
    columns["kind"] = DESTINATION
    _copy_address(columns, "responder", packets, family.source_offset, family)
    _copy_address(columns, "destination", packets, family.source_offset, family)
    _copy_address(columns, "source", packets, family.destination_offset, family)
    columns["icmp_type"] = packets.byte(family.header_size)
    columns["icmp_code"] = packets.byte(family.header_size + 1)
    return columns


# Both


def _columns(layout: Layout, packets: Packets) -> NDArray[Any]:
    """Columns of so many replies, zero but for what all have."""
    family = layout.family
    columns = np.zeros(len(packets), ROW)
    columns["layout"] = CODE_OF[family.version, layout.protocol]
    columns["reply_ttl"] = packets.byte(family.ttl_offset)
    return columns


def _copy_address(columns: NDArray[Any], name: str, packets: Packets, offset: int, family: Family) -> None:
    address = packets.address(offset, family)
    columns[name].view(address.dtype)[:, 0] = address


def _show(columns: NDArray[Any], layout: Layout, packets: Packets, shift: int, end: NDArray[Any]) -> None:
    """Mark, balance and cookie, where the probe begins at `shift`."""
    columns["mark"] = packets.shown_word(shift + layout.mark_offset, end)
    columns["balance"] = packets.shown_word(shift + layout.balance_offset, end)
    has_cookie = end >= shift + layout.cookie_offset + COOKIE_SIZE
    columns["has_cookie"] = has_cookie
    columns["cookie"] = packets.number(shift + layout.cookie_offset)
    if not has_cookie.all():
        columns["cookie"] *= has_cookie
