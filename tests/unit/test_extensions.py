"""What stands behind a quote: true, broken, strange."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from allhops.model import InterfaceInfo, InterfaceRole, MplsLabel, UnknownObject
from allhops.testing.quoting import extension_structure
from allhops.testing.scenario import ExtensionObject, Extensions
from allhops.testing.scenario import MplsLabel as Label
from allhops.wire.extensions import MAX_OBJECTS, BrokenExtensions, read_structure, split_body
from allhops.wire.family import FAMILIES
from benchmarks.replies import INTERFACE, MPLS

if TYPE_CHECKING:
    from allhops.model import Extension


def of(class_num: int, c_type: int, data: str) -> tuple[Extension, ...]:
    one = ExtensionObject(class_num=class_num, c_type=c_type, data=bytes.fromhex(data))
    return read_structure(extension_structure(Extensions(objects=(one,))))


def test_a_label_stack() -> None:
    assert read_structure(MPLS) == (
        MplsLabel(label=16001, traffic_class=0, bottom_of_stack=False, ttl=1),
        MplsLabel(label=24005, traffic_class=5, bottom_of_stack=True, ttl=9),
    )
    assert of(1, 1, "ffffffff") == (MplsLabel(label=2**20 - 1, traffic_class=7, bottom_of_stack=True, ttl=255),)


def test_an_interface_with_all_it_can_say() -> None:
    assert read_structure(INTERFACE) == (
        InterfaceInfo(role=InterfaceRole.OUTGOING, index=7, address=ip_address("192.0.2.1"), name="xe-0/01", mtu=9000),
    )


@pytest.mark.parametrize(
    ("c_type", "data", "info"),
    [
        (0x08, "00000007", InterfaceInfo(role=InterfaceRole.INCOMING, index=7)),
        (0x41, "000005dc", InterfaceInfo(role=InterfaceRole.SUB_IP, mtu=1500)),
        (
            0xC4,
            "00020000" + "20010db8" + "00" * 11 + "01",
            InterfaceInfo(role=InterfaceRole.NEXT_HOP, address=ip_address("2001:db8::1")),
        ),
        (0x02, "08" + b"lo\x1b[1m".hex() + "00", InterfaceInfo(role=InterfaceRole.INCOMING, name="lo\\027[1m")),
        (0x00, "", InterfaceInfo(role=InterfaceRole.INCOMING)),
    ],
)
def test_an_interface_in_parts(c_type: int, data: str, info: InterfaceInfo) -> None:
    assert of(2, c_type, data) == (info,)


@pytest.mark.parametrize(
    ("class_num", "c_type", "data"),
    [
        (1, 1, ""),  # no labels
        (1, 1, "0102"),  # half a label
        (1, 2, "00000000"),
        (2, 0x08, "0000"),  # half an index
        (2, 0x08, "0000000700"),  # something behind it
        (2, 0x04, "00030000c0000201"),  # an address family nobody knows
        (2, 0x02, "00"),  # a name of no length
        (2, 0x02, "05414141"),  # not a multiple of four
        (2, 0x02, "44" + "41" * 67),  # longer than 64
        (2, 0x02, "08414141"),  # longer than the object
        (3, 1, "cafe"),
        (247, 0, ""),
    ],
)
def test_what_does_not_read_as_its_class_is_kept_in_hex(class_num: int, c_type: int, data: str) -> None:
    assert of(class_num, c_type, data) == (UnknownObject(class_num=class_num, c_type=c_type, data=data),)


def test_no_checksum_is_a_checksum_that_was_not_sent() -> None:
    unsigned = MPLS[:2] + b"\0\0" + MPLS[4:]
    assert len(read_structure(unsigned)) == 2


@pytest.mark.parametrize(
    "structure",
    [
        b"",
        MPLS[:3],
        b"\x10" + MPLS[1:],
        MPLS[:2] + b"\xde\xad" + MPLS[4:],
        bytes.fromhex("20000000 ffff0101 00000000"),
        bytes.fromhex("20000000 00030101"),
        bytes.fromhex("20000000 00000101"),
        bytes.fromhex("20000000 0004"),
        bytes.fromhex("20000000") + bytes.fromhex("00040101") * (MAX_OBJECTS + 1),
    ],
    ids=["empty", "cut", "version", "checksum", "too_long", "too_short", "zero", "half_object", "too_many"],
)
def test_a_structure_that_lies_is_none(structure: bytes) -> None:
    with pytest.raises(BrokenExtensions):
        read_structure(structure)


@pytest.mark.parametrize("version", [4, 6])
def test_where_the_quote_ends(version: int) -> None:
    family = FAMILIES[version]
    quote = bytes(range(128))
    said = 128 // family.length_unit

    def message(length: int, body: bytes, icmp_type: int = family.time_exceeded) -> bytes:
        head = bytearray(8)
        head[0], head[family.length_attribute] = icmp_type, length
        return bytes(head) + body

    assert split_body(family, message(said, quote + MPLS)) == (quote, read_structure(MPLS))
    assert split_body(family, message(0, quote + MPLS)) == (quote, read_structure(MPLS))
    for body in (quote + b"\x10" + MPLS[1:], quote + MPLS[:2] + bytes(2) + MPLS[4:], quote + MPLS[:7], quote):
        assert split_body(family, message(0, body)) == (body, ())
    for length in (1, said - 1, said + 1, 255):
        body, extensions = split_body(family, message(length, quote + MPLS))
        assert extensions is None
        assert body in (quote + MPLS, (quote + MPLS)[: length * family.length_unit])
    assert split_body(family, message(said, quote + MPLS, family.echo_request)) == (quote + MPLS, ())


def test_the_packets_here_are_what_they_seem() -> None:
    assert extension_structure(Extensions(mpls=(Label(label=16001), Label(label=24005, tc=5, ttl=9)))) == MPLS
