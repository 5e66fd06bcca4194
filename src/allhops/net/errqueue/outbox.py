"""Probes of a block as messages for one unconnected socket: where each goes, and with which TTL.

The kernel writes the headers; address, port and flow label are in the message's name, the TTL is in a control message.
This file knows no clock and no lease.

Source: sendmsg(2), ip(7) IP_TTL, RFC 3542 6.3 IPV6_HOPLIMIT.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from allhops.net.batch.mmsg import Messages

if TYPE_CHECKING:
    from allhops.core.lanes import Block
    from allhops.net.errqueue.hearing import Kind
    from allhops.net.errqueue.numbers import Numbers

MOST = 256
"""Messages that are made at once: enough that making them costs little each, and few that are made in vain."""
_CONTROL = struct.Struct("@Nii i4x")
"""struct cmsghdr (length, level, type) and an int, padded to a word."""
_CONTROL_LENGTH = _CONTROL.size - 4
_CONTROL_TTL = 4
"""Index of the TTL among the native ints of a control message."""
_LABEL_MASK = np.frombuffer(b"\x00\x0f\xff\xff", np.uint8)


class Outbox:
    """Up to `MOST` messages. `scope` is the interface that link-local IPv6 destinations are on, 0 for none."""

    def __init__(self, kind: Kind, numbers: Numbers, scope: int) -> None:
        self._family = numbers.family
        self._payload = numbers.family.header_size + kind.kernel_header
        self._has_ports = kind.kernel_header > 0
        self._at = numbers.name_address
        self._scope = scope
        self._messages = messages = Messages(MOST, name_size=numbers.name_size, control_size=_CONTROL.size)
        messages.names.view(np.uint16)[:, 0] = numbers.domain
        control = _CONTROL.pack(_CONTROL_LENGTH, numbers.level, numbers.ttl_message, 0)
        messages.controls[:] = np.frombuffer(control, np.uint8)
        self._ttls = messages.controls.view(np.int32)[:, _CONTROL_TTL]

    def fill(self, block: Block, first: int, count: int) -> None:
        """Make messages of so many probes, from `first` on."""
        family, messages = self._family, self._messages
        packets = np.frombuffer(block.packets, np.uint8).reshape(-1, block.size)[first : first + count]
        names = messages.names[:count]
        start = family.destination_offset
        names[:, self._at : self._at + family.address_size] = packets[:, start : start + family.address_size]
        if self._has_ports:
            port = family.header_size + 2
            names[:, 2:4] = packets[:, port : port + 2]
        if family.version == 6:
            names[:, 4:8] = packets[:, :4] & _LABEL_MASK
            is_local = (packets[:, start] == 0xFE) & (packets[:, start + 1] & 0xC0 == 0x80)
            names.view(np.uint32)[:, 6] = is_local * self._scope
        self._ttls[:count] = packets[:, family.ttl_offset]
        offset = first * block.size + self._payload
        messages.aim(block.packets, offset, block.size, block.size - self._payload, count)

    def send(self, descriptor: int, first: int, count: int) -> tuple[int, int]:
        """Send some of the messages: (how many the kernel took, 0), or (0, errno) when it refused the first."""
        return self._messages.send(descriptor, first, count)

    def release(self) -> None:
        """Let go of the block."""
        self._messages.release()
