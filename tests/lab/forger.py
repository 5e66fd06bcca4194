"""A program for the lab: knows all addresses of a path, guesses everything else, as fast as the machine does.

ICMP errors go out of a network device as whole frames, many to a system call: Time Exceeded and Port Unreachable from
the path's routers and from the destination, quoting UDP probes with every source port that we draw from and random IP
IDs, half of them 28 bytes, half of them with a payload. Says "ready" with the first of them on its way; when its
standard input closes, says how many there were and in how many seconds.
"""

from __future__ import annotations

import argparse
import ctypes
import ipaddress
import json
import random
import select
import socket
import sys
import time

from allhops.testing.packets import LAYOUTS, UDP, icmp_message, udp_datagram

BATCH = 256
PORTS = range(32_768, 65_536)
SO_PACKET_QDISC_BYPASS = 20
SOL_PACKET = 263
ETHERTYPES = {4: 0x0800, 6: 0x86DD}


class Iovec(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("iov", ctypes.POINTER(Iovec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (("header", Header), ("sent", ctypes.c_uint))


def forgeries(client: bytes, destination: bytes, routers: list[bytes], port: int) -> list[bytes]:
    """Two errors for every source port, in random order."""
    layout = LAYOUTS[4 if len(client) == 4 else 6]
    packets = []
    for source_port in PORTS:
        for payload in (b"", random.randbytes(32)):
            ident = random.randrange(1, 0x10000)
            datagram = udp_datagram(layout, client, destination, (source_port, port), payload)
            quote = layout.header(client, destination, UDP, len(datagram), 1, 0, ident) + datagram
            responder = random.choice([*routers, destination])
            kind = (
                (layout.time_exceeded, 0) if responder != destination else (layout.unreachable, layout.port_unreachable)
            )
            message = icmp_message(layout, responder, client, (*kind, bytes(4)), quote)
            packets.append(layout.header(responder, client, layout.icmp, len(message), 60, 0, ident) + message)
    random.shuffle(packets)
    return packets


def messages(frames: list[bytes]) -> ctypes.Array[Message]:
    """What sendmmsg(2) takes; it all stays where it is for good."""
    vectors = (Iovec * len(frames))()
    array = (Message * len(frames))()
    for vector, message, frame in zip(vectors, array, frames, strict=True):
        vector.base = ctypes.cast(ctypes.c_char_p(frame), ctypes.c_void_p)
        vector.length = len(frame)
        message.header.iov = ctypes.pointer(vector)
        message.header.iov_length = 1
    return array


def spray(sock: socket.socket, array: ctypes.Array[Message], rate: float) -> tuple[int, float]:
    """Round and round until standard input closes; how many, and in how many seconds."""
    libc = ctypes.CDLL(None, use_errno=True)
    size, sent, at = ctypes.sizeof(Message), 0, 0
    start = time.monotonic()
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    print("ready", flush=True)
    while not poll.poll(0):
        batch = min(BATCH, len(array) - at)
        done = libc.sendmmsg(sock.fileno(), ctypes.byref(array, at * size), batch, 0)
        sent += max(done, 0)
        at = (at + max(done, 0)) % len(array)
        time.sleep(max(0.0, start + sent / rate - time.monotonic()))
    return sent, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device")
    parser.add_argument("mac", help="of the client")
    parser.add_argument("client")
    parser.add_argument("destination")
    parser.add_argument("routers", nargs="+")
    parser.add_argument("--rate", type=float, default=100_000.0, help="a second")
    parser.add_argument("--port", type=int, default=33_434, help="destination port of the probes")
    options = parser.parse_args()
    client, destination, *routers = (
        ipaddress.ip_address(text).packed for text in (options.client, options.destination, *options.routers)
    )
    mac = bytes.fromhex(options.mac.replace(":", ""))
    ethernet = mac + bytes(6) + ETHERTYPES[4 if len(client) == 4 else 6].to_bytes(2)
    frames = [ethernet + packet for packet in forgeries(client, destination, routers, options.port)]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((options.device, 0))
        sock.setsockopt(SOL_PACKET, SO_PACKET_QDISC_BYPASS, 1)
        sent, seconds = spray(sock, messages(frames), options.rate)
    json.dump({"sent": sent, "seconds": seconds}, sys.stdout)


if __name__ == "__main__":
    main()
