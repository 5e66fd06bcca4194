"""Bytes are made and read by a lane: the one thing that exists twice, for one probe and for thousands.

Here is what the lanes exchange with the rest of the house: the `Block` of probes that leaves, the `Ring`
of packets that arrived, and the `Lane` itself.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Protocol, TypeVar

from allhops.core.lanes.hearsay import SEEN_WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from allhops.core.ledger import Ledger
    from allhops.core.plan import Plan

Replies = TypeVar("Replies")

ROW_SIZE = 2048
"""Bytes kept of a packet that arrived. Longer ones are no honest ICMP error (RFC 1812 4.3.2.3: 576; RFC 4443 2.4:
1280); an echo reply is as long as its request, and its first bytes say all."""
ROW_ALIGNMENT = 8
"""Bytes."""


class Block:
    """Probes ready to leave, in order.

    `packets` holds whole IP packets of `size` bytes each, one after the other, each behind `headroom` bytes for
    a link header. Whoever sends fills in `sent_ns` (wall clock, just before the packet is handed over), or puts into
    `marks` how many had been handed over, and the wall clock, before and after each slice (departures.py reads both);
    and, for a probe that the kernel refused, `errors` (errno). `handed` counts those tried, from the front. What is
    behind it stays unsent because the kernel's queue was full; or, with `waits_for_room`, because probes under way
    occupy all places there are for them, so that patience is all it takes.
    """

    __slots__ = ("errors", "handed", "headroom", "marks", "packets", "sent_ns", "size", "slots", "waits_for_room")

    def __init__(self, slots: Sequence[int], packets: bytearray, size: int, headroom: int = 0) -> None:
        self.slots = slots
        self.packets = packets
        self.size = size
        self.headroom = headroom
        self.sent_ns = array("q", bytes(8 * len(slots)))
        self.marks: list[tuple[int, int]] = []
        self.errors = array("H", bytes(2 * len(slots)))
        self.handed = 0
        self.waits_for_room = False

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def stride(self) -> int:
        """Bytes from one packet to the next."""
        return self.headroom + self.size


class Ring:
    """Packets that arrived, each a whole IP packet from its first header byte.

    A packet begins at `starts`, a multiple of `ROW_ALIGNMENT`, in `octets`; `lengths` is `ROW_SIZE` for one that is
    longer, and may count what a link has padded; `stamps_ns` is the kernel's receive stamp; `hearsay` says what of it
    nobody saw (see hearsay.py), 0 for a packet as it came off the wire. `count` packets are there.

    `octets` may be somebody else's memory, where packets lie as they were written. In the ring's own they are one
    behind the other, and what is behind `end` is free: at least `ROW_SIZE` bytes for each that still has a place.
    """

    __slots__ = ("capacity", "count", "end", "hearsay", "lengths", "octets", "stamps_ns", "starts")

    def __init__(self, capacity: int = 64, octets: bytearray | memoryview | None = None) -> None:
        self.capacity = capacity
        if octets is None:
            octets = bytearray((capacity + 1) * ROW_SIZE)  # so that `ROW_SIZE` bytes follow every start
        self.octets = octets
        self.starts = array("q", bytes(8 * capacity))
        self.lengths = array("I", bytes(4 * capacity))
        self.stamps_ns = array("q", bytes(8 * capacity))
        self.hearsay = bytearray(capacity)
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.count = self.end = 0

    def append(self, packet: bytes, stamp_ns: int, hearsay: int = SEEN_WHOLE) -> None:
        """Copy one packet in; the ring must not be full."""
        length = min(len(packet), ROW_SIZE)
        self.octets[self.end : self.end + length] = packet[:length]
        self.add(length, stamp_ns, hearsay)

    def room(self) -> memoryview:
        """`ROW_SIZE` free bytes: for the next packet, which `add` then tells of."""
        return memoryview(self.octets)[self.end : self.end + ROW_SIZE]

    def add(self, length: int, stamp_ns: int, hearsay: int = SEEN_WHOLE) -> None:
        """The next packet has been written where there is room."""
        self.starts[self.count] = self.end
        self.lengths[self.count] = length
        self.stamps_ns[self.count] = stamp_ns
        self.hearsay[self.count] = hearsay
        self.count += 1
        self.end += -(-length // ROW_ALIGNMENT) * ROW_ALIGNMENT

    def packets(self) -> Iterator[tuple[memoryview, int]]:
        """(packet, stamp) of each; the views are valid until the next fill."""
        view = memoryview(self.octets)
        for index in range(self.count):
            start = self.starts[index]
            yield view[start : start + self.lengths[index]], self.stamps_ns[index]


class Lane(Protocol[Replies]):
    """Numbers to bytes and back. `Replies` is the lane's own shape of what it read."""

    def launch(self, plan: Plan, slots: Sequence[int]) -> Block:
        """Build the probes of these slots."""
        ...

    def unpack(self, ring: Ring) -> Replies:
        """Read what arrived. Never raises for what the network sends: counts and drops it."""
        ...

    def share(self, plans: Sequence[Plan], replies: Replies) -> Sequence[Replies]:
        """Replies of one flow by whose probe they are about, one share a plan: same flow and cookie, another key.

        What names none of them is the last one's.
        """
        ...

    def record(self, plan: Plan, ledger: Ledger, replies: Replies) -> Sequence[int]:
        """Fill the ledger; the slots that were answered now. The first reply to a probe counts."""
        ...
