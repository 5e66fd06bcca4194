"""What a router puts into its ICMP errors: the quoted packet, cut and perhaps falsified, and extensions.

Everything that does not depend on the probe is computed once, when the
scenario is taken in. This file knows no clock and no socket.

Source: RFC 4884 (extension structure, length attribute), RFC 4950 (MPLS).
"""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING

from allhops.testing.packets import CHECKSUM_AT, TRANSPORT_HEADER, seal_header
from allhops.testing.scenario import ExtensionForm
from allhops.wire.checksum import internet_checksum

if TYPE_CHECKING:
    from allhops.testing.packets import Layout, Sent
    from allhops.testing.scenario import Extensions, MplsLabel, Rewrite

LEGACY_QUOTE = 128
"""Bytes of the quoted packet in front of extensions, at least (RFC 4884 section 5.5)."""
MPLS_CLASS, MPLS_INCOMING_STACK = 1, 1

ICMP_HEADER_BYTES = 8


class Quoting:
    """Makes the payload of one router's ICMP errors in one family."""

    __slots__ = ("_extensions", "_layout", "_rewrite", "_room", "_structure")

    def __init__(
        self, layout: Layout, quote: int | None, rewrite: Rewrite | None, extensions: Extensions | None
    ) -> None:
        self._layout = layout
        self._room = layout.error_room - layout.header_bytes - ICMP_HEADER_BYTES if quote is None else quote
        self._rewrite = rewrite
        self._extensions = extensions
        self._structure = extension_structure(extensions) if extensions else b""

    def payload(self, seen: Sent, arriving: bytes, rest: bytes, icmp_type: int) -> tuple[bytes, bytes]:
        """(rest of header, payload) of an error.

        `arriving` is the packet `seen` with the TTL it has here; `rest` are the four
        bytes behind the ICMP checksum, into which the length attribute goes.
        """
        if self._rewrite is not None:
            arriving = rewritten(seen, arriving, self._rewrite)
        extensions, layout = self._extensions, self._layout
        if extensions is None or icmp_type not in layout.extensible:
            return rest, arriving[: self._room]
        if extensions.form is ExtensionForm.LEGACY:
            quoted = arriving[: min(self._room, LEGACY_QUOTE)].ljust(LEGACY_QUOTE, b"\0")
            length = 0
        else:
            quoted = arriving[: min(self._room, 255 * layout.length_unit)]
            padded = max(LEGACY_QUOTE, -(-len(quoted) // layout.length_unit) * layout.length_unit)
            quoted = quoted.ljust(padded, b"\0")
            length = padded // layout.length_unit
        if extensions.length is not None:
            length = extensions.length
        at = layout.length_at - 4
        return rest[:at] + bytes((length,)) + rest[at + 1 :], quoted + self._structure


def extension_structure(extensions: Extensions) -> bytes:
    """Extension header and objects (RFC 4884 section 7), as true as `extensions` wants them."""
    if extensions.raw is not None:
        return extensions.raw
    objects = b""
    if extensions.mpls:
        objects += _object(MPLS_CLASS, MPLS_INCOMING_STACK, _label_stack(extensions.mpls))
    objects += b"".join(_object(one.class_num, one.c_type, one.data) for one in extensions.objects)
    first = extensions.version << 12
    checksum = extensions.checksum
    if checksum is None:
        checksum = internet_checksum(pack("!HH", first, 0) + objects)
    return pack("!HH", first, checksum) + objects


def _object(class_num: int, c_type: int, data: bytes) -> bytes:
    return pack("!HBB", 4 + len(data), class_num, c_type) + data


def _label_stack(labels: tuple[MplsLabel, ...]) -> bytes:
    words = [entry.label << 12 | entry.tc << 9 | entry.ttl for entry in labels]
    words[-1] |= 0x100
    return pack(f"!{len(words)}I", *words)


def rewritten(seen: Sent, arriving: bytes, rewrite: Rewrite) -> bytes:
    """The quoted packet after the router's falsifications, as long as it was unless the payload changes."""
    packet = bytearray(arriving)
    segment = _rewritten_segment(packet[seen.transport :], seen.protocol, rewrite)
    head = packet[: seen.transport]
    rewrite_header = _rewrite_ipv4 if seen.layout.version == 4 else _rewrite_ipv6
    rewrite_header(head, rewrite)
    return bytes(head + segment)


def _rewritten_segment(segment: bytearray, protocol: int, rewrite: Rewrite) -> bytearray:
    if rewrite.source_port is not None:
        segment[0:2] = rewrite.source_port.to_bytes(2)
    if rewrite.destination_port is not None:
        segment[2:4] = rewrite.destination_port.to_bytes(2)
    if rewrite.checksum is not None and protocol in CHECKSUM_AT:
        at = CHECKSUM_AT[protocol]
        segment[at : at + 2] = rewrite.checksum.to_bytes(2)
    if rewrite.payload is not None:
        segment[TRANSPORT_HEADER.get(protocol, 0) :] = rewrite.payload
    return segment


def _rewrite_ipv4(head: bytearray, rewrite: Rewrite) -> None:
    if rewrite.tos is not None:
        head[1] = rewrite.tos
    if rewrite.ip_length is not None:
        head[2:4] = rewrite.ip_length.to_bytes(2)
    if rewrite.ip_id is not None:
        head[4:6] = rewrite.ip_id.to_bytes(2)
    if rewrite.ttl is not None:
        head[8] = rewrite.ttl
    if rewrite.source is not None:
        head[12:16] = rewrite.source.packed
    if rewrite.destination is not None:
        head[16:20] = rewrite.destination.packed
    seal_header(head)
    if rewrite.ip_checksum is not None:
        head[10:12] = rewrite.ip_checksum.to_bytes(2)


def _rewrite_ipv6(head: bytearray, rewrite: Rewrite) -> None:
    if rewrite.tos is not None:
        word = int.from_bytes(head[:4]) & ~(0xFF << 20) | rewrite.tos << 20
        head[:4] = word.to_bytes(4)
    if rewrite.ip_length is not None:
        head[4:6] = rewrite.ip_length.to_bytes(2)
    if rewrite.ttl is not None:
        head[7] = rewrite.ttl
    if rewrite.source_ipv6 is not None:
        head[8:24] = rewrite.source_ipv6.packed
    if rewrite.destination_ipv6 is not None:
        head[24:40] = rewrite.destination_ipv6.packed
