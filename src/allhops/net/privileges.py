"""How this process stops being able to do what it may: the way down from sudo.

`drop_to_caller` is for after the sockets are open and before names are resolved or files opened: from then on a bug
gives an attacker what the caller's own account can do, and the sockets that are open already. A privilege belongs on a
process that gives it back, never on the Python interpreter: setcap there would lend it to every script of every user.

Plain system calls through the C library; no dependency.

Source: capabilities(7), prctl(2), capset(2), sudo(8) ENVIRONMENT.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allhops.errors import PrivilegeError

if TYPE_CHECKING:
    from collections.abc import Mapping

PR_SET_NO_NEW_PRIVS = 38
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
LAST_CAPABILITY = 63
"""Highest number that fits the capability sets; Linux 6.18 knows 0 to 40 and refuses the rest."""
_CAPABILITY_VERSION_3 = 0x20080522
_STATUS = pathlib.Path("/proc/thread-self/status")
_CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Who the process is after `drop_to_caller`."""

    uid: int
    gid: int


def drop_to_caller(environment: Mapping[str, str] = os.environ) -> Dropped | None:
    """Under sudo: become the user who called it, for good, with no capability left. None, and nothing done, elsewhere.

    Supplementary groups are given up: looking them up would run the system's name services as root. Call it before
    any thread is started: capabilities belong to threads.

    Raises: PrivilegeError when anything is left that should not be; the caller must not go on then.
    """
    caller = _caller(environment)
    if caller is None or os.geteuid() != 0:
        return None
    if threading.active_count() > 1:
        raise PrivilegeError("privileges must be dropped before threads are started")
    try:
        _empty_bounding_set()
        os.setgroups([caller.gid])
        os.setresgid(caller.gid, caller.gid, caller.gid)
        os.setresuid(caller.uid, caller.uid, caller.uid)
        _clear_capabilities()
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        raise PrivilegeError(f"root's privileges could not be given up: {error.strerror}") from error
    _verify(caller)
    return caller


def _caller(environment: Mapping[str, str]) -> Dropped | None:
    """Whom sudo says it works for; None when it does not, or says nonsense."""
    uid, gid = environment.get("SUDO_UID", ""), environment.get("SUDO_GID", "")
    if not (uid.isascii() and uid.isdigit() and gid.isascii() and gid.isdigit()):
        return None
    return Dropped(uid=int(uid), gid=int(gid))


def _empty_bounding_set() -> None:
    """While CAP_SETPCAP lets us; numbers that this kernel does not know are refused with EINVAL."""
    for capability in range(LAST_CAPABILITY + 1):
        try:
            _prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            return


def _clear_capabilities() -> None:
    """Permitted, effective, inheritable, ambient. Needs no privilege: it only gives away.

    Leaving root clears the first two by itself, unless a "keep capabilities" bit was set or the caller is root too.
    """
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    _check(_libc().capset(header, none))


def _verify(caller: Dropped) -> None:
    """Trust nobody's word but the kernel's."""
    left = capabilities()
    is_caller = os.getresuid() == (caller.uid,) * 3 and os.getresgid() == (caller.gid,) * 3
    if any(left.values()) or not is_caller:
        raise PrivilegeError(f"root's privileges could not be given up: {left} are left")


def capabilities() -> dict[str, int]:
    """This thread's capability sets as bits, by the names of /proc: CapInh, CapPrm, CapEff, CapAmb."""
    lines = (line.partition(":") for line in _STATUS.read_text().splitlines())
    return {name: int(value, 16) for name, _, value in lines if name in _CAPABILITY_SETS}


def _prctl(option: int, argument: int) -> None:
    unused = ctypes.c_ulong(0)
    _check(_libc().prctl(option, ctypes.c_ulong(argument), unused, unused, unused))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
