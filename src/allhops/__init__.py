"""allhops: the path to any destination, every hop at once.

    trace = await allhops.trace("example.org")
    for hop in trace.hops: ...

The public names are those of `__all__`; importing this package imports none of them until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from allhops.api import trace, trace_many
    from allhops.errors import (
        AllhopsError,
        CapacityError,
        PrivilegeError,
        ResolveError,
        SendError,
        UsageError,
    )
    from allhops.model import (
        Evidence,
        Flow,
        Hop,
        Inherited,
        InterfaceInfo,
        InterfaceRole,
        MplsLabel,
        PortState,
        Probe,
        ProbeState,
        Protocol,
        Reply,
        ReplyFlag,
        ReplyKind,
        StopReason,
        Trace,
        UnknownObject,
    )
    from allhops.net.many import TraceMany
    from allhops.net.prober import Prober
    from allhops.net.tracing import Tracing
    from allhops.options import TraceOptions

__version__ = "0.1.0"

_HOMES = {
    "allhops.api": ("trace", "trace_many"),
    "allhops.errors": (
        "AllhopsError",
        "CapacityError",
        "PrivilegeError",
        "ResolveError",
        "SendError",
        "UsageError",
    ),
    "allhops.model": (
        "Evidence",
        "Flow",
        "Hop",
        "Inherited",
        "InterfaceInfo",
        "InterfaceRole",
        "MplsLabel",
        "PortState",
        "Probe",
        "ProbeState",
        "Protocol",
        "Reply",
        "ReplyFlag",
        "ReplyKind",
        "StopReason",
        "Trace",
        "UnknownObject",
    ),
    "allhops.net.many": ("TraceMany",),
    "allhops.net.prober": ("Prober",),
    "allhops.net.tracing": ("Tracing",),
    "allhops.options": ("TraceOptions",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AllhopsError",
    "CapacityError",
    "Evidence",
    "Flow",
    "Hop",
    "Inherited",
    "InterfaceInfo",
    "InterfaceRole",
    "MplsLabel",
    "PortState",
    "PrivilegeError",
    "Probe",
    "ProbeState",
    "Prober",
    "Protocol",
    "Reply",
    "ReplyFlag",
    "ReplyKind",
    "ResolveError",
    "SendError",
    "StopReason",
    "Trace",
    "TraceMany",
    "TraceOptions",
    "Tracing",
    "UnknownObject",
    "UsageError",
    "trace",
    "trace_many",
]


def __getattr__(name: str) -> object:
    """PEP 562: a public name is imported when it is first used."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
