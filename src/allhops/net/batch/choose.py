"""Which way to the wire a batch takes: the best that this machine allows, or the one that was asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from allhops.errors import PrivilegeError, UsageError

if TYPE_CHECKING:
    from allhops.core.ledger import Counters
    from allhops.net.batch.wire import Wire

WIRES = {
    "raw": "allhops.net.batch.raw:RawWire",
    "errqueue": "allhops.net.errqueue.batch:ErrorQueueWire",
}
"""Name to class, the best first; each is imported when it is tried."""
AUTO = "auto"


def open_wire(backend: str, counters: Counters) -> Wire:
    """The wire of that name, open; the best that opens for `AUTO`.

    Raises: UsageError for a name that there is not, PrivilegeError, CapacityError.
    """
    if backend not in (AUTO, *WIRES):
        raise UsageError(f"backend must be one of {', '.join((AUTO, *WIRES))}, not {backend!r}")
    *better, last = WIRES if backend == AUTO else (backend,)
    for name in better:
        try:
            return _opened(name, counters)
        except PrivilegeError:
            continue
    return _opened(last, counters)


def _opened(name: str, counters: Counters) -> Wire:
    module, _, class_name = WIRES[name].partition(":")
    wire: Wire = getattr(import_module(module), class_name)()
    wire.open(counters)
    return wire
