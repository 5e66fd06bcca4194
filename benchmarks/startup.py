"""What starting costs: imports by `python -X importtime`, and a whole process against the bare event loop.

The yardstick is `python -c "import asyncio, uvloop"` on the same machine in the same run: the two take turns.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from allhops.testing import parse_scenario
from allhops.testing.namespaces import tun_internet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RUNS = 15
RTT_MS = 60.0
BARE = (sys.executable, "-c", "import asyncio, uvloop")
ALLHOPS = str(Path(sys.executable).with_name("allhops"))
_IMPORT = re.compile(r"import time: +(\d+) \| +(\d+) \|( +)(\S+)")

SCENARIO = f"""
schema = "allhops.scenario/1"
[vantage]
ipv4 = "192.0.2.1"
[dns]
address = "192.0.2.53"
rtt_ms = 20.0
[routers.a]
ipv4 = "10.0.0.1"
name = "a.example.net"
[routers.b]
ipv4 = "10.0.0.2"
name = "b.example.net"
[routers.host]
ipv4 = "203.0.113.9"
name = "host.example.net"
[[paths]]
destination = "203.0.113.9"
hops = [{{ router = "a", rtt_ms = 1.0 }}, {{ router = "b", rtt_ms = 20.0 }}, {{ router = "host", rtt_ms = {RTT_MS} }}]
"""


def run(progress: Callable[[str], None]) -> dict[str, object]:
    """Whole processes in turn, in a synthetic internet whose destination answers after 60 ms."""
    bare, named, numeric = [], [], []
    with tun_internet(parse_scenario(SCENARIO)) as lab:
        for number in range(RUNS):
            progress(f"{number + 1}/{RUNS}")
            bare.append(_seconds(lambda: lab.run(BARE)))
            named.append(_seconds(lambda: lab.run((ALLHOPS, "203.0.113.9"))))
            numeric.append(_seconds(lambda: lab.run((ALLHOPS, "-n", "203.0.113.9"))))
    yardstick = statistics.median(bare)
    return {
        "rtt_ms": RTT_MS,
        "import_asyncio_uvloop_ms": round(yardstick * 1e3, 1),
        "allhops_ms": round(statistics.median(named) * 1e3, 1),
        "allhops_n_ms": round(statistics.median(numeric) * 1e3, 1),
        "yardsticks_over_rtt": round((statistics.median(named) - RTT_MS / 1e3) / yardstick, 2),
        "yardsticks_over_rtt_n": round((statistics.median(numeric) - RTT_MS / 1e3) / yardstick, 2),
        "slowest_imports_ms": _imports("import allhops.cli.run"),
    }


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _imports(code: str) -> list[dict[str, object]]:
    """The ten modules that cost most by themselves, slowest first."""
    output = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], check=True, capture_output=True, text=True
    ).stderr
    found = [(int(match[1]), match[4]) for match in map(_IMPORT.match, output.splitlines()) if match]
    return [{"module": name, "ms": round(own / 1e3, 1)} for own, name in sorted(found, reverse=True)[:10]]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the result as JSON."""
    print(json.dumps(run(lambda text: None), indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
