"""A probe's address, port, flow label and TTL stand where the kernel looks for them."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

import pytest

from allhops.core.lanes import Block
from allhops.model import Protocol
from allhops.net.errqueue.hearing import ping_kind, udp_kind
from allhops.net.errqueue.numbers import NUMBERS
from allhops.net.errqueue.outbox import Outbox
from allhops.wire.probes import LAYOUTS, Flow, build_template

DESTINATIONS = {4: ("192.0.2.9", "198.51.100.7"), 6: ("2001:db8::9", "fe80::7")}
SCOPE = 3
LABEL = 0x12345


def block(protocol: Protocol, version: int) -> Block:
    layout = LAYOUTS[protocol, version]
    own = ip_address("::1" if version == 6 else "127.0.0.1").packed
    packets = bytearray()
    for ttl, destination in enumerate(DESTINATIONS[version], start=7):
        packet = bytearray(
            build_template(
                layout,
                Flow(
                    source=own,
                    destination=ip_address(destination).packed,
                    source_port=40_000,
                    destination_port=33_434,
                    key=1,
                    cookie=b"cook",
                    size=80,
                    tos=0xB8,
                    flow_label=LABEL if version == 6 else 0,
                ),
            ).packet
        )
        packet[layout.family.ttl_offset] = ttl
        packets += packet
    return Block(range(2), packets, 80)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [Protocol.UDP, Protocol.ICMP])
def test_messages_are_what_the_kernel_reads(protocol: Protocol, version: int) -> None:
    numbers = NUMBERS[version]
    kind = udp_kind() if protocol is Protocol.UDP else ping_kind(numbers)
    outbox = Outbox(kind, numbers, SCOPE)
    outbox.fill(block(protocol, version), 0, 2)
    port = 33_434 if protocol is Protocol.UDP else 0
    messages = outbox._messages
    for at, text in enumerate(DESTINATIONS[version]):
        packed = ip_address(text).packed
        expected = struct.pack("=H", numbers.domain) + port.to_bytes(2)
        if version == 4:
            expected += packed + bytes(8)
        else:
            expected += LABEL.to_bytes(4) + packed + struct.pack("=I", SCOPE if text.startswith("fe80") else 0)
        assert messages.names[at].tobytes() == expected
        level = socket.IPPROTO_IP if version == 4 else socket.IPPROTO_IPV6
        option = socket.IP_TTL if version == 4 else socket.IPV6_HOPLIMIT
        assert struct.unpack_from("@Niii", messages.controls[at].tobytes()) == (20, level, option, 7 + at)


@pytest.mark.parametrize("first", [0, 1])
def test_only_the_payload_is_ours(first: int) -> None:
    """And the block is let go of: what is viewed cannot grow."""
    probes = block(Protocol.UDP, 4)
    outbox = Outbox(udp_kind(), NUMBERS[4], 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver, socket.socket(receiver.family, 2) as sender:
        receiver.bind(("127.0.0.1", 0))
        for at in range(2):
            probes.packets[80 * at + 16 : 80 * at + 20] = bytes((127, 0, 0, 1))
            probes.packets[80 * at + 22 : 80 * at + 24] = receiver.getsockname()[1].to_bytes(2)
        outbox.fill(probes, first, 2 - first)
        assert outbox.send(sender.fileno(), 0, 2 - first) == (2 - first, 0)
        outbox.release()
        for at in range(first, 2):
            assert receiver.recv(100) == probes.packets[80 * at + 28 : 80 * at + 80]
    probes.packets.append(0)
