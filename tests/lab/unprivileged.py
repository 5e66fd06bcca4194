"""A program for the lab: traces, with root's privileges or without any, told as JSON.

Everything is imported before the privileges go: nobody may read root's Python.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import uvloop

from allhops.model import Protocol
from allhops.net import privileges
from allhops.net.prober import Prober

if TYPE_CHECKING:
    from allhops.model import Probe, Trace

NOBODY = 65_534
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("destination")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--protocol", default="udp", type=Protocol)
    parser.add_argument("--loop", default="uvloop", choices=LOOPS)
    parser.add_argument("--traces", default=1, type=int)
    parser.add_argument("--at-once", default=1_000, type=int, help="of these")
    parser.add_argument("--attempts", default=3, type=int)
    parser.add_argument("--max-ttl", default=30, type=int)
    parser.add_argument("--first-ttl", default=1, type=int)
    parser.add_argument("--port", type=int)
    parser.add_argument("--tos", default=0, type=int)
    parser.add_argument("--flow-label", type=int)
    parser.add_argument("--dont-fragment", action="store_true")
    parser.add_argument("--discover-mtu", action="store_true")
    parser.add_argument("--one-by-one", action="store_true", help="not all traces at once")
    parser.add_argument("--stay", action="store_true", help="keep the privileges")
    parser.add_argument("--sudo", action="store_true", help="open raw sockets, then drop to SUDO_UID")
    return parser.parse_args()


def give_up() -> None:
    """Become nobody, with no capability and no way to get one."""
    if privileges.drop_to_caller({"SUDO_UID": str(NOBODY), "SUDO_GID": str(NOBODY)}) is None:
        sys.exit("the lab's program must be started as root")


async def run(options: argparse.Namespace) -> dict[str, Any]:
    prober = Prober(backend=options.backend)
    async with prober:
        if options.sudo:
            prober.transport.open_all(None)
            privileges.drop_to_caller()
        places = asyncio.Semaphore(1 if options.one_by_one else options.at_once)
        traces = await asyncio.gather(*(trace(prober, options, places) for _ in range(options.traces)))
    counters = prober.counters
    return {
        "traces": [told(trace) for trace in traces],
        "counters": {name: getattr(counters, name) for name in type(counters).__slots__},
        "uid": os.getresuid(),
        "capabilities": privileges.capabilities(),
    }


async def trace(prober: Prober, options: argparse.Namespace, places: asyncio.Semaphore) -> Trace:
    async with places:
        return await prober.trace(
            options.destination,
            protocol=options.protocol,
            attempts=options.attempts,
            first_ttl=options.first_ttl,
            max_ttl=options.max_ttl,
            destination_port=options.port,
            tos=options.tos,
            flow_label=options.flow_label,
            dont_fragment=options.dont_fragment,
            discover_mtu=options.discover_mtu,
        )


def told(trace: Trace) -> dict[str, Any]:
    return {
        "backend": trace.backend,
        "flow_constant": trace.flow_constant,
        "source_port": trace.flow and trace.flow.source_port,
        "stop_reason": trace.stop_reason,
        "error": trace.error,
        "duration_ms": trace.duration_ns / 1e6,
        "path_mtu": trace.path_mtu,
        "mtu": [hop.mtu for hop in trace.hops],
        "hops": [[probe_told(probe) for probe in hop.probes] for hop in trace.hops],
    }


def probe_told(probe: Probe) -> dict[str, Any]:
    reply = probe.reply
    if reply is None:
        return {"state": probe.state, "address": None}
    return {
        "state": probe.state,
        "address": str(reply.address),
        "kind": reply.kind,
        "reply_ttl": reply.reply_ttl,
        "rtt_ms": None if reply.rtt_ns is None else reply.rtt_ns / 1e6,
        "matched": list(reply.matched),
        "flags": list(reply.flags),
        "port_state": reply.port_state,
        "extensions": repr(reply.extensions),
        "mtu": reply.mtu,
        "icmp": [reply.icmp_type, reply.icmp_code],
    }


def main() -> None:
    options = arguments()
    for name in ("core.mtu.session", "core.lanes.dissect", "net.errqueue"):
        import_module(f"allhops.{name}")
    for name in ("resource", "encodings.idna"):
        import_module(name)
    if not (options.stay or options.sudo):
        give_up()
    with asyncio.Runner(loop_factory=LOOPS[options.loop]) as runner:
        print(json.dumps(runner.run(run(options))))


if __name__ == "__main__":
    main()
