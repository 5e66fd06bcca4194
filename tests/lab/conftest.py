"""The lab needs root and Linux; without them its tests are skipped, unless they are asked for."""

from __future__ import annotations

import os
import pathlib
import shutil

import pytest

REQUIRED = os.environ.get("CI") == "true" or os.environ.get("ALLHOPS_LAB") == "required"
"""Where a test that cannot run is a failure: a skip would pass for proof."""


def missing(programs: tuple[str, ...]) -> str | None:
    """Why the lab cannot be built here, None when it can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "the lab needs root"
    if not pathlib.Path("/proc/self/ns/net").exists():
        return "the lab needs Linux network namespaces"
    if not pathlib.Path("/dev/net/tun").exists():
        return "the lab needs /dev/net/tun"
    for program in ("ip", *programs):
        if shutil.which(program) is None:
            return f"the lab needs the program {program}"
    return None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*programs): programs that a lab test runs")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("lab") is None:
        return
    programs = tuple(program for marker in item.iter_markers("needs") for program in marker.args)
    reason = missing(programs)
    if reason is None:
        return
    if REQUIRED:
        pytest.fail(f"{reason}, and this run must not skip it", pytrace=False)
    pytest.skip(reason)
