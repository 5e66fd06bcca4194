"""The doctor says one fact a line, and sends nothing beyond the loopback."""

from __future__ import annotations

import asyncio
import re
import resource
from ipaddress import ip_address
from typing import TYPE_CHECKING

from allhops.net import doctor
from allhops.net.doctor import Finding, Verdict, is_fit, render

if TYPE_CHECKING:
    import pytest

FINDINGS = [
    Finding(topic="raw udp IPv4", verdict=Verdict.MISSING, says="needs root", command="sudo allhops"),
    Finding(topic="errqueue udp IPv4", verdict=Verdict.WORKS, says="constant flow"),
]


def test_every_finding_is_one_line() -> None:
    lines = render(FINDINGS).splitlines()
    assert lines == [
        "missing  raw udp IPv4       needs root -> sudo allhops",
        "works    errqueue udp IPv4  constant flow",
    ]
    assert render([]) == ""


def test_one_back_end_is_enough() -> None:
    assert is_fit(FINDINGS)
    assert not is_fit(FINDINGS[:1])
    assert not is_fit([Finding(topic="IPv4", verdict=Verdict.WORKS, says="on")])


def test_only_the_loopback_is_probed() -> None:
    assert all(ip_address(address).is_loopback for address in doctor.LOOPBACK.values())


def test_limits_that_are_low_come_with_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"core/rmem_max": [212_992], "ipv4/ip_local_port_range": [40_000, 41_000], "ipv4/ping_group_range": [1, 0]}
    monkeypatch.setattr(doctor, "_read", lambda key: values.get(key, []))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, 512))
    low = [doctor._buffers(), doctor._descriptors(), doctor._ports(), doctor._ping_groups()]
    assert {finding.verdict for finding in low} == {Verdict.LIMITED}
    assert all(finding.command for finding in low)
    assert low[1].command == "ulimit -n 512"


def test_limits_that_cannot_be_read_are_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_read", lambda key: [])
    assert doctor._buffers().verdict is Verdict.LIMITED
    assert doctor._ports().verdict is Verdict.LIMITED


def test_diagnosis_works_without_privilege() -> None:
    findings = asyncio.run(doctor.examine())
    assert is_fit(findings)
    text = render(findings)
    assert len(text.splitlines()) == len(findings)
    assert not re.search("setcap", text), "never on Python"
