"""The seam between the prober and a way to the wire.

A transport gives out leases (a flow's source address and port, held so that nobody else on this machine
uses it, and the means to send from it) and hands over what arrives as whole IP packets in a ring. Real
back ends and the simulated internet stand side by side behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.core.lanes import Block, Ring
    from allhops.core.ledger import Counters
    from allhops.model import Address
    from allhops.options import TraceOptions


class Lease(Protocol):
    """A source address and port that are ours until `close`."""

    @property
    def source(self) -> bytes:
        """Packed source address, 4 or 16 bytes."""
        ...

    @property
    def source_port(self) -> int:
        """Source port of the flow."""
        ...

    @property
    def flow_constant(self) -> bool:
        """Whether every probe leaves with that source port."""
        ...

    def expect(self, cookie: bytes) -> None:
        """Let in replies that show this cookie, whatever port they show. Called once, before the first probe.

        Raises: CapacityError.
        """
        ...

    def send(self, block: Block) -> None:
        """Hand a block's packets to the kernel until its queue is full or the network is down; fills in the columns.

        Never raises. The probe that found the network down (`errors.NETWORK_IS_DOWN`) is the last that was handed.
        """
        ...

    def close(self) -> None:
        """Give the port back."""
        ...


class Transport(Protocol):
    """One way to the wire. Opened once, inside a running event loop."""

    @property
    def backend(self) -> str:
        """Its name, as `Trace.backend` has it."""
        ...

    def open(self, on_readable: Callable[[], None], counters: Counters) -> None:
        """Open what receives; `on_readable` is called on the loop when packets wait.

        Raises: PrivilegeError, CapacityError.
        """
        ...

    def open_all(self, interface: str | None) -> None:
        """Open now what would be opened on demand: the privilege to do so is about to be dropped.

        Raises: PrivilegeError, CapacityError, UsageError for an interface that there is not.
        """
        ...

    def lease(self, destination: Address, options: TraceOptions) -> Lease:
        """Choose source address and port for probes to a destination.

        Raises: UsageError, PrivilegeError, SendError, CapacityError.
        """
        ...

    def interface_mtu(self, destination: Address, source: bytes, options: TraceOptions) -> int:
        """Bytes of the largest packet that can leave for a destination; `source` is a lease's."""
        ...

    def receive(self, ring: Ring) -> None:
        """Fill the ring with what waits; while more waits, `on_readable` is called again."""
        ...

    def close(self) -> None:
        """Close every socket and stop listening. Leases that are still out are closed as well."""
        ...
