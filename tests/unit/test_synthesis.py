"""What the kernel told, written down as a packet, reads back as what it told, and claims nothing else."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import dpkt
import pytest

from allhops.core.lanes.dissect import dissect
from allhops.core.lanes.rows import ReplyRow
from allhops.net.errqueue.numbers import NUMBERS
from allhops.net.errqueue.queue import IcmpTold
from allhops.net.errqueue.synthesis import ErrorWriter, ip_packet, quoted_header, tcp_answer, udp_header
from allhops.wire.checksum import internet_checksum
from allhops.wire.classify import CLOSED, OPEN
from allhops.wire.probes import TCP, UDP

OWN = {4: ip_address("192.0.2.1").packed, 6: ip_address("2001:db8::1").packed}
ROUTER = {4: ip_address("10.0.0.7").packed, 6: ip_address("2001:db8:1::7").packed}
HOST = {4: ip_address("203.0.113.9").packed, 6: ip_address("2001:db8:9::9").packed}
BOTH = pytest.mark.parametrize("version", [4, 6])
NAME = b"COOKIEma"


def told(version: int, icmp_type: int, icmp_code: int, *, info: int = 0, extensions_at: int = 0) -> IcmpTold:
    origin = NUMBERS[version].icmp_origin
    return IcmpTold(113, origin, icmp_type, icmp_code, info, extensions_at, ROUTER[version])


def udp_error(version: int, icmp: IcmpTold, data: bytes, reply_ttl: int = 61) -> ReplyRow:
    numbers = NUMBERS[version]
    quote = quoted_header(numbers.family, OWN[version], HOST[version], UDP, 60) + udp_header(40_000, 33_434, 40) + data
    packet = ErrorWriter(numbers.family, OWN[version]).write(icmp, quote, told=len(data), reply_ttl=reply_ttl)
    row = dissect(memoryview(packet), 7)
    assert isinstance(row, ReplyRow), row
    return row


@BOTH
def test_an_error_reads_back_as_it_was_told(version: int) -> None:
    family = NUMBERS[version].family
    row = udp_error(version, told(version, family.time_exceeded, 0), NAME + bytes(8))
    assert (row.responder, row.reply_ttl, row.icmp_type, row.icmp_code) == (
        ROUTER[version],
        61,
        family.time_exceeded,
        0,
    )
    assert (row.probe.source, row.probe.destination) == (OWN[version], HOST[version])
    assert (row.probe.flow, row.probe.peer) == (40_000, 33_434)
    assert row.probe.cookie == NAME[:4]


@BOTH
def test_what_was_not_told_is_shown_as_not_there(version: int) -> None:
    family = NUMBERS[version].family
    probe = udp_error(version, told(version, family.time_exceeded, 0), b"").probe
    assert (probe.ip_id, probe.checksum, probe.cookie, probe.mark) == (None, None, None, None)


@BOTH
def test_the_mtu_is_where_it_belongs(version: int) -> None:
    assert udp_error(version, told(version, *NUMBERS[version].family.too_big, info=1_280), NAME).mtu == 1_280


@BOTH
def test_extensions_are_found_where_the_kernel_says(version: int) -> None:
    family = NUMBERS[version].family
    stack_entry = (16_001 << 12 | 1 << 8 | 1).to_bytes(4)
    body = struct.pack("!BBH", 0x20, 0, 0) + struct.pack("!HBB", 8, 1, 1) + stack_entry
    extension = body[:2] + internet_checksum(body).to_bytes(2) + body[4:]
    until = 128 - family.header_size - 8
    icmp = told(version, family.time_exceeded, 0, extensions_at=until)
    row = udp_error(version, icmp, (NAME + bytes(8)).ljust(until, b"\0") + extension)
    assert row.extensions
    assert "16001" in repr(row.extensions)


@BOTH
@pytest.mark.parametrize("is_open", [True, False])
def test_a_tcp_answer_acknowledges_the_probe(version: int, is_open: bool) -> None:
    family = NUMBERS[version].family
    segment = struct.pack("!HHIIBBHHH", 40_000, 443, 0xFFFFFFFF, 0, 0x50, 2, 0, 0, 0)
    packet = tcp_answer(family, ip_packet(family, OWN[version], HOST[version], TCP, 5, segment), is_open=is_open)
    row = dissect(memoryview(packet), 7)
    assert isinstance(row, ReplyRow)
    assert row.port_state == (OPEN if is_open else CLOSED)
    assert (row.responder, row.probe.flow, row.probe.peer) == (HOST[version], 40_000, 443)
    assert (row.probe.mark, row.probe.balance) == (0xFFFF, 0xFFFF), "one more than this wraps to 0"
    assert row.reply_ttl == 0


def test_an_ipv4_header_has_its_checksum() -> None:
    packet = ip_packet(NUMBERS[4].family, ROUTER[4], OWN[4], 1, 61, b"payload!")
    assert internet_checksum(packet[:20]) == 0
    assert dpkt.ip.IP(packet).ttl == 61
