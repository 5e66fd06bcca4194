"""What leaves the core: a trace is hops, a hop is probes, a probe has a reply or none.

Plain frozen values with the units in their names; no behaviour beyond reading
them. This file knows no packet, no clock and no socket.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address


class Protocol(StrEnum):
    """What the probes are made of."""

    UDP = "udp"
    ICMP = "icmp"
    TCP = "tcp"


class ReplyKind(StrEnum):
    """What a reply says about its probe."""

    TIME_EXCEEDED = "time_exceeded"
    """The TTL ran out at the responder: it is a hop on the path (RFC 792, RFC 4443 3.3)."""
    DESTINATION = "destination"
    """The probe arrived: the destination's own answer, such as port unreachable for UDP."""
    UNREACHABLE = "unreachable"
    """The responder could not, or was told not to, pass the probe on."""


class ProbeState(StrEnum):
    """How a probe ended; every probe that was sent ends in exactly one of these."""

    ANSWERED = "answered"
    TIMED_OUT = "timed_out"
    LOCAL_ERROR = "local_error"
    CANCELLED = "cancelled"


class StopReason(StrEnum):
    """Why a trace ended."""

    REACHED = "reached"
    """The destination answered."""
    UNREACHABLE = "unreachable"
    """Someone on the path said that the destination cannot be reached."""
    GAP_LIMIT = "gap_limit"
    """More silent hops in a row at the end of the path than the gap limit allows."""
    MAX_TTL = "max_ttl"
    """The path goes on past the largest TTL that was asked."""
    LOOP = "loop"
    """One responder came back at three TTLs with another one in between."""
    INTERRUPTED = "interrupted"
    """The caller stopped the trace."""
    LOCAL_ERROR = "local_error"
    """This machine could not send; `Trace.error` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What load balancers hash, besides addresses and protocol: constant over a trace."""

    source_port: int
    destination_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The first reply to one probe."""

    address: Address
    """The responder: source address of the reply's IP header."""
    kind: ReplyKind
    rtt_ns: int | None
    """Kernel receive stamp minus send stamp; None when the clock was stepped in between."""
    icmp_type: int
    icmp_code: int
    reply_ttl: int | None
    """TTL or hop limit of the reply itself as it arrived here."""
    quoted_ttl: int | None
    """TTL or hop limit inside the quoted probe: what was left of it at the responder."""
    mtu: int | None = None
    """Next-hop MTU of a "fragmentation needed" or "packet too big", bytes."""
    name: str | None = None
    """Reverse DNS of `address`, cleaned; filled in by `allhops.enrich`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One packet that was sent, and what came of it."""

    attempt: int
    """Position on its hop's row, from 1."""
    probe_ttl: int
    """TTL as sent. On the destination's row it may be larger than the hop's: see `Hop`."""
    state: ProbeState
    reply: Reply | None = None
    """None when nobody answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """Everything heard at one TTL.

    The destination's row may hold probes with a larger TTL: they reached it too,
    so they are further RTT samples of it.
    """

    ttl: int
    probes: tuple[Probe, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The path to one destination, hops in order of TTL."""

    destination: str
    """As the caller wrote it: a name or an address."""
    address: Address | None
    """None when the destination has none, or is none."""
    source: Address | None
    """Source address of the probes; None when none could be sent."""
    protocol: Protocol
    flow: Flow | None
    started_at_ns: int
    """Wall clock, nanoseconds since the epoch."""
    duration_ns: int
    stop_reason: StopReason
    hops: tuple[Hop, ...]
    error: str | None = None
    """One sentence, when `stop_reason` is `local_error`."""

    @property
    def reached(self) -> bool:
        """Whether the destination itself answered."""
        return bool(self.hops) and any(
            probe.reply is not None and probe.reply.kind is ReplyKind.DESTINATION for probe in self.hops[-1].probes
        )
