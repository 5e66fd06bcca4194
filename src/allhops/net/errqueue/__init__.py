"""Probing without privilege: ordinary sockets, and the error queue on which the kernel tells of ICMP errors.

    numbers.py     what the kernel calls things, a family a row
    queue.py       control messages -> what the kernel told
    synthesis.py   what it told -> the packet that it stood for
    alone.py       which probe a reply is about when it names none
    hearing.py     what a UDP or ping socket was told, with the headers that the kernel keeps to itself
    flow.py        UDP and ICMP: one socket a flow, all TTLs in flight
    connect.py     TCP: one socket a probe
    spray.py       whether somebody is guessing our ports
    watch.py       one epoll for all sockets
    transport.py   the transport: leases, and what they share (station.py, places.py, arrivals.py)

For batches, which may import numpy:

    outbox.py      probes as messages for sendmmsg
    in_flight.py   what alone.py is to one flow, for many destinations
    window.py      UDP and ICMP: one socket for a window of destinations
    batch.py       the wire: the transport, giving out windows

Source: ip(7), ipv6(7), icmp(7), udp(7), tcp(7).
"""

from allhops.net.errqueue.transport import ErrorQueueTransport

__all__ = ["ErrorQueueTransport"]
