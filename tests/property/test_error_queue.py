"""Whatever control messages and bytes an error queue hands over, nothing raises and nothing is invented."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.core.lanes import Ring
from allhops.core.lanes.scalar import ScalarLane
from allhops.core.ledger import Counters
from allhops.net.errqueue.numbers import NUMBERS, SO_TIMESTAMPNS
from allhops.net.errqueue.queue import read_error
from allhops.net.errqueue.synthesis import ErrorWriter, quoted_header, udp_header

if TYPE_CHECKING:
    from allhops.net.errqueue.queue import Told

KINDS = {
    version: st.sampled_from(
        [
            (numbers.level, numbers.recverr),
            (numbers.level, numbers.ttl_message),
            (socket.SOL_SOCKET, SO_TIMESTAMPNS),
            (socket.SOL_SOCKET, 40),
            (numbers.level, 99),
        ]
    )
    for version, numbers in NUMBERS.items()
}
WHERE = {4: ("203.0.113.9", 33_434), 6: ("2001:db8:9::9", 33_434, 0, 0)}


def read(version: int, data: bytes, messages: list[tuple[tuple[int, int], bytes]]) -> Told:
    sock = Mock(spec=socket.socket)
    sock.recvmsg.return_value = (data, [(*kind, value) for kind, value in messages], 0x2000, WHERE[version])
    return read_error(sock, NUMBERS[version])


@pytest.mark.parametrize("version", [4, 6])
@given(arguments=st.data())
def test_control_messages_of_any_length_are_read(version: int, arguments: st.DataObject) -> None:
    messages = arguments.draw(st.lists(st.tuples(KINDS[version], st.binary(max_size=60)), max_size=4))
    result = read(version, arguments.draw(st.binary(max_size=80)), messages)
    assert result.stamp_ns != 0
    if result.icmp is not None:
        assert len(result.icmp.offender) in (0, NUMBERS[version].family.address_size)


@pytest.mark.parametrize("version", [4, 6])
@given(arguments=st.data())
def test_what_is_written_down_is_read_by_the_lane(version: int, arguments: st.DataObject) -> None:
    numbers = NUMBERS[version]
    size = 16 + 2 + 2 + numbers.family.address_size + 8
    error = arguments.draw(st.binary(min_size=size, max_size=size))
    data = arguments.draw(st.binary(max_size=300))
    result = read(version, data, [((numbers.level, numbers.recverr), error)])
    assert result.icmp is not None
    own = bytes(range(numbers.family.address_size))
    quote = quoted_header(numbers.family, own, own, 17, 60) + udp_header(40_000, 33_434, 40) + data
    packet = ErrorWriter(numbers.family, own).write(result.icmp, quote, told=len(data), reply_ttl=300)
    ring = Ring()
    ring.append(packet, 1)
    lane = ScalarLane(Counters())
    rows = lane.unpack(ring)
    assert len(rows) + lane.counters.foreign + lane.counters.malformed == 1
    if rows:
        assert rows[0].responder == result.icmp.offender
