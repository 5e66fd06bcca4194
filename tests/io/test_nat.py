"""Every protocol through the prober: replies find their trace, behind a NAT by the cookie alone."""

from __future__ import annotations

import asyncio

import pytest

from allhops.model import Protocol, ReplyFlag, StopReason
from allhops.net.prober import Prober
from allhops.testing import FakeNet

DESTINATIONS = {4: "203.0.113.9", 6: "2001:db8:9::9"}


@pytest.mark.parametrize("version", [4, 6])
async def test_behind_a_nat_the_cookie_finds_the_trace(version: int) -> None:
    """The NAT shifts ports and identifiers: no quote from behind it shows a flow that anybody holds."""
    async with Prober(transport=FakeNet.load("nat")) as prober:
        traces = await asyncio.gather(
            *(prober.trace(DESTINATIONS[version], protocol=protocol) for protocol in Protocol for _ in range(3))
        )
        assert prober.counters.forged == prober.counters.malformed == 0
    for trace in traces:
        assert trace.stop_reason is StopReason.REACHED
        for hop in trace.hops[2:5]:
            for probe in hop.probes:
                assert probe.reply is not None
                assert probe.reply.flags == (ReplyFlag.NAT,)
