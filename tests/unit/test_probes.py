from __future__ import annotations

from typing import Any

import dpkt
import pytest

from allhops.wire.checksum import internet_checksum, pseudo_header_sum, word_sum
from allhops.wire.codec import encode_mark
from allhops.wire.probes import LAYOUTS, Flow, Layout, Template, build_template, patches

KEY = 0xBEEF
COOKIE = b"\xc0\x0c\x1e\x5a"
SOURCES = {4: bytes([192, 0, 2, 1]), 6: bytes.fromhex("20010db8000000000000000000000001")}
DESTINATIONS = {4: bytes([203, 0, 113, 9]), 6: bytes.fromhex("20010db8000900000000000000000009")}
PARSERS: dict[int, Any] = {4: dpkt.ip.IP, 6: dpkt.ip6.IP6}


@pytest.fixture(params=LAYOUTS.values(), ids=lambda layout: f"{layout.protocol}-ipv{layout.family.version}")
def layout(request: pytest.FixtureRequest) -> Layout:
    assert isinstance(request.param, Layout)
    return request.param


def template_of(layout: Layout, **changes: Any) -> Template:
    version = layout.family.version
    fields: dict[str, Any] = {
        "source": SOURCES[version],
        "destination": DESTINATIONS[version],
        "source_port": 40_000,
        "destination_port": 33_434,
        "key": KEY,
        "cookie": COOKIE,
        "size": layout.family.default_size,
    }
    return build_template(layout, Flow(**fields | changes))


def probe_of(template: Template, ttl: int, attempt: int = 0) -> bytes:
    packet = bytearray(template.packet)
    for offset, word in patches(template, ttl, encode_mark(ttl, attempt, template.key)):
        packet[offset : offset + 2] = word.to_bytes(2, "big")
    return bytes(packet)


def test_checksums_are_right_for_every_ttl(layout: Layout) -> None:
    family = layout.family
    template = template_of(layout)
    for ttl in range(1, 256):
        packet = probe_of(template, ttl)
        header, transport = packet[: family.header_size], packet[family.header_size :]
        if family.checksum_offset is not None:
            assert internet_checksum(header) == 0
        total = word_sum(transport)
        if layout.has_pseudo_header:
            version = family.version
            total += pseudo_header_sum(SOURCES[version], DESTINATIONS[version], layout.protocol, len(transport))
        assert total % 0xFFFF == 0


def test_what_balancers_hash_is_the_same_in_every_probe(layout: Layout) -> None:
    """Addresses, protocol, flow label and traffic class, and the first four bytes of the transport header."""
    family = layout.family
    template = template_of(layout)

    def hashed(packet: bytes) -> bytes:
        addresses = packet[family.source_offset : family.destination_offset + family.address_size]
        return packet[:2] + addresses + packet[family.header_size : family.header_size + 4]

    probes = [probe_of(template, ttl, attempt) for ttl in range(1, 31) for attempt in range(3)]
    assert len({hashed(probe) for probe in probes}) == 1
    assert len({probe[layout.checksum_offset : layout.checksum_offset + 2] for probe in probes}) == 1
    assert len(set(probes)) == len(probes)


def test_dpkt_reads_what_was_asked_for(layout: Layout) -> None:
    packet = PARSERS[layout.family.version](probe_of(template_of(layout, tos=0xB8), ttl=7))
    assert packet.src == SOURCES[layout.family.version]
    assert packet.dst == DESTINATIONS[layout.family.version]
    assert len(bytes(packet)) == layout.family.default_size
    assert (packet.ttl if layout.family.version == 4 else packet.hlim) == 7
    assert (packet.tos if layout.family.version == 4 else packet.fc) == 0xB8


def test_udp_ports_and_length() -> None:
    for version in (4, 6):
        layout = next(at for at in LAYOUTS.values() if at.family.version == version and at.protocol == 17)
        udp = PARSERS[version](probe_of(template_of(layout), ttl=1)).data
        assert isinstance(udp, dpkt.udp.UDP)
        assert (udp.sport, udp.dport, udp.ulen) == (40_000, 33_434, 40)


def test_smallest_size_has_room_for_every_field(layout: Layout) -> None:
    template = template_of(layout, size=layout.smallest_size)
    assert len(probe_of(template, ttl=30)) == layout.smallest_size
    assert layout.balance_offset + 2 <= layout.smallest_size


def test_ip_id_is_never_zero() -> None:
    """Linux rewrites an IP ID of 0 when DF is clear."""
    for layout in LAYOUTS.values():
        if layout.family.id_offset is None:
            continue
        template = template_of(layout)
        for ttl in range(1, 256):
            packet = probe_of(template, ttl)
            assert packet[layout.family.id_offset : layout.family.id_offset + 2] != b"\0\0"


def test_udp_checksum_is_never_zero() -> None:
    """0 would mean "no checksum" on IPv4 and is forbidden on IPv6."""
    for layout in LAYOUTS.values():
        if layout.protocol != 17:
            continue
        makes_it_zero = template_of(layout, key=0).checksum
        assert template_of(layout, key=makes_it_zero).checksum == 0xFFFF
