from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import allhops


def test_every_public_name_is_there() -> None:
    for name in allhops.__all__:
        assert getattr(allhops, name) is not None
    assert sorted(allhops.__all__) == sorted(name for names in allhops._HOMES.values() for name in names)
    assert set(allhops.__all__) <= set(dir(allhops))


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = allhops.nonsense


def modules_after(code: str) -> set[str]:
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    modules: Any = json.loads(output.splitlines()[-1])
    return set(modules)


HEAVY = {"numpy", "rich", "dpkt", "dpkt.ip", "uvloop", "argparse", "jsonschema", "tomllib", "ssl", "multiprocessing"}


def test_importing_the_package_costs_next_to_nothing() -> None:
    modules = modules_after("import allhops")
    assert not modules & (HEAVY | {"asyncio", "socket"})


def test_reading_a_reply_imports_no_more_of_dpkt_than_it_needs() -> None:
    """And whoever imports dpkt for themselves gets all of it."""
    modules = modules_after("import allhops.core.lanes.dissect")
    assert "dpkt.ip" in modules
    assert not modules & {"dpkt", "dpkt.http"}
    modules = modules_after(
        "import allhops.core.lanes.dissect as dissect, dpkt, sys\n"
        "assert dpkt.ip.IP is dissect.parsers.IP and dpkt.http.Request"
    )
    assert {"dpkt", "dpkt.http"} <= modules
    assert "dpkt.http" in modules_after("import dpkt, allhops.core.lanes.dissect")


def test_a_trace_of_one_destination_imports_no_array_library() -> None:
    modules = modules_after(
        "import asyncio, allhops\n"
        "async def main():\n"
        "    from allhops.testing.fakenet import FakeNet\n"
        "    async with allhops.Prober(transport=FakeNet.load('silent_host_udp')) as prober:\n"
        "        assert (await prober.trace('203.0.113.9')).hops\n"
        "asyncio.run(main())"
    )
    assert "allhops.core.lanes.dissect" in modules
    assert not [name for name in modules if name.startswith(("numpy", "allhops.core.batch", "allhops.core.harvest"))]


def test_launching_a_trace_imports_no_parser_and_no_array_library() -> None:
    """dpkt is imported when the first reply is read, while probes are in flight."""
    modules = modules_after(
        "import asyncio, allhops\n"
        "async def main():\n"
        "    from allhops.testing.fakenet import FakeNet\n"
        "    net = FakeNet.load('silent_host_udp')\n"
        "    net._deliver_after = lambda *arguments: None\n"
        "    async with allhops.Prober(transport=net) as prober:\n"
        "        await prober.start('203.0.113.9', allhops.TraceOptions())\n"
        "asyncio.run(main())"
    )
    assert not modules & (HEAVY - {"tomllib", "ssl"})  # asyncio imports ssl itself
