"""How many sockets there may be, and whether somebody guesses ports."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import pytest

from allhops.net.errqueue.places import Places
from allhops.net.errqueue.spray import MISSES, Misses

if TYPE_CHECKING:
    import pathlib


def test_half_of_the_descriptors_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, 128))
    assert Places().limit == 32


def test_no_limit_is_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert Places().limit > 100_000


def test_places_run_out_and_come_back() -> None:
    places = Places(2)
    assert [places.take() for _ in range(3)] == [True, True, False]
    places.give_back()
    assert places.take()


def test_fewer_when_the_process_has_no_more() -> None:
    places = Places(100)
    for _ in range(3):
        places.take()
    places.give_back()
    places.shrink()
    assert places.limit == 2
    for _ in range(2):
        places.give_back()
    places.shrink()
    assert places.limit == 1, "or nothing would ever be sent"


def snmp(errors: int) -> str:
    return f"Ip: A B\nIp: 1 2\nIcmp: InMsgs InErrors OutMsgs\nIcmp: 9 {errors} 9\nIcmpMsg: InType3\nIcmpMsg: 1\n"


def test_more_misses_than_honest_networks_send_are_suspicious(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "snmp"
    path.write_text(snmp(10))
    misses = Misses(tmp_path)
    before = misses.level()
    path.write_text(snmp(10 + MISSES))
    assert not misses.suspicious_since(before)
    path.write_text(snmp(11 + MISSES))
    assert misses.suspicious_since(before)
    misses.orphans += 1
    assert not misses.suspicious_since(before), "one of them may have been our own"


@pytest.mark.parametrize("text", ["", "Icmp: InMsgs\nIcmp: 1\n", "Icmp: InErrors\nIcmp: x\n"])
def test_where_the_kernel_does_not_tell_everything_is_suspicious(text: str, tmp_path: pathlib.Path) -> None:
    if text:
        (tmp_path / "snmp").write_text(text)
    assert Misses(tmp_path).suspicious_since(0)


def test_both_families_are_counted(tmp_path: pathlib.Path) -> None:
    (tmp_path / "snmp").write_text(snmp(3))
    (tmp_path / "snmp6").write_text("Icmp6InMsgs 9\nIcmp6InErrors                   \t4\n")
    assert Misses(tmp_path).level() == 7
