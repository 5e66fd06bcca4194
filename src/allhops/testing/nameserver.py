"""The name server of the simulated internet: a query's bytes in, an answer's bytes out.

It knows every router and every named destination. This file knows no clock and
no socket.

Source: RFC 1035, RFC 3596; dpkt builds and reads the messages.
"""

from __future__ import annotations

from importlib import import_module
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

from allhops.testing.scenario import DnsAnswer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.model import Address
    from allhops.testing.scenario import Scenario

TTL_SECONDS = 60


class Names:
    """The names of a scenario, both ways."""

    def __init__(self, scenario: Scenario) -> None:
        self._names: dict[Address, str] = {}
        self._addresses: dict[tuple[str, int], Address] = {}
        for address, name in _named(scenario):
            self._names.setdefault(address, name)
            self._addresses.setdefault((name.lower(), address.version), address)
        self._pointers = {reverse_name(address): name for address, name in self._names.items()}
        if scenario.dns:
            for text, name in scenario.dns.ptr.items():
                self._pointers[reverse_name(_address(text))] = name

    def name_of(self, address: Address) -> str | None:
        """Name of a device or destination, None where it has none."""
        return self._pointers.get(reverse_name(address))

    def address_of(self, name: str, version: int) -> Address | None:
        """Address of a name in family 4 or 6, None where there is none."""
        return self._addresses.get((name.lower().rstrip("."), version))

    def pointer(self, reverse: str) -> str | None:
        """Name behind a name such as 1.2.0.192.in-addr.arpa."""
        return self._pointers.get(reverse.lower().rstrip("."))

    def knows(self, name: str) -> bool:
        """Whether the name has an address in either family."""
        return any(self.address_of(name, version) for version in (4, 6))


def _named(scenario: Scenario) -> Iterator[tuple[Address, str]]:
    for path in scenario.paths:
        for network in path.destinations:
            if path.name and network.prefixlen == network.max_prefixlen:
                yield network.network_address, path.name
    for router in scenario.routers.values():
        for address in (router.ipv4, router.ipv6):
            if router.name and address:
                yield address, router.name


def _address(text: str) -> Address:
    return IPv6Address(text) if ":" in text else IPv4Address(text)


def reverse_name(address: Address) -> str:
    """Name under which the PTR record of an address stands, without the final dot.

    >>> reverse_name(IPv4Address("192.0.2.1"))
    '1.2.0.192.in-addr.arpa'
    """
    return address.reverse_pointer


def prepare() -> None:
    """Import what reads the messages: 50 ms."""
    import_module("dpkt.dns")


def answer(query: bytes, names: Names, behaviour: DnsAnswer) -> bytes | None:
    """The answer to a query; None for bytes that are none, or when the server stays silent."""
    from dpkt import dns  # 50 ms with what it pulls in, and only for scenarios with a name server

    if behaviour is DnsAnswer.SILENT:
        return None
    try:
        message = dns.DNS(query)
    except Exception:  # dpkt 1.9.8 leaks IndexError, UnicodeDecodeError and others on hostile input
        return None
    if message.qr != dns.DNS_Q or len(message.qd) != 1:
        return None
    question = message.qd[0]
    message.qr, message.aa, message.ra = dns.DNS_R, 1, 1
    message.ar, message.ns, message.an = [], [], []  # the client's EDNS record among them: we speak plain DNS
    rcodes = {DnsAnswer.SERVFAIL: dns.DNS_RCODE_SERVFAIL, DnsAnswer.NXDOMAIN: dns.DNS_RCODE_NXDOMAIN}
    message.rcode = rcodes.get(behaviour, dns.DNS_RCODE_NOERR)
    if behaviour is DnsAnswer.NORMAL:
        known, message.an = _records(question, names, dns)
        message.rcode = dns.DNS_RCODE_NOERR if known else dns.DNS_RCODE_NXDOMAIN
    return bytes(message)


def _records(question: Any, names: Names, dns: Any) -> tuple[bool, list[Any]]:
    """Whether the asked name exists, and the records of the asked type."""
    kind, name = question.type, question.name
    if name.lower().endswith(".arpa"):
        pointer = names.pointer(name)
        if pointer is None or kind != dns.DNS_PTR:
            return pointer is not None, []
        return True, [_record(dns, question, ptrname=pointer)]
    if kind not in (dns.DNS_A, dns.DNS_AAAA):
        return names.knows(name), []
    address = names.address_of(name, 4 if kind == dns.DNS_A else 6)
    if address is None:
        return names.knows(name), []
    field = "ip" if kind == dns.DNS_A else "ip6"
    return True, [_record(dns, question, **{field: address.packed})]


def _record(dns: Any, question: Any, **data: Any) -> Any:
    return dns.DNS.RR(name=question.name, type=question.type, cls=dns.DNS_IN, ttl=TTL_SECONDS, **data)
