"""What routers append to the packet that they quote: MPLS labels, interfaces, things unknown.

Two forms are on the wire. RFC 4884: the ICMP header says where the quote ends. Before it: the quote is always 128
bytes and nothing says so; that is believed only if version and checksum are right, because what stands there may just
as well be more quote. A structure that lies about its lengths or its checksum is no structure: all of it is
left out, and the hop is kept. This file knows no clock and no socket.

Source: RFC 4884 (structure), RFC 4950 (MPLS), RFC 5837 (interfaces).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, NamedTuple

from allhops.model import Extension, InterfaceInfo, InterfaceRole, MplsLabel, UnknownObject
from allhops.wire.checksum import MASK, word_sum

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.model import Address
    from allhops.wire.family import Family

ICMP_HEADER = 8
"""Bytes before the quote in an ICMP error, both families."""
SHORTEST_PADDED_QUOTE = 128
"""Bytes of the quote in front of any extensions, at least (RFC 4884 4)."""
VERSION = 2
MAX_OBJECTS = 16
"""More is no honest router: an MPLS stack and four interfaces are five."""

_REMEMBERED = 512
"""Structures: a router says the same about every probe."""
_HEADER = struct.Struct("!HH")
_OBJECT = struct.Struct("!HBB")
_LABEL = struct.Struct("!I")

_MPLS = (1, 1)
_INTERFACE_CLASS = 2
_HAS_INDEX, _HAS_ADDRESS, _HAS_NAME, _HAS_MTU = 0x08, 0x04, 0x02, 0x01
_ROLES = tuple(InterfaceRole)
_LONGEST_NAME = 64
"""Bytes of an interface name's sub-object (RFC 5837 4.3)."""
_ADDRESSES: dict[int, tuple[int, Callable[[bytes], Address]]] = {1: (4, IPv4Address), 2: (16, IPv6Address)}
"""Address family number to size in bytes and type."""


class BrokenExtensions(ValueError):
    """Something that claims to be extensions and is not; never leaves this file and its caller."""


class Body(NamedTuple):
    """What follows the ICMP header of an error: where the quote ends, and what is behind it."""

    quote: bytes
    extensions: tuple[Extension, ...] | None
    """None when they are broken."""


def split_body(family: Family, message: bytes) -> Body:
    """Quote and extensions of an ICMP error, from its ICMP header on. Never raises."""
    body = message[ICMP_HEADER:]
    if message[0] not in family.extensible:
        return Body(body, ())
    claimed = message[family.length_attribute] * family.length_unit
    end = claimed or SHORTEST_PADDED_QUOTE
    if not claimed and not _is_older_form(body):
        return Body(body, ())
    if not SHORTEST_PADDED_QUOTE <= end <= len(body) - _HEADER.size:
        return Body(body, None)
    try:
        return Body(body[:end], read_structure(body[end:]))
    except BrokenExtensions:
        return Body(body[:end], None)


def _is_older_form(body: bytes) -> bool:
    """Whether byte 128 begins a structure, with no length to say so: version 2 and a right checksum."""
    structure = body[SHORTEST_PADDED_QUOTE:]
    if len(structure) < _HEADER.size + _OBJECT.size or structure[0] >> 4 != VERSION:
        return False
    return structure[2:4] != b"\0\0" and word_sum(structure) == MASK


@lru_cache(maxsize=_REMEMBERED)
def read_structure(structure: bytes) -> tuple[Extension, ...]:
    """Every object of an extension structure, in order.

    Raises: BrokenExtensions (version, checksum, a length that does not fit, too many objects).
    """
    if len(structure) < _HEADER.size or structure[0] >> 4 != VERSION:
        raise BrokenExtensions
    # A checksum of 0 means that none was transmitted (RFC 4884 7).
    if structure[2:4] != b"\0\0" and word_sum(structure) != MASK:
        raise BrokenExtensions
    found: list[Extension] = []
    at, objects = _HEADER.size, 0
    while at < len(structure):
        objects += 1
        if len(structure) - at < _OBJECT.size or objects > MAX_OBJECTS:
            raise BrokenExtensions
        length, class_num, c_type = _OBJECT.unpack_from(structure, at)
        if not _OBJECT.size <= length <= len(structure) - at:
            raise BrokenExtensions
        found += _read_object(class_num, c_type, structure[at + _OBJECT.size : at + length])
        at += length
    return tuple(found)


def _read_object(class_num: int, c_type: int, data: bytes) -> list[Extension]:
    """One object; one that does not read as its class should is kept as it is, in hex."""
    try:
        if (class_num, c_type) == _MPLS:
            return [*_label_stack(data)]
        if class_num == _INTERFACE_CLASS:
            return [_interface(c_type, data)]
    except BrokenExtensions:
        pass
    return [UnknownObject(class_num=class_num, c_type=c_type, data=data.hex())]


def _label_stack(data: bytes) -> list[MplsLabel]:
    """Label 20 bits, traffic class 3, bottom of stack 1, TTL 8 (RFC 3032 2.1)."""
    if not data or len(data) % _LABEL.size:
        raise BrokenExtensions
    return [
        MplsLabel(label=word >> 12, traffic_class=word >> 9 & 7, bottom_of_stack=bool(word & 0x100), ttl=word & 0xFF)
        for (word,) in _LABEL.iter_unpack(data)
    ]


class _Fields:
    """The optional parts of an interface object, taken from the front one after the other."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def take(self, size: int) -> bytes:
        if size > len(self.rest):
            raise BrokenExtensions
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def address(self) -> Address:
        """Family number, two reserved bytes, the address (RFC 5837 4.2)."""
        known = _ADDRESSES.get(self.number() >> 16)
        if known is None:
            raise BrokenExtensions
        size, kind = known
        return kind(self.take(size))

    def name(self) -> str:
        """A length that counts itself, then UTF-8 padded with zeros (RFC 5837 4.3)."""
        length = self.take(1)[0]
        if not 1 <= length <= _LONGEST_NAME or length % 4:
            raise BrokenExtensions
        return _printable(self.take(length - 1).rstrip(b"\0"))


def _interface(c_type: int, data: bytes) -> InterfaceInfo:
    """RFC 5837 4.1: the C-Type's upper two bits are the role, its lower four say which parts follow, in this order."""
    fields = _Fields(data)
    info = InterfaceInfo(
        role=_ROLES[c_type >> 6],
        index=fields.number() if c_type & _HAS_INDEX else None,
        address=fields.address() if c_type & _HAS_ADDRESS else None,
        name=fields.name() if c_type & _HAS_NAME else None,
        mtu=fields.number() if c_type & _HAS_MTU else None,
    )
    if fields.rest:
        raise BrokenExtensions
    return info


def _printable(name: bytes) -> str:
    r"""A name from the network as ASCII that no terminal acts upon.

    >>> _printable(b"xe-0/0/1" + bytes([27]))
    'xe-0/0/1\\027'
    """
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\{byte:03d}" for byte in name)
