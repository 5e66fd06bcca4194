"""Whether somebody may be guessing our source ports with forged ICMP errors.

A forged error needs the right ports to reach a socket, and nothing more if its quote is short. Who sprays all ports
misses far more often than he hits, and the kernel counts errors that fit no socket: after more than `MISSES` of them a
reply that names no probe is not believed to be about any. That leaves a forger one chance in some 500 a trace.
This file knows no packet.

Source: RFC 4293 icmpStatsInErrors; Linux net/ipv4/udp.c __udp4_lib_err.
"""

from __future__ import annotations

import pathlib

MISSES = 64
_SNMP = pathlib.Path("/proc/thread-self/net/snmp")


class Misses:
    """ICMP errors that fitted no socket. `orphans` are those of our own that come after their socket was closed."""

    def __init__(self, path: pathlib.Path = _SNMP) -> None:
        self._path = path
        self.orphans = 0

    def level(self) -> int | None:
        """How many there were, less those that may be our own; None where the kernel does not tell."""
        try:
            with self._path.open() as lines:
                icmp = [line.split() for line in lines if line.startswith("Icmp:")]
            (names, values) = icmp
            return int(values[names.index("InErrors")]) - self.orphans
        except (OSError, ValueError, IndexError):
            return None

    def suspicious_since(self, before: int | None) -> bool:
        """Whether more came since `before`, an earlier level, than honest networks send; so too where nobody tells."""
        now = self.level()
        return now is None or before is None or now - before > MISSES
