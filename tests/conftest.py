"""What every test shares: both event loops, and a guard that lets no probe out of the machine."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

import allhops.net.raw
from allhops.net.source import hold_port

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from allhops.model import Address

INITIAL_NAMESPACE = os.stat("/proc/self/ns/net") if os.path.exists("/proc/self/ns/net") else None
"""Where the tests were started: it may have a way out, so only its loopback may be probed."""


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every asynchronous test runs on asyncio's loop and on uvloop."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def refuse_a_way_out(destination: Address, **options: Any) -> socket.socket:
    """Hold a port as always, but only for loopback, or in a namespace that a test has made."""
    here = os.stat("/proc/thread-self/ns/net") if INITIAL_NAMESPACE else None
    inside_the_lab = INITIAL_NAMESPACE and here and not os.path.samestat(here, INITIAL_NAMESPACE)
    if not destination.is_loopback and not inside_the_lab:
        pytest.fail(f"a test was about to probe {destination} from a namespace with a way out")
    return hold_port(destination, **options)


@pytest.fixture(autouse=True)
def no_probe_gets_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one rule about the network, enforced."""
    monkeypatch.setattr(allhops.net.raw, "hold_port", refuse_a_way_out)
