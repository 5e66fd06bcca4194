"""The way down from sudo, as far as it can be walked without being root."""

from __future__ import annotations

import os
import threading

import pytest

from allhops.errors import PrivilegeError
from allhops.net import privileges


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SUDO_UID": "1000"},
        {"SUDO_GID": "1000"},
        {"SUDO_UID": "", "SUDO_GID": ""},
        {"SUDO_UID": "-1", "SUDO_GID": "1000"},
        {"SUDO_UID": "1000; id", "SUDO_GID": "1000"},
        {"SUDO_UID": "\u0661", "SUDO_GID": "1"},
    ],
)
def test_nothing_is_dropped_outside_sudo(environment: dict[str, str]) -> None:
    before = os.getresuid(), os.getresgid(), privileges.capabilities()
    assert privileges.drop_to_caller(environment) is None
    assert (os.getresuid(), os.getresgid(), privileges.capabilities()) == before


def test_a_user_who_is_not_root_has_nothing_to_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert privileges.drop_to_caller({"SUDO_UID": "1000", "SUDO_GID": "1000"}) is None


def test_threads_keep_their_capabilities_so_there_must_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    with pytest.raises(PrivilegeError, match="threads"):
        privileges.drop_to_caller({"SUDO_UID": "1000", "SUDO_GID": "1000"})


def test_capability_sets_are_read() -> None:
    assert set(privileges.capabilities()) == {"CapInh", "CapPrm", "CapEff", "CapAmb"}
