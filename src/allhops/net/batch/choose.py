"""Which way to the wire a batch takes: the fastest that this machine allows, or the one that was asked for."""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING

from allhops.errors import CapacityError, PrivilegeError, UsageError
from allhops.net.batch.raw import RawWire
from allhops.net.batch.rings import RingWire

if TYPE_CHECKING:
    from allhops.core.ledger import Counters
    from allhops.net.batch.wire import Wire
    from allhops.options import TraceOptions

AUTO = "auto"
BACKENDS = ("ring", "raw", "errqueue")
"""Fastest first."""

_log = logging.getLogger("allhops")


def open_wire(backend: str, options: TraceOptions, counters: Counters, rate_pps: float = inf) -> Wire:
    """Open a wire for so many probes a second inside a running event loop; drops are counted in `counters`.

    What `options` need privileges for is open when this returns: they may be dropped then. `backend` is one of
    `BACKENDS`, or `AUTO` for the first of them that can be opened.
    Raises: UsageError, and when no wire can be opened what the last one said: PrivilegeError, CapacityError.
    """
    if backend not in (AUTO, *BACKENDS):
        raise UsageError(f"backend must be {AUTO} or one of {', '.join(BACKENDS)}, not {backend!r}")
    *better, last = BACKENDS if backend == AUTO else (backend,)
    for name in better:
        wire = _make(name, options, rate_pps)
        try:
            wire.open(counters)
        except (PrivilegeError, CapacityError) as error:
            _log.debug("no %s: %s", name, error)
        else:
            return wire
    wire = _make(last, options, rate_pps)
    wire.open(counters)
    return wire


def _make(name: str, options: TraceOptions, rate_pps: float) -> Wire:
    if name == "ring":
        return RingWire(options, rate_pps)
    if name == "raw":
        return RawWire(options)
    from allhops.net.errqueue.batch import ErrorQueueWire  # 25 ms

    return ErrorQueueWire()
