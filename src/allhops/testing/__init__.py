"""A simulated internet, so that whoever embeds allhops can test without root and without a network.

* `load_scenario`, `parse_scenario`, `bundled_scenarios`: scenario files (docs/lab.md)
* `generate`: a scenario of any size from a seed
* `Internet`: plays a scenario, packets in, packets out; no clock, no socket
* `SyntheticInternet`: one for up to a million destinations, computed instead of written down; arrays in, arrays out
* `FakeWire`: that one in the place of a batch's network
* `FakeNet`: an `Internet` in the place of the network, for a `Prober` or for a virtual clock
* `allhops.testing.tun`: the same scenario for any program, behind a TUN device (Linux, root)
* `allhops.testing.namespaces`: labs of real kernels in network namespaces (Linux, root)

Everything is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from allhops.testing.fakenet import FakeNet
    from allhops.testing.fakewire import FakeWire
    from allhops.testing.generator import generate
    from allhops.testing.internet import Arrival, Internet, TruthHop
    from allhops.testing.scenario import Scenario
    from allhops.testing.scenario_file import bundled_scenarios, load_scenario, parse_scenario
    from allhops.testing.synthetic import SyntheticInternet

_HOMES = {
    "Arrival": "internet",
    "FakeNet": "fakenet",
    "FakeWire": "fakewire",
    "Internet": "internet",
    "Scenario": "scenario",
    "SyntheticInternet": "synthetic",
    "TruthHop": "internet",
    "VirtualTrace": "virtual",
    "bundled_scenarios": "scenario_file",
    "generate": "generator",
    "load_scenario": "scenario_file",
    "parse_scenario": "scenario_file",
}

__all__ = [
    "Arrival",
    "FakeNet",
    "FakeWire",
    "Internet",
    "Scenario",
    "SyntheticInternet",
    "TruthHop",
    "VirtualTrace",
    "bundled_scenarios",
    "generate",
    "load_scenario",
    "parse_scenario",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
