"""What the kernel wrote into the blocks of a TPACKET_V3 ring: where packets are, how long, and when they came.

Each packet says where the next one of its block is. To go from one to the next takes 0.1 us each, so all places are
guessed at once, and then each has to lead to the next. This file knows no socket.

Source: packet(7), Linux Documentation/networking/packet_mmap.rst, include/uapi/linux/if_packet.h.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from allhops.core.lanes import ROW_ALIGNMENT, ROW_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from allhops.core.lanes import Ring

STATUS, COUNT = 2, 3
"""32-bit words of struct tpacket_block_desc: whose it is, how many packets."""
_FIRST, _LENGTH = 4, 5
"""Where the first packet is, and how much was written, bytes."""
IS_OURS = 1
"""TP_STATUS_USER in the status; 0 is the kernel's."""
_NEXT, _SECONDS, _NANOSECONDS, _CAPTURED, _OFFSETS = 0, 1, 2, 3, 6
"""32-bit words of struct tpacket3_hdr. The last is two 16-bit words, the same for all packets of a socket."""
_HEAD = "V16"
"""The first four of them."""
_NET = 13
"""The second of these two, which says where the IP header is, bytes from this one's own start."""
_NS_PER_S = 1_000_000_000


def show(ring: Ring, memory: NDArray[np.uint32], blocks: Sequence[slice]) -> None:
    """Have a ring that looks into this memory say where the packets of blocks are that are ours, in their order.

    As long as they were captured: what a link has padded is left to whoever reads them.
    """
    guesses = [_guess(memory[block]) + 4 * block.start for block in blocks if memory[block][COUNT]]
    ring.count = count = sum(map(len, guesses))
    if not count:
        return
    at = np.concatenate(guesses)
    heads = _heads(memory, at)
    leads_on = heads[:-1, _NEXT] == np.diff(at)
    leads_on[[end - 1 for end in accumulate(map(len, guesses[:-1]))]] = True  # from block to block nothing leads
    if not leads_on.all():
        at = np.concatenate([_walk(memory[block]) + 4 * block.start for block in blocks])
        heads = _heads(memory, at)
    net = memory.view(np.uint16)[at[0] // 2 + _NET]
    np.add(at, net, out=np.frombuffer(ring.starts, np.int64)[:count])
    stamps_ns = np.frombuffer(ring.stamps_ns, np.int64)[:count]
    np.multiply(heads[:, _SECONDS], np.int64(_NS_PER_S), out=stamps_ns)
    stamps_ns += heads[:, _NANOSECONDS]
    np.minimum(heads[:, _CAPTURED], ROW_SIZE, out=np.frombuffer(ring.lengths, np.uint32)[:count])


def _heads(memory: NDArray[np.uint32], at: NDArray[np.int64]) -> NDArray[np.uint32]:
    """(n, 4): what the kernel says of packets at these places."""
    anywhere = np.ndarray((memory.nbytes // ROW_ALIGNMENT - 1,), _HEAD, memory, 0, (ROW_ALIGNMENT,))
    return anywhere[at // ROW_ALIGNMENT].view(np.uint32).reshape(len(at), -1)


def _guess(block: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Where a block's packets may begin, bytes; as many as there are, from the first on."""
    count, first = int(block[COUNT]), int(block[_FIRST])
    written = block[: block[_LENGTH] // 4]
    space = int(written[first // 4 + _NEXT])
    if first + count * space == written.nbytes:  # all are of one length
        return np.arange(first, written.nbytes, space)
    at = _alike(written, count, first)
    return at if len(at) == count and at[0] == first else _walk(block)


def _alike(written: NDArray[np.uint32], count: int, first: int) -> NDArray[np.int64]:
    """Whatever looks like the first header. If that is too much, only what leads to such a place.

    In gaps between headers and packets there is what was written there before.
    """
    looks_so = written[_OFFSETS::2] == written[first // 4 + _OFFSETS]
    at = np.flatnonzero(looks_so)
    if len(at) != count:
        at = at[looks_so.take(at + written[2 * at + _NEXT] // ROW_ALIGNMENT, mode="clip")]
    return at * ROW_ALIGNMENT


def _walk(block: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Where a block's packets begin, bytes, from one to the next."""
    positions = np.empty(int(block[COUNT]), np.int64)
    words = block.data
    at = words[_FIRST]
    for number in range(len(positions)):
        positions[number] = at
        at += words[at // 4 + _NEXT]
    return positions
