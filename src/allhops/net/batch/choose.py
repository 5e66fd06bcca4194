"""Which way to the wire a batch takes: the fastest that this machine allows, or the one that was asked for."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

from allhops.errors import CapacityError, PrivilegeError, UsageError
from allhops.net.batch.raw import RawWire
from allhops.net.batch.rings import RingWire

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.core.ledger import Counters
    from allhops.net.batch.wire import Wire
    from allhops.options import TraceOptions

BACKENDS = ("ring", "raw", "errqueue")
"""Fastest first."""

_log = logging.getLogger("allhops")


def best_wire(
    on_readable: Callable[[], None], counters: Counters, options: TraceOptions, backend: str = "auto"
) -> Wire:
    """Open a wire inside a running event loop; see `Wire.open` for the first two arguments.

    What `options` need privileges for is open when this returns: they may be dropped then. `backend` is one of
    `BACKENDS`, or "auto" for the first of them that can be opened.
    Raises: UsageError, and when no wire can be opened what the last one said: PrivilegeError, CapacityError.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise UsageError(f"backend must be auto or one of {', '.join(BACKENDS)}, not {backend!r}")
    names = BACKENDS if backend == "auto" else (backend,)
    for name in names:
        wire = _make(name, options)
        try:
            wire.open(on_readable, counters)
        except (PrivilegeError, CapacityError) as error:
            if name == names[-1]:
                raise
            _log.debug("no %s: %s", name, error)
        else:
            return wire
    raise AssertionError("there is at least one name")


def _make(name: str, options: TraceOptions) -> Wire:
    if name == "ring":
        return RingWire(options)
    if name == "raw":
        return RawWire(options)
    wire: Wire = importlib.import_module("allhops.net.errqueue.batch").ErrorQueueWire()  # only where nothing else goes
    return wire
