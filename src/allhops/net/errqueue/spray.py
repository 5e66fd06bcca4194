"""Whether somebody may be guessing our source ports with forged ICMP errors.

A forged error needs the right ports to reach a socket, and nothing more if its quote is short. Who sprays all ports
misses far more often than he hits, and the kernel counts errors that fit no socket: after more than `MISSES` of them a
reply that names no probe is not believed to be about any. That leaves a forger one chance in some 500 a trace.
This file knows no packet.

Source: RFC 4293 icmpStatsInErrors; Linux net/ipv4/udp.c __udp4_lib_err, net/ipv6/udp.c __udp6_lib_err.
"""

from __future__ import annotations

import os

MISSES = 64
_STATISTICS = "/proc/thread-self/net"


class Misses:
    """ICMP errors that fitted no socket, of both families.

    `orphans` are those of our own that may come after their socket was closed.
    """

    def __init__(self, statistics: str | os.PathLike[str] = _STATISTICS) -> None:
        self._statistics = statistics
        self.orphans = 0

    def level(self) -> int | None:
        """How many there were, less those that may be our own; None where the kernel does not tell."""
        try:
            return self._ipv4() + self._ipv6() - self.orphans
        except (OSError, ValueError, IndexError):
            return None

    def _ipv4(self) -> int:
        """Two lines begin with "Icmp:", names and values."""
        with open(os.path.join(self._statistics, "snmp")) as lines:
            names, values = [line.split() for line in lines if line.startswith("Icmp:")]
        return int(values[names.index("InErrors")])

    def _ipv6(self) -> int:
        """A name and a value a line; no file on a machine without IPv6."""
        try:
            with open(os.path.join(self._statistics, "snmp6")) as lines:
                return sum(int(line.split()[1]) for line in lines if line.startswith("Icmp6InErrors"))
        except FileNotFoundError:
            return 0

    def suspicious_since(self, before: int | None) -> bool:
        """Whether more came since `before`, an earlier level, than honest networks send; so too where nobody tells."""
        now = self.level()
        return now is None or before is None or now - before > MISSES
