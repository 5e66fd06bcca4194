"""The way down from sudo: sockets are opened as root; names, files and the network's answers are the caller's.

This file knows no trace. What a process without privilege can still do is in `allhops.net.privileges`.
"""

from __future__ import annotations

import os
import stat
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_IMPORTED_LATER = (
    "allhops.core.lanes.dissect",
    "allhops.net.errqueue.connect",
    "allhops.output.json",
    "allhops.testing.fakenet",
    "encodings.idna",
    "encodings.punycode",
)
"""What a run imports when it needs it, and cannot any more once it is a user who may not read below /root."""
_INSTALLED = ("allhops", "dpkt", "asyncio")
"""One package of each place that modules come from: ours, those we depend on, Python's own."""


def leave_root(open_sockets: Callable[[], None] = lambda: None) -> None:
    """Under sudo: open what needs root, then become the caller, for good. Nothing elsewhere.

    Raises: PrivilegeError when root cannot be left; what `open_sockets` raises.
    """
    if os.geteuid() != 0 or "SUDO_UID" not in os.environ:
        return
    from allhops.net.privileges import drop_to_caller  # ctypes: 4 ms that only sudo need pay

    if not all(map(_everybody_can_read, _INSTALLED)):
        for module in _IMPORTED_LATER:
            import_module(module)
    open_sockets()
    drop_to_caller()


def _everybody_can_read(package: str) -> bool:
    """Whether any user can import it: every directory above it can be passed."""
    from importlib.util import find_spec  # 1 ms that only sudo need pay

    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return False
    path = os.path.realpath(spec.origin)
    while (above := os.path.dirname(path)) != path:
        if not os.stat(above).st_mode & stat.S_IXOTH:
            return False
        path = above
    return True
