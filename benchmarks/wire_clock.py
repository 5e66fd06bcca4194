"""Round-trip times by the kernel's own stamps of what left and what came in, whatever a prober says.

tcpdump listens beside it, on the routers' CPU. This file knows no prober: a probe and its answer are told together by
what the answer quotes.
"""

from __future__ import annotations

import contextlib
import re
import signal
import struct
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.batch_lab import ROUTER_CPU

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from benchmarks.batch_lab import Ground

SNAP_BYTES = 96
"""Ethernet, IP, ICMP, the quoted IP header and eight bytes of UDP, with room."""
BUFFER_KIB = 256 << 10
PCAP_HEADER, RECORD = 24, struct.Struct("<IIII")
NANOSECOND_MAGIC = 0xA1B23C4D
ETHERNET = 14
KEY = slice(16, 28)
"""Of a quoted IPv4 packet without options: destination address, ports, length and checksum of UDP."""
IDENTIFICATION = slice(4, 6)


class WireTimes(NamedTuple):
    """One row an answered probe."""

    destination: NDArray[np.uint32]
    ttl: NDArray[np.uint8]
    rtt_ns: NDArray[np.int64]


@contextlib.contextmanager
def listening(ground: Ground, capture: pathlib.Path) -> Iterator[None]:
    """Write down every packet of the prober's interface meanwhile.

    Raises: RuntimeError where the kernel had to drop some, so that the times would have holes.
    """
    argv = [
        *("ip", "netns", "exec", ground.lab.client, "taskset", "--cpu-list", str(ROUTER_CPU)),
        *("tcpdump", "-i", ground.interface, "-n", "-s", str(SNAP_BYTES), "-B", str(BUFFER_KIB), "-w", str(capture)),
        *("--time-stamp-precision=nano", "udp or icmp"),
    ]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as tcpdump:
        assert tcpdump.stderr is not None  # it was asked for
        tcpdump.stderr.readline()  # "listening on"
        try:
            yield
        finally:
            tcpdump.send_signal(signal.SIGINT)
            said = tcpdump.communicate()[1]
    dropped = re.search(r"(\d+) packets dropped by kernel", said)
    if dropped is None or int(dropped[1]):
        raise RuntimeError(f"tcpdump: {said.strip()}")


def wire_times(capture: pathlib.Path) -> WireTimes:
    """From when each UDP probe left to when an ICMP error about it came in."""
    stamps, packets = _packets(capture.read_bytes())
    protocol = packets[:, ETHERNET + 9]
    probes = packets[protocol == 17, ETHERNET:]
    errors = packets[protocol == 1, ETHERNET + 28 :]  # as quoted
    probe_keys, first = np.unique(_keys(probes), return_index=True)
    error_keys = _keys(errors)
    at = np.minimum(np.searchsorted(probe_keys, error_keys), len(probe_keys) - 1)
    known = probe_keys[at] == error_keys
    probe = first[at[known]]
    return WireTimes(
        destination=np.ascontiguousarray(probes[probe, 16:20]).view(">u4")[:, 0].astype(np.uint32),
        ttl=probes[probe, 8],
        rtt_ns=stamps[protocol == 1][known] - stamps[protocol == 17][probe],
    )


def _packets(capture: bytes) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Stamps, and each packet's first `SNAP_BYTES` with zeros behind it."""
    if struct.unpack_from("<I", capture)[0] != NANOSECOND_MAGIC:
        raise ValueError("no capture of little-endian nanoseconds")
    stamps, starts, lengths = [], [], []
    offset = PCAP_HEADER
    while offset < len(capture):
        seconds, nanoseconds, length, _ = RECORD.unpack_from(capture, offset)
        offset += RECORD.size
        stamps.append(seconds * 1_000_000_000 + nanoseconds)
        starts.append(offset)
        lengths.append(length)
        offset += length
    octets = np.frombuffer(capture + bytes(SNAP_BYTES), np.uint8)
    rows = octets[np.array(starts)[:, None] + np.arange(SNAP_BYTES)]
    rows[np.arange(SNAP_BYTES) >= np.array(lengths)[:, None]] = 0
    return np.array(stamps, np.int64), rows


def _keys(packets: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """What of an IPv4 packet comes back unchanged in a quotation and tells probes apart."""
    parts = np.concatenate([packets[:, KEY], packets[:, IDENTIFICATION]], axis=1)
    return np.ascontiguousarray(parts).view(f"S{parts.shape[1]}")[:, 0]
