"""What a caller may choose about a trace, checked once, here.

The bounds stand beside the fields, so that the library and the command refuse the same
values with the same sentence. This file knows no network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from allhops.errors import UsageError
from allhops.model import Protocol

MAX_ATTEMPTS = 10
"""As traceroute(8): more says nothing new about a path and wears out the routers."""
MAX_TTL = 255
MAX_PORT = 65_535
DEFAULT_PORTS = {Protocol.UDP: 33_434, Protocol.TCP: 80}
"""Destination ports of those who do not say: traceroute(8)'s."""
MAX_FLOW_LABEL = (1 << 20) - 1
MAX_SIZE = 65_000
"""Bytes; as traceroute(8)."""
MAX_WAIT_S = 60.0
BATCH_RATE_PPS = 5_000.0
"""Probes a second of a batch unless the caller says otherwise: polite to the first routers, which see all of it."""


class TraceKeywords(TypedDict, total=False):
    """The fields of `TraceOptions` as keywords, so that type checkers know them."""

    protocol: Protocol
    ip_version: int | None
    first_ttl: int
    max_ttl: int
    attempts: int
    timeout: float
    gap_limit: int
    destination_port: int | None
    source_port: int | None
    source: str | None
    interface: str | None
    size: int | None
    tos: int
    dont_fragment: bool
    flow_label: int | None
    discover_mtu: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """How to probe one destination.

    `timeout` is the longest wait for any one probe, seconds: most waits end earlier, when what the
    rest of the path did shows that nothing more will come. `size` is that of the whole packet, bytes;
    None is traceroute's (60 for IPv4, 80 for IPv6). `destination_port` None becomes the protocol's own
    (`DEFAULT_PORTS`); ICMP has none. `source_port` (ICMP: the identifier) None is a random one. `ip_version` is 4, 6
    or None for the resolver's order. `tos` is the whole byte, DSCP and ECN. `dont_fragment` is IPv4's; in IPv6 no
    router fragments anyway. `flow_label` is IPv6's, 20 bits; None is 0. `discover_mtu` finds the path MTU hop by hop;
    it chooses the sizes itself and implies `dont_fragment`.
    """

    protocol: Protocol = Protocol.UDP
    ip_version: int | None = None
    first_ttl: int = 1
    max_ttl: int = 30
    attempts: int = 3
    timeout: float = 2.0
    gap_limit: int = 5
    destination_port: int | None = None
    source_port: int | None = None
    source: str | None = None
    interface: str | None = None
    size: int | None = None
    tos: int = 0
    dont_fragment: bool = False
    flow_label: int | None = None
    discover_mtu: bool = False

    def __post_init__(self) -> None:
        self._name_protocol()
        if self.source is not None:  # addresses are welcome as well
            object.__setattr__(self, "source", str(self.source))
        if not isinstance(self.interface, str | None):
            raise UsageError(f"interface must be a name such as 'eth0', not {self.interface!r}")
        _in_range("max_ttl", self.max_ttl, 1, MAX_TTL)
        _in_range("first_ttl", self.first_ttl, 1, MAX_TTL)
        if self.first_ttl > self.max_ttl:
            raise UsageError(f"first_ttl ({self.first_ttl}) is larger than max_ttl ({self.max_ttl}): lower one of them")
        _in_range("attempts", self.attempts, 1, MAX_ATTEMPTS)
        _in_range("gap_limit", self.gap_limit, 1, MAX_TTL)
        self._check_destination_port()
        if self.source_port is not None:
            _in_range("source_port", self.source_port, 1, MAX_PORT)
        if self.size is not None:
            _in_range("size", self.size, 1, MAX_SIZE)
        self._check_discovery()
        _in_range("tos", self.tos, 0, 255)
        if self.flow_label is not None:
            _in_range("flow_label", self.flow_label, 0, MAX_FLOW_LABEL)
            self.check_flow_label(self.ip_version)
        if self.ip_version not in (None, 4, 6):
            raise UsageError(f"ip_version must be 4, 6 or None, not {self.ip_version!r}")
        if not (isinstance(self.timeout, int | float) and 0 < self.timeout <= MAX_WAIT_S):
            raise UsageError(f"timeout must be more than 0 and at most {MAX_WAIT_S:g} seconds, not {self.timeout!r}")

    @property
    def is_for_one_trace(self) -> bool:
        """Whether something is asked for that a batch cannot do: to measure path MTUs, or to give its port away."""
        return self.discover_mtu or self.source_port is not None

    def check_flow_label(self, version: int | None) -> None:
        """Refuse a flow label for IPv4, which has no room for one. Raises: UsageError."""
        if self.flow_label is not None and version == 4:
            raise UsageError("flow_label is for IPv6, and these probes are IPv4: leave it out, or ask for IPv6")

    def _name_protocol(self) -> None:
        """Take a word such as "tcp" for the member that it equals."""
        try:
            object.__setattr__(self, "protocol", Protocol(self.protocol))
        except ValueError:
            raise UsageError(f"protocol must be udp, icmp or tcp, not {self.protocol!r}") from None

    def _check_discovery(self) -> None:
        if not self.discover_mtu:
            return
        if self.size is not None:
            raise UsageError("discover_mtu chooses the size of each probe, so it and size exclude each other: drop one")
        if self.protocol is Protocol.TCP:
            raise UsageError("discover_mtu needs large probes, and a TCP SYN is a small one: choose udp or icmp")
        object.__setattr__(self, "dont_fragment", True)

    def _check_destination_port(self) -> None:
        if self.destination_port is None:
            object.__setattr__(self, "destination_port", DEFAULT_PORTS.get(self.protocol))
        elif self.protocol not in DEFAULT_PORTS:
            raise UsageError(
                f"destination_port means nothing to {self.protocol}, which has no ports: "
                "leave it out, or choose udp or tcp"
            )
        else:
            _in_range("destination_port", self.destination_port, 1, MAX_PORT)


def _in_range(name: str, value: int, low: int, high: int) -> None:
    """Refuse what is not an int from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UsageError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
