"""What the exit status means, and which error has which. Where several apply, the largest wins."""

from __future__ import annotations

from enum import IntEnum

from allhops.errors import AllhopsError, CapacityError, PrivilegeError, ResolveError, SendError, UsageError
from allhops.model import StopReason, Trace


class Status(IntEnum):
    """Exit statuses of the command."""

    REACHED = 0
    NOT_REACHED = 1
    """It ran, and at least one destination did not answer."""
    USAGE = 2
    NO_PERMISSION = 3
    LOCAL_ERROR = 4
    OUTPUT_FAILED = 74
    """EX_IOERR of sysexits.h."""
    SIGNALLED = 128
    """Plus the number of the signal: 130 for Ctrl-C, 143 for SIGTERM; what was known is printed."""


_OF_ERROR: dict[type[AllhopsError], Status] = {
    UsageError: Status.USAGE,
    ResolveError: Status.USAGE,
    PrivilegeError: Status.NO_PERMISSION,
    CapacityError: Status.LOCAL_ERROR,
    SendError: Status.LOCAL_ERROR,
}


def status_of_error(error: AllhopsError) -> int:
    """Status when a destination, or the whole run, ends in an error."""
    return next((status for kind, status in _OF_ERROR.items() if isinstance(error, kind)), Status.LOCAL_ERROR)


def status_of_trace(trace: Trace) -> int:
    """Status of a trace that ran."""
    if trace.stop_reason is StopReason.LOCAL_ERROR:
        return Status.LOCAL_ERROR
    return Status.REACHED if trace.reached else Status.NOT_REACHED
