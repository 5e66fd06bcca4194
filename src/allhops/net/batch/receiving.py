"""Raw sockets read a thousand packets a call, straight into the rows of a ring.

IPv6 raw sockets leave the IP header out; it is put back from addresses and control messages, so that beyond this file
every packet is whole.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import numpy as np

from allhops.core.lanes import ROW_SIZE
from allhops.net.batch.mmsg import MOST_MESSAGES, Messages
from allhops.net.filters import answers_about, answers_to, attach
from allhops.net.raw_sockets import SO_RXQ_OVFL, SO_TIMESTAMPNS, Drops, open_receiver
from allhops.wire.family import IPV4, IPV6, Family, HeaderFields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from allhops.core.lanes import Ring
    from allhops.core.ledger import Counters
    from allhops.net.filters import Expected

RECEIVE_BUFFER = 16 << 20
"""Bytes: some 20,000 ICMP errors, a fifth of a second of answers at 100,000 probes a second."""
_CONTROL_SIZE = 128
"""Bytes of control messages: stamp 32, drops 24, hop limit 24, destination 40."""
_NAME_SIZE = 28
"""Bytes of struct sockaddr_in6."""
_NAME_ADDRESS = 8
"""Where the address stands in it."""
_NS_PER_S = 1_000_000_000


class Receiver:
    """One raw socket: ICMP's or TCP's, of one family. Nothing is let through until `admit`. Raises: OSError."""

    def __init__(self, family: Family, protocol: int, counters: Counters) -> None:
        self.family = family
        self.protocol = protocol
        self.sock = open_receiver(family, protocol, RECEIVE_BUFFER)
        self._left_out = 0 if family is IPV4 else family.header_size
        self._messages = Messages(
            MOST_MESSAGES, name_size=_NAME_SIZE if self._left_out else 0, control_size=_CONTROL_SIZE
        )
        self._drops = Drops(counters)
        self.admit((), ())

    def admit(self, expected: Sequence[Expected], ports: Sequence[int]) -> None:
        """Let through what concerns these flows and cookies, or segments to these ports; nothing else."""
        if self.protocol != self.family.icmp_protocol:
            attach(self.sock, answers_to(self.family, ports))
        else:
            attach(self.sock, answers_about(self.family, expected))

    def drain(self, ring: Ring) -> None:
        """Read until the socket is empty or the ring is full."""
        while ring.count < ring.capacity:
            most = min(ring.capacity - ring.count, self._messages.most)
            self._messages.aim(ring.octets, ring.end + self._left_out, ROW_SIZE, ROW_SIZE - self._left_out, most)
            # MSG_TRUNC as a wish: the length of the packet, not of the part that the row holds.
            taken, _ = self._messages.receive(self.sock.fileno(), most, socket.MSG_TRUNC)
            self._messages.release()
            if taken:
                self._complete(ring, taken)
            if taken < most:
                return  # EAGAIN; after ENETDOWN and the like the socket works again when the network does

    def note_drops(self) -> None:
        """Count what the kernel dropped since the last packet that came."""
        self._drops.ask(self.sock)

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def _complete(self, ring: Ring, taken: int) -> None:
        """Lengths, stamps and, where it is missing, the IP header of what was just received."""
        start, end = ring.count, ring.count + taken
        stamps, hop_limits, destinations = self._read_controls(taken)
        sizes = self._messages.lengths[:taken].astype(np.int64)
        if self._left_out:
            rows = np.ndarray((taken, ROW_SIZE), np.uint8, ring.octets, ring.end)
            self._put_header(rows, sizes, hop_limits, destinations)
        np.frombuffer(ring.starts, np.int64)[start:end] = ring.end + np.arange(taken) * ROW_SIZE
        np.frombuffer(ring.lengths, np.uint32)[start:end] = np.minimum(sizes + self._left_out, ROW_SIZE)
        np.frombuffer(ring.stamps_ns, np.int64)[start:end] = stamps
        ring.count, ring.end = end, ring.end + taken * ROW_SIZE

    def _put_header(
        self,
        rows: NDArray[np.uint8],
        sizes: NDArray[np.int64],
        hop_limits: NDArray[np.uint8],
        destinations: NDArray[np.uint8],
    ) -> None:
        size = IPV6.address_size
        fields = HeaderFields(source=bytes(size), destination=bytes(size), protocol=self.protocol, size=self._left_out)
        rows[:, : self._left_out] = np.frombuffer(IPV6.header(fields), np.uint8)
        rows[:, IPV6.length_offset] = sizes >> 8 & 0xFF
        rows[:, IPV6.length_offset + 1] = sizes & 0xFF
        rows[:, IPV6.ttl_offset] = hop_limits
        sources = self._messages.names[: len(rows), _NAME_ADDRESS : _NAME_ADDRESS + size]
        rows[:, IPV6.source_offset : IPV6.source_offset + size] = sources
        rows[:, IPV6.destination_offset : IPV6.destination_offset + size] = destinations

    def _read_controls(self, taken: int) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8]]:
        """(receive stamps, hop limits, destinations); drops are counted on the way."""
        stamps = np.zeros(taken, np.int64)
        hop_limits = np.zeros(taken, np.uint8)
        destinations = np.zeros((taken, IPV6.address_size), np.uint8)
        data = self._messages.controls
        longs, words = data.view(np.int64), data.view(np.uint32)
        for controls in self._messages.control_messages(taken):
            which, at = controls.of(socket.SOL_SOCKET, SO_TIMESTAMPNS, 16)
            stamps[which] = longs[which, at // 8] * _NS_PER_S + longs[which, at // 8 + 1]
            which, at = controls.of(socket.SOL_SOCKET, SO_RXQ_OVFL, 4)
            if len(which):
                self._drops.are(int(words[which[-1], at[-1] // 4]))
            if self._left_out:
                which, at = controls.of(socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, 4)
                hop_limits[which] = words[which, at // 4]
                which, at = controls.of(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, IPV6.address_size)
                destinations[which] = data[which[:, None], at[:, None] + np.arange(IPV6.address_size)]
        stamps[stamps == 0] = time.time_ns()
        return stamps, hop_limits, destinations
