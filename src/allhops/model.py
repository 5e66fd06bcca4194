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
    BAD_DESTINATION = "bad_destination"
    """What was asked for is no destination; `Trace.error` says why."""


class PortState(StrEnum):
    """What the destination's own answer says about the port that was probed."""

    OPEN = "open"
    """It took the connection up (SYN-ACK), or answered the datagram with one."""
    CLOSED = "closed"
    """It refused the connection (RST)."""


class Evidence(StrEnum):
    """What a reply was matched on: each says that the reply shows this exactly as it was sent. In this order."""

    DST = "dst"
    """Destination address."""
    PORTS = "ports"
    """Source and destination port (UDP, TCP)."""
    IP_ID = "ip_id"
    """IPv4 identification: names the probe."""
    COOKIE = "cookie"
    """The trace's 32 random bits."""
    CHECKSUM = "checksum"
    """Of the transport header: as sent, or changed by exactly what a NAT changed in the quoted address and ports."""
    SEQUENCE = "sequence"
    """Sequence number (ICMP, TCP): names the probe."""
    IDENTIFIER = "identifier"
    """ICMP identifier, type and code."""
    MARK = "mark"
    """The payload's words that name the probe (UDP)."""
    SOCKET = "socket"
    """The kernel gave it to the socket that sent this one probe (TCP without raw sockets)."""
    ALONE = "alone"
    """It shows no name, but no other row's probe was out (UDP over IPv4 without raw sockets, 28-byte quotes)."""


class ReplyFlag(StrEnum):
    """What is odd about a reply. In this order."""

    SHORT_QUOTE = "short_quote"
    """It quotes too little of the probe to show the cookie."""
    NAT = "nat"
    """The quoted probe differs from the one that was sent in address, port, ID or checksum."""
    ALT_ADDR = "alt_addr"
    """The destination answered from another address."""
    DUPLICATE = "duplicate"
    """More replies to the same probe came after this first one."""
    SPOOF_SUSPECT = "spoof_suspect"
    """Another address replied to the same probe."""


class InterfaceRole(StrEnum):
    """Which interface of the responder an extension describes (RFC 5837 4.1)."""

    INCOMING = "incoming"
    SUB_IP = "sub_ip"
    OUTGOING = "outgoing"
    NEXT_HOP = "next_hop"


@dataclass(frozen=True, slots=True, kw_only=True)
class MplsLabel:
    """One entry of the MPLS label stack that the probe arrived with (RFC 4950, RFC 3032 2.1)."""

    label: int
    traffic_class: int
    bottom_of_stack: bool
    ttl: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceInfo:
    """What the responder says of one of its interfaces (RFC 5837); None for what it does not say."""

    role: InterfaceRole
    index: int | None = None
    """ifIndex of its MIB-II."""
    address: Address | None = None
    name: str | None = None
    """Printable ASCII; every other byte is written as backslash and three decimal digits."""
    mtu: int | None = None
    """Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownObject:
    """An extension object of a class that is not known here, or that does not read as its class should."""

    class_num: int
    c_type: int
    data: str
    """Hexadecimal."""


Extension = MplsLabel | InterfaceInfo | UnknownObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What load balancers hash, besides addresses and protocol: constant over a trace."""

    source_port: int
    """The identifier, for ICMP."""
    destination_port: int | None
    """None for ICMP, which has no ports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The first reply to one probe."""

    address: Address
    """The responder: source address of the reply's IP header."""
    kind: ReplyKind
    rtt_ns: int | None
    """Kernel receive stamp minus send stamp; None when the clock was stepped in between."""
    icmp_type: int | None
    """None for an answer that is no ICMP, such as a SYN-ACK."""
    icmp_code: int | None
    reply_ttl: int | None
    """TTL or hop limit of the reply itself as it arrived here."""
    quoted_ttl: int | None
    """TTL or hop limit inside the quoted probe: what was left of it at the responder. None for a direct answer, and
    without raw sockets."""
    quoted_tos: int | None = None
    """Type of service or traffic class (DSCP and ECN) inside the quoted probe, as it arrived there."""
    mtu: int | None = None
    """Next-hop MTU of a "fragmentation needed" or "packet too big", bytes."""
    port_state: PortState | None = None
    """Of the destination's own UDP or TCP answer; None else."""
    extensions: tuple[Extension, ...] = ()
    """ICMP extensions (RFC 4884) in the order of the packet."""
    matched: tuple[Evidence, ...] = ()
    flags: tuple[ReplyFlag, ...] = ()
    duplicates: int = 0
    """Further replies to the same probe."""
    name: str | None = None
    """Reverse DNS of `address`, cleaned; filled in by `allhops.enrich`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One packet that was sent, and what came of it."""

    attempt: int
    """How many times this TTL had been asked, this time included; more than the caller asked for on a row in doubt."""
    probe_ttl: int
    """TTL as sent. On the destination's row it may be larger than the hop's: see `Hop`."""
    state: ProbeState
    reply: Reply | None = None
    """None when nobody answered."""
    late_rtt_ns: int | None = None
    """RTT of a reply that came after the probe was given up: it stays lost."""


class Verdict(StrEnum):
    """What a row that looks wrong turned out to be, once it was asked again while there was time."""

    SILENT = "silent"
    """Nobody answers at this TTL."""
    RATE_LIMITED = "rate_limited"
    """The responder answers, but not every probe, while what lies beyond it does: it limits its answers."""
    LOAD_BALANCED = "load_balanced"
    """More than one responder although every probe has the same flow: balanced by packet, or the path changed."""
    LOOP = "loop"
    """The responder is one of those that the packets come back to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """Who is at a TTL that this trace did not ask, according to another trace.

    Both were seen at one responder at one larger TTL, so they are taken to have come the same way. The other's flow was
    another: behind a load balancer the hop may differ.
    """

    address: Address
    """The responder."""
    destination: Address
    """Destination of the trace that measured it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """Everything heard at one TTL.

    The destination's row may hold probes with a larger TTL: they reached it too,
    so they are further RTT samples of it.
    """

    ttl: int
    probes: tuple[Probe, ...]
    verdict: Verdict | None = None
    """None for a row that nothing is wrong with."""
    mtu: int | None = None
    """Largest whole packet, bytes, known to reach this hop; None when nobody asked, or nothing is known to."""
    inherited: Inherited | None = None
    """Who is there according to another trace; then no probe of this one asked (`probes` is empty)."""

    @property
    def is_behind_nat(self) -> bool:
        """Whether a reply shows that a NAT changed its probe on the way here."""
        return any(probe.reply is not None and ReplyFlag.NAT in probe.reply.flags for probe in self.probes)


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
    """One sentence, when `stop_reason` is `local_error` or `bad_destination`."""
    backend: str | None = None
    """How the probes reached the wire: "raw" sockets, "ring" (packet rings, of batches), "errqueue" (the kernel's error
    queue, no privilege needed) or "simulated"; None when none could leave.
    """
    flow_constant: bool = True
    """Whether every probe had the ports that `flow` says. TCP without raw sockets needs a source port for each."""
    path_mtu: int | None = None
    """Largest whole packet, bytes, known to reach the destination; None when nobody asked, or it was not reached."""

    @property
    def reached(self) -> bool:
        """Whether the destination itself answered."""
        return bool(self.hops) and any(
            probe.reply is not None and probe.reply.kind is ReplyKind.DESTINATION for probe in self.hops[-1].probes
        )
