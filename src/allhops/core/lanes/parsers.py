"""Five of dpkt's seventy-four modules.

`import dpkt` imports all of them: 32 ms, half of a path's round trip, of which HTTP, Diameter and the rest take 28
(`python -X importtime -c "import dpkt"`). So its own submodules are imported past the package's `__init__`,
which runs as always when somebody imports dpkt for themselves. This file knows no packet.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any

_PACKAGE = "dpkt"


def _modules(*names: str) -> list[Any]:
    """Submodules of dpkt, without what its `__init__` imports besides."""
    spec = find_spec(_PACKAGE)
    if _PACKAGE in sys.modules or spec is None:
        return [import_module(f"{_PACKAGE}.{name}") for name in names]
    sys.modules[_PACKAGE] = module_from_spec(spec)  # a package that knows where its modules are, and has not run
    try:
        return [import_module(f"{_PACKAGE}.{name}") for name in names]
    finally:
        del sys.modules[_PACKAGE]


_base, _ip, _ip6, _tcp, _udp = _modules("dpkt", "ip", "ip6", "tcp", "udp")

Error: type[Exception] = _base.Error
IP, IP6, TCP, UDP = _ip.IP, _ip6.IP6, _tcp.TCP, _udp.UDP
TCP_OPT_TIMESTAMP: int = _tcp.TCP_OPT_TIMESTAMP
parse_opts = _tcp.parse_opts
