"""What every test shares: both event loops, and a guard that lets no probe out of the machine."""

from __future__ import annotations

import asyncio
import os
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

import allhops.net.batch.leases
import allhops.net.source

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from allhops.model import Address

INITIAL_NAMESPACE = os.stat("/proc/self/ns/net") if os.path.exists("/proc/self/ns/net") else None
"""Where the tests were started: it may have a way out, so only its loopback may be probed."""


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every asynchronous test runs on asyncio's loop and on uvloop."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def has_a_way_out() -> bool:
    """Whether this thread is in the namespace that the tests were started in."""
    if INITIAL_NAMESPACE is None:
        return True
    return os.path.samestat(os.stat("/proc/thread-self/ns/net"), INITIAL_NAMESPACE)


@pytest.fixture(autouse=True)
def no_probe_gets_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one rule about the network, enforced where every flow gets its source address."""
    look_up_route = allhops.net.source._connect

    def guarded(sock: socket.socket, destination: Address, *arguments: Any) -> None:
        if not destination.is_loopback and has_a_way_out():
            pytest.fail(f"a test was about to probe {destination} from a namespace with a way out")
        look_up_route(sock, destination, *arguments)

    monkeypatch.setattr(allhops.net.source, "_connect", guarded)
    hold = allhops.net.source.hold_source_flow

    def guarded_hold(source: bytes, *arguments: Any) -> Any:
        if not ip_address(source).is_loopback and has_a_way_out():
            pytest.fail(f"a test was about to probe from {ip_address(source)} in a namespace with a way out")
        return hold(source, *arguments)

    monkeypatch.setattr(allhops.net.batch.leases, "hold_source_flow", guarded_hold)
