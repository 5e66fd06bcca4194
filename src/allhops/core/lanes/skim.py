"""Ordinary replies read many at a time; whatever is not plainly ordinary is left for dissect.py.

Ordinary is an ICMP error, an echo reply, a RST or SYN-ACK without IP options, sound in its lengths and its
checksum, about a packet without IP options. Every rule here is one of dissect.py's, in array operations;
where it would take a second look to know what that one says, nothing is said here. This file knows no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from allhops.core.lanes import ROW_ALIGNMENT, ROW_SIZE
from allhops.core.lanes.columns import CODE_OF, LAYOUT_CODES, NOT_SHOWN, ROW
from allhops.core.lanes.dissect import SHORTEST_QUOTE, TCP_HEADER
from allhops.wire.checksum import MASK
from allhops.wire.classify import CLOSED, DESTINATION, ERROR_KINDS, IGNORED, NO_PORT, OPEN
from allhops.wire.extensions import ICMP_HEADER, SHORTEST_PADDED_QUOTE, VERSION, split_body
from allhops.wire.family import FAMILIES
from allhops.wire.probes import ACK, COOKIE_SIZE, RST, SYN, TCP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from allhops.core.lanes import Ring
    from allhops.model import Extension
    from allhops.wire.family import Family
    from allhops.wire.probes import Layout

_WIDTHS = (128, 320, 768, ROW_SIZE)
"""Packets of about one length are read together. An error about a probe of default size fits the first, one with
extensions the second."""

_KINDS = {version: np.frombuffer(kinds, np.uint8) for version, kinds in ERROR_KINDS.items()}
_LAYOUTS = {version: [layout for layout in LAYOUT_CODES if layout.family.version == version] for version in FAMILIES}
_OPAQUE = np.dtype(f"V{ROW.itemsize}")


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


class Skimmed(NamedTuple):
    """What n packets say, as far as they were read."""

    columns: NDArray[Any]
    """(n,) of `ROW`: replies at their packets' places, stamps and hearsay at all of them."""
    is_reply: NDArray[np.bool_]
    is_unread: NDArray[np.bool_]
    """Which ones to look at one by one."""
    foreign: int
    """Sound packets that are no reply to a kind of probe that we send."""
    extensions: list[tuple[Extension, ...] | None]


class _Packets:
    """Packets side by side: their places in the ring, bytes (n, width) that are zero behind their ends, and ends."""

    __slots__ = ("end", "head", "index")

    def __init__(self, index: NDArray[Any], head: NDArray[np.uint8], end: NDArray[Any]) -> None:
        self.index = index
        self.head = head
        self.end = end

    def __len__(self) -> int:
        return len(self.index)

    def where(self, mask: NDArray[np.bool_]) -> _Packets:
        """Those of a mask, side by side again."""
        chosen = np.flatnonzero(mask)
        if len(chosen) == len(mask):
            return self
        return _Packets(self.index[chosen], self.head.take(chosen, axis=0), self.end[chosen])

    def byte(self, offset: int) -> NDArray[np.uint8]:
        """One byte of each."""
        column: NDArray[np.uint8] = self.head[:, offset]
        return column

    def word(self, offset: int) -> NDArray[np.int32]:
        """One big-endian 16-bit word of each."""
        return self._raw(">u2", offset).astype(np.int32)

    def number(self, offset: int) -> NDArray[np.uint32]:
        """One big-endian 32-bit number of each."""
        return self._raw(">u4", offset).astype(np.uint32)

    def address(self, offset: int, size: int) -> NDArray[Any]:
        """Some bytes of each as one opaque value."""
        return self._raw(f"V{size}", offset)

    def shown_word(self, offset: int, end: NDArray[Any] | None) -> NDArray[np.int32]:
        """A word that is not shown by packets that end before it; without `end` all show it."""
        word = self.word(offset)
        return word if end is None else np.where(end >= offset + 2, word, NOT_SHOWN)

    def _raw(self, dtype: str, offset: int) -> NDArray[Any]:
        count, width = self.head.shape
        # An array's buffer cannot be empty, and nobody asks about no packets.
        return np.ndarray((count,), dtype, self.head, offset, (width,))


def skim(ring: Ring) -> Skimmed:
    """Read what is plainly ordinary."""
    count = ring.count
    result = Skimmed(np.zeros(count, ROW), np.zeros(count, np.bool_), np.ones(count, np.bool_), 0, [()])
    foreign = 0
    for width, index, head in _by_length(ring):
        lengths = np.frombuffer(ring.lengths, np.uint32)[index]
        versions = head[:, 0] >> 4
        for version, family in FAMILIES.items():
            mask = versions == version
            if mask.any():
                packets = _Packets(index, head, lengths).where(mask)
                foreign += _skim_family(result, family, packets, width)
    result.columns["stamp_ns"] = np.frombuffer(ring.stamps_ns, np.int64)[:count]
    result.columns["hearsay"] = np.frombuffer(ring.hearsay, np.uint8)[:count]
    return result._replace(foreign=foreign)


def _by_length(ring: Ring) -> Iterator[tuple[int, NDArray[Any], NDArray[np.uint8]]]:
    """(width, places, first bytes) of packets that are at most so long, copied side by side."""
    count = ring.count
    starts = np.frombuffer(ring.starts, np.int64)[:count] // ROW_ALIGNMENT
    lengths = np.frombuffer(ring.lengths, np.uint32)[:count]
    longer_than = 0
    for width in _WIDTHS:
        places = (len(ring.octets) - width) // ROW_ALIGNMENT + 1  # where so many bytes follow
        index = np.flatnonzero((lengths <= width) & (lengths > longer_than) & (starts < places))
        longer_than = width
        if len(index):
            heads = np.ndarray((places,), f"V{width}", ring.octets, 0, (ROW_ALIGNMENT,))  # wherever a packet may begin
            yield width, index, heads[starts[index]].view(np.uint8).reshape(-1, width)


def _skim_family(result: Skimmed, family: Family, packets: _Packets, width: int) -> int:
    """Read those of one IP version; how many of them are foreign."""
    header = family.header_size
    end = packets.word(family.length_offset) + (0 if family.length_covers_header else header)
    least = header + ICMP_HEADER
    is_sound = (family.header_length(packets.head[:, 0]) == header) & (end >= least) & (end <= packets.end)  # type: ignore[arg-type]  # arithmetic that means the same for an array
    sound = _Packets(packets.index, packets.head, end).where(is_sound)
    if not len(sound):
        return 0
    first_end, last_end = int(sound.end.min()), int(sound.end.max())
    sound.head[:, last_end:] = 0
    if first_end < last_end:
        is_inside = np.arange(first_end, last_end, dtype=np.int16) < sound.end.astype(np.int16)[:, None]
        sound.head[:, first_end:last_end] *= is_inside
    protocol = sound.byte(family.protocol_offset)
    is_icmp = protocol == family.icmp_protocol
    if not is_icmp.all():
        _skim_segments(result, family, sound.where(protocol == TCP))
        sound = sound.where(is_icmp)
    return _skim_icmp(result, family, sound) if len(sound) else 0


def _skim_icmp(result: Skimmed, family: Family, packets: _Packets) -> int:
    header = family.header_size
    icmp_type = packets.byte(header)
    kind = _KINDS[family.version][packets.word(header)]
    is_error, is_answer = kind != IGNORED, icmp_type == family.echo_reply
    is_foreign = ~(is_error | is_answer)
    result.is_unread[packets.index[is_foreign]] = False
    is_right = _checksums_are_right(family, packets)
    _skim_errors(result, family, packets.where(is_error & is_right), kind[is_error & is_right])
    _skim_echoes(result, family, packets.where(is_answer & is_right))
    return int(np.count_nonzero(is_foreign))


def _checksums_are_right(family: Family, packets: _Packets) -> NDArray[np.bool_]:
    """ICMP's, as sums of native 32-bit numbers.

    Modulo 0xFFFF 2**16 is 1, so that is the sum of the 16-bit words; and swapped bytes leave 0 what it is.
    """
    header = family.header_size
    start = header - 2 * family.address_size if family.icmp_has_pseudo_header else header
    last_end = int(packets.end.max())  # all are zero behind it
    numbers = packets.head.view(np.uint32)[:, start // 4 : -(-last_end // 4)]
    total = np.einsum("ij->i", numbers, dtype=np.uint64, casting="unsafe")  # a third faster than sum()
    if family.icmp_has_pseudo_header:
        rest = packets.end - header + family.icmp_protocol
        total += rest.astype(">u2").view(np.uint16)
    right: NDArray[np.bool_] = total % np.uint64(MASK) == 0
    return right


# ICMP errors


def _skim_errors(result: Skimmed, family: Family, packets: _Packets, kind: NDArray[np.uint8]) -> None:
    """Those whose quote is of a packet that we might have sent, without options."""
    header = family.header_size
    quote = header + ICMP_HEADER
    if not len(packets):
        return
    protocol = packets.byte(quote + family.protocol_offset)
    first = packets.byte(quote)
    is_ordinary = (first >> 4 == family.version) & (family.header_length(first) == header)  # type: ignore[arg-type]  # as above
    is_ordinary &= packets.end >= quote + header + SHORTEST_QUOTE
    for layout in _LAYOUTS[family.version]:
        mask = is_ordinary & (protocol == layout.protocol)
        if layout.protocol == family.icmp_protocol:
            mask &= packets.byte(quote + header) == family.echo_request
        if mask.any():
            _enter_errors(result, layout, packets.where(mask), kind[mask])


def _enter_errors(result: Skimmed, layout: Layout, packets: _Packets, kind: NDArray[np.uint8]) -> None:
    family = layout.family
    header = family.header_size
    quote = header + ICMP_HEADER
    columns = _columns(result, layout, packets)
    columns["kind"] = kind
    columns["is_quote"] = True
    _copy_address(columns, "responder", packets, family.source_offset, family)
    _copy_address(columns, "source", packets, quote + family.source_offset, family)
    _copy_address(columns, "destination", packets, quote + family.destination_offset, family)
    columns["icmp_type"] = packets.byte(header)
    columns["icmp_code"] = packets.byte(header + 1)
    columns["quoted_ttl"] = packets.byte(quote + family.ttl_offset)
    columns["quoted_tos"] = packets.word(quote) >> family.tos_shift & 0xFF
    columns["mtu"] = _mtus(family, packets)
    whole, columns["extensions"] = _split(result, family, packets)
    end = _without_padding(family, packets, whole)
    columns["flow"] = packets.word(quote + layout.flow_offset)
    columns["peer"] = packets.word(quote + layout.peer_offset)
    if family.id_offset is not None:
        columns["ip_id"] = _nonzero(packets.word(quote + family.id_offset))
    columns["checksum"] = _nonzero(packets.shown_word(quote + layout.checksum_offset, end))
    _show(columns, layout, packets, quote, end)
    _enter(result, packets, columns)


def _mtus(family: Family, packets: _Packets) -> NDArray[Any] | int:
    header = family.header_size
    icmp_type, code = family.too_big
    is_too_big = packets.word(header) == icmp_type << 8 | code
    if not is_too_big.any():
        return 0
    number = packets.number(header + ICMP_HEADER - 4)
    number &= np.uint32((1 << 8 * (ICMP_HEADER - family.mtu_offset)) - 1)
    return np.where(is_too_big, np.minimum(number, MASK), 0)


def _split(result: Skimmed, family: Family, packets: _Packets) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """(where each quote ends, which extensions follow it). Those that may have some are looked at one by one."""
    header = family.header_size
    body = header + ICMP_HEADER
    end, extensions = packets.end, np.zeros(len(packets), np.int32)
    claims = packets.byte(header + family.length_attribute) != 0
    structure = body + SHORTEST_PADDED_QUOTE
    if packets.head.shape[1] > structure:
        claims |= packets.byte(structure) >> 4 == VERSION
    if claims.any():
        end = end.copy()
        for position in np.flatnonzero(claims).tolist():
            message = packets.head[position, header : end[position]].tobytes()
            split = split_body(family, message)
            end[position] = body + len(split.quote)
            if split.extensions != ():
                extensions[position] = len(result.extensions)
                result.extensions.append(split.extensions)
    return end, extensions


def _without_padding(family: Family, packets: _Packets, end: NDArray[Any]) -> NDArray[Any]:
    """Ends of quotes without the zeros that some routers fill them up with behind 8 bytes of the transport header."""
    shortest = family.header_size + ICMP_HEADER + family.header_size + SHORTEST_QUOTE
    first = packets.number(shortest)
    doubtful = np.flatnonzero((first == 0) & (end > shortest))
    if len(doubtful):
        end = end.copy()
        rest = packets.head[doubtful, shortest:]
        rest[np.arange(shortest, shortest + rest.shape[1]) >= end[doubtful, None]] = 0
        end[doubtful[~rest.any(axis=1)]] = shortest
    return end


# Direct answers


def _skim_echoes(result: Skimmed, family: Family, packets: _Packets) -> None:
    if not len(packets):
        return
    layout = LAYOUT_CODES[CODE_OF[family.version, family.icmp_protocol]]
    columns = _answers(result, layout, packets)
    columns["port_state"] = NO_PORT
    columns["flow"] = packets.word(layout.flow_offset)
    columns["peer"] = NOT_SHOWN
    _show(columns, layout, packets, 0, packets.end)
    _enter(result, packets, columns)


def _skim_segments(result: Skimmed, family: Family, packets: _Packets) -> None:
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


def _enter_segments(result: Skimmed, family: Family, packets: _Packets, echo: int | None) -> None:
    """Segments that echo our time stamp, which is the cookie, at an offset."""
    if not len(packets):
        return
    header = family.header_size
    layout = LAYOUT_CODES[CODE_OF[family.version, TCP]]
    columns = _answers(result, layout, packets)
    sequence = packets.number(header + 8) - np.uint32(1)
    columns["port_state"] = np.where(packets.byte(header + 13) & RST, CLOSED, OPEN)
    columns["peer"] = packets.word(header)
    columns["flow"] = packets.word(header + 2)
    columns["mark"] = sequence >> np.uint32(16)
    columns["balance"] = sequence & np.uint32(MASK)
    if echo is not None:
        columns["cookie"] = cookie = packets.number(echo)
        columns["has_cookie"] = cookie != 0
    _enter(result, packets, columns)


def _answers(result: Skimmed, layout: Layout, packets: _Packets) -> NDArray[Any]:
    """What all answers of the destination's own have in common."""
    family = layout.family
    columns = _columns(result, layout, packets)
    columns["kind"] = DESTINATION
    columns["ip_id"] = NOT_SHOWN
    columns["checksum"] = NOT_SHOWN
    _copy_address(columns, "responder", packets, family.source_offset, family)
    _copy_address(columns, "destination", packets, family.source_offset, family)
    _copy_address(columns, "source", packets, family.destination_offset, family)
    columns["icmp_type"] = packets.byte(family.header_size)
    columns["icmp_code"] = packets.byte(family.header_size + 1)
    return columns


# Both


def _columns(result: Skimmed, layout: Layout, packets: _Packets) -> NDArray[Any]:
    """Columns of so many replies, zero but for what all have; the result's own if these are all."""
    family = layout.family
    columns = result.columns if len(packets) == len(result.columns) else np.zeros(len(packets), ROW)
    columns["layout"] = CODE_OF[family.version, layout.protocol]
    columns["reply_ttl"] = packets.byte(family.ttl_offset)
    if family.id_offset is None:
        columns["ip_id"] = NOT_SHOWN
    return columns


def _copy_address(columns: NDArray[Any], name: str, packets: _Packets, offset: int, family: Family) -> None:
    size = family.address_size
    columns[name].view(f"V{size}")[:, 0] = packets.address(offset, size)


def _show(columns: NDArray[Any], layout: Layout, packets: _Packets, shift: int, end: NDArray[Any]) -> None:
    """Mark, balance and cookie, where the probe begins at `shift`."""
    columns["mark"] = packets.shown_word(shift + layout.mark_offset, end)
    columns["balance"] = packets.shown_word(shift + layout.balance_offset, end)
    has_cookie = end >= shift + layout.cookie_offset + COOKIE_SIZE
    columns["has_cookie"] = has_cookie
    columns["cookie"] = packets.number(shift + layout.cookie_offset) * has_cookie


def _nonzero(word: NDArray[np.int32]) -> NDArray[np.int32]:
    """No probe leaves with an ID or a checksum of 0: who shows that has wiped it out."""
    return np.where(word == 0, NOT_SHOWN, word)


def _enter(result: Skimmed, packets: _Packets, columns: NDArray[Any]) -> None:
    if columns is not result.columns:
        # As opaque bytes: an array of records is copied field by field.
        result.columns.view(_OPAQUE)[packets.index] = columns.view(_OPAQUE)
    result.is_reply[packets.index] = True
    result.is_unread[packets.index] = False
