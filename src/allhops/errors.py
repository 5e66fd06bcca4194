"""What can go wrong on this machine: the exceptions that callers catch.

    AllhopsError
    ├── UsageError       (ValueError)       an option or a destination that cannot be
    ├── PrivilegeError   (PermissionError)  the kernel refuses the sockets that were asked for
    ├── ResolveError                        a name that has no address, or none of the asked family
    ├── CapacityError                       out of ports, file descriptors or buffers
    └── SendError        (OSError)          this machine cannot send there: no route, firewall, interface down

The network's silence is not in this tree: timeouts, unreachables and stars are
results with a `StopReason`. This file knows nothing but its own names.
"""

import errno
import os


class AllhopsError(Exception):
    """Base of every exception that allhops raises on purpose."""


class UsageError(AllhopsError, ValueError):
    """An option or a destination that cannot be; the message says what would do."""


class PrivilegeError(AllhopsError, PermissionError):
    """The kernel refuses the sockets; the message says what would allow them."""


class ResolveError(AllhopsError):
    """A name without an address, or without one of the family that was asked for."""


class CapacityError(AllhopsError):
    """Out of source ports, file descriptors or buffers."""


class SendError(AllhopsError, OSError):
    """This machine cannot send to that destination: no route, firewall, interface down."""

    def __str__(self) -> str:
        """The sentence alone: an OSError's own text begins with its number."""
        return self.strerror or super().__str__()


NETWORK_IS_DOWN = frozenset({errno.ENETDOWN, errno.ENETUNREACH, errno.ENODEV})
"""What a send says while the interface is down or its routes are gone: it may come back."""

_SENTENCES = {
    errno.EPERM: "a local firewall blocks the probes",
    errno.EACCES: "sending there is prohibited: a prohibit route, or a broadcast address",
    errno.ENETUNREACH: "no route to that network",
    errno.EHOSTUNREACH: "no route to that host",
    errno.ENETDOWN: "the interface is down",
    errno.ENODEV: "no such interface",
    errno.EADDRNOTAVAIL: "that source address is not one of this machine's",
    errno.EINVAL: "the route there discards packets (blackhole), or an option is not possible there",
    errno.EMSGSIZE: "the probes are larger than the interface's MTU: choose a smaller --size",
    errno.ENOBUFS: "the interface's queue stays full",
}


def explain_errno(code: int) -> str:
    """One sentence for an errno that sending a probe ended in."""
    return _SENTENCES.get(code) or os.strerror(code)
