"""The seam between a batch and a way to the wire.

A wire tells which way each destination lies, leases a flow for a window of destinations that lie the same way, sends
blocks and hands over what arrives as whole IP packets in a ring. All wires give the same results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from allhops.core.lanes import Block, Ring
    from allhops.core.ledger import Counters
    from allhops.errors import AllhopsError
    from allhops.net.batch.group import Group
    from allhops.options import TraceOptions


RING_PACKETS = 4_096
"""The more are read at once, the less each costs, as long as the processor's cache holds all that is made of them
(`python -m benchmarks lanes`)."""


class Way(NamedTuple):
    """How packets for a destination leave this machine; destinations of one way share windows."""

    version: int
    source: bytes
    """Packed source address."""
    interface: int
    """Its index; 0 where nobody needs it."""
    next_hop: bytes | None
    """Packed address of the gateway; None when the destination is on the link, or where nobody needs it."""


class Ways(NamedTuple):
    """Which way each of n destinations lies."""

    kinds: Sequence[Way | AllhopsError]
    """Ways, each of them once, and the errors (no route, say) that forbid a destination."""
    of: NDArray[np.int64]
    """(n,): index of each destination's in `kinds`."""


class BatchLease(Protocol):
    """A source address and port that are ours until `close`, for one window of destinations."""

    @property
    def source(self) -> bytes:
        """Packed source address."""
        ...

    @property
    def source_port(self) -> int:
        """Source port, or ICMP identifier, of all its probes."""
        ...

    def expect(self, cookie: bytes) -> None:
        """Let in replies that show this cookie, whatever port they show. Called once, before the first probe."""
        ...

    def send(self, block: Block, most: int) -> None:
        """Hand at most `most` more packets of a block to the kernel, from `block.handed` on; advances `handed`.

        Stops early where the kernel's queue is full or the network is down (the probe that found it so is the last that
        was handed, with its errno in `errors`). Fills in `sent_ns` or `marks`, and `errors`. Never raises.
        """
        ...

    def close(self) -> None:
        """Give the port back."""
        ...


class Wire(Protocol):
    """One way to the wire for thousands of probes a second. Opened once, inside a running event loop."""

    @property
    def backend(self) -> str:
        """Its name, as `Trace.backend` has it: "raw", "ring", "errqueue" or "simulated"."""
        ...

    @property
    def headroom(self) -> int:
        """Bytes that it needs before each packet of a block."""
        ...

    def open(self, counters: Counters) -> None:
        """Open what receives; drops are counted in `counters`. Nobody waits for packets: `receive` is called in beats.

        Raises: PrivilegeError, CapacityError.
        """
        ...

    def ways(self, destinations: Group, options: TraceOptions) -> Ways:
        """The way to each destination as the kernel has it now.

        Raises: UsageError for an interface or source address that there is not.
        """
        ...

    def lease(self, way: Way, options: TraceOptions) -> BatchLease:
        """A source port for probes that go this way. Raises: CapacityError, UsageError."""
        ...

    def receive(self) -> Iterator[Ring]:
        """What waits, a ring at a time; what comes meanwhile can wait for company.

        Its packets may be overwritten as soon as the next ring is asked for, or the iterator is closed.
        """
        ...

    def close(self) -> None:
        """Close every socket. Leases that are still out are closed as well."""
        ...


def fillings(ring: Ring, fill: Callable[[Ring], None]) -> Iterator[Ring]:
    """One ring, filled anew until it does not become full."""
    while True:
        ring.clear()
        fill(ring)
        if ring.count:
            yield ring
        if ring.count < ring.capacity:
            return
