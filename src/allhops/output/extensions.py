"""ICMP extensions in the JSON: one record for each type, told apart by `type`.

This file knows no packet: see `allhops.wire.extensions`.

Source: RFC 4884, RFC 4950 (MPLS), RFC 5837 (interfaces).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allhops.model import InterfaceInfo, InterfaceRole, MplsLabel, UnknownObject
from allhops.output.fields import ADDRESS, BOOLEAN, BYTE, HEX, LONG, TEXT, Field, Record, integer, one_of, or_null

if TYPE_CHECKING:
    from allhops.model import Extension

_MPLS_OBJECT = "MPLS label stack object of the reply"
_INTERFACE_OBJECT = "interface information object of the reply"
_OBJECT_HEADER = "object header in the reply"


def _type(name: str) -> Field[Any]:
    return Field("type", {"const": name}, lambda extension: name, "Tells the kinds of extension apart.")


MPLS: Record[MplsLabel] = Record(
    "mpls",
    "One entry of the MPLS label stack that the probe arrived with, the outermost first (RFC 4950).",
    (
        _type("mpls"),
        Field("label", integer(0, (1 << 20) - 1), lambda entry: entry.label, "Label.", origin=_MPLS_OBJECT),
        Field(
            "traffic_class",
            integer(0, 7),
            lambda entry: entry.traffic_class,
            "Traffic class, formerly EXP.",
            origin=_MPLS_OBJECT,
        ),
        Field(
            "bottom_of_stack",
            BOOLEAN,
            lambda entry: entry.bottom_of_stack,
            "Whether it is the innermost.",
            origin=_MPLS_OBJECT,
        ),
        Field("ttl", BYTE, lambda entry: entry.ttl, "TTL of the label.", unit="hops", origin=_MPLS_OBJECT),
    ),
)

INTERFACE: Record[InterfaceInfo] = Record(
    "interface",
    "What the responder says of one of its interfaces (RFC 5837); null for what it does not say.",
    (
        _type("interface"),
        Field(
            "role",
            one_of(InterfaceRole),
            lambda info: info.role,
            "Which one: where the probe came in, its part below IP, where it would have gone out, or the next hop.",
            origin=_OBJECT_HEADER,
        ),
        Field("index", or_null(LONG), lambda info: info.index, "Its ifIndex.", origin=_INTERFACE_OBJECT),
        Field(
            "address",
            or_null(ADDRESS),
            lambda info: info.address and str(info.address),
            "Its address.",
            origin=_INTERFACE_OBJECT,
        ),
        Field(
            "name",
            or_null(TEXT),
            lambda info: info.name,
            r"Its name in printable ASCII, anything else as \DDD.",
            origin=_INTERFACE_OBJECT,
        ),
        Field("mtu", or_null(LONG), lambda info: info.mtu, "Its MTU.", unit="bytes", origin=_INTERFACE_OBJECT),
    ),
)

UNKNOWN: Record[UnknownObject] = Record(
    "unknown",
    "An object of another class, or one that does not read as its class should.",
    (
        _type("unknown"),
        Field("class_num", BYTE, lambda unread: unread.class_num, "Class-Num.", origin=_OBJECT_HEADER),
        Field("c_type", BYTE, lambda unread: unread.c_type, "C-Type.", origin=_OBJECT_HEADER),
        Field("data", HEX, lambda unread: unread.data, "Its payload in hexadecimal.", origin="object in the reply"),
    ),
)

EXTENSIONS: tuple[Record[Any], ...] = (MPLS, INTERFACE, UNKNOWN)
_RECORDS: dict[type[Extension], Record[Any]] = {MplsLabel: MPLS, InterfaceInfo: INTERFACE, UnknownObject: UNKNOWN}


def write_extension(extension: Extension) -> dict[str, object]:
    """The object for one extension, ready for `json.dumps`."""
    return _RECORDS[type(extension)].write(extension)
