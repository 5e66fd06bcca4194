"""One tool's process, from its start to its end: wall time, CPU of its whole tree, peak memory, open files.

CPU is what the kernel charges to the process and the children it waited for: work that it causes in softirqs of other
CPUs is not in it. This file knows no tool, only how the project's own comes to its bytecode.
"""

from __future__ import annotations

import compileall
import os
import pathlib
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import allhops
from allhops.testing.namespaces import importing_us

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LOOK_EVERY_S = 0.05
"""ru_maxrss would do without looking, were it not inherited from whoever forked: VmHWM belongs to the program alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process took."""

    status: int
    """Exit status; negative: the signal that ended it."""
    wall_s: float
    user_s: float
    system_s: float
    peak_rss_bytes: int
    """Of the largest process, not of the tree."""
    open_files: int
    """Most that were seen at once."""

    @property
    def cpu_s(self) -> float:
        """Both sorts together."""
        return self.user_s + self.system_s


def as_installed() -> dict[str, str]:
    """The environment in which a child imports this same allhops, with its bytecode, as an installed one has it."""
    compileall.compile_dir(str(pathlib.Path(allhops.__path__[0])), quiet=1)
    return {**importing_us(), "PYTHONDONTWRITEBYTECODE": ""}


def measure(
    argv: Sequence[str],
    *,
    log: pathlib.Path,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    look: Callable[[int, float], None] = lambda process, now: None,
) -> Usage:
    """Run a program to its end; what it prints goes to `log`, stderr after stdout as they come.

    One that is not done after `timeout_s` is killed with its children: its status tells. `look` is called with its
    process id and the seconds since its start, every `LOOK_EVERY_S`.
    """
    with log.open("wb") as output:
        started = time.perf_counter()
        program = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
            start_new_session=True,
        )
        descriptor = os.pidfd_open(program.pid)
        rss = files = 0
        try:
            while not select.select([descriptor], (), (), LOOK_EVERY_S)[0]:
                now = time.perf_counter() - started
                rss, files = max(rss, _peak_rss(program.pid)), max(files, _open_files(program.pid))
                look(program.pid, now)
                if now > timeout_s:
                    os.killpg(program.pid, signal.SIGKILL)
        except BaseException:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()
            raise
        finally:
            os.close(descriptor)
        wall_s = time.perf_counter() - started
        _, status, usage = os.wait4(program.pid, 0)
        program.returncode = os.waitstatus_to_exitcode(status)
    return Usage(
        status=program.returncode,
        wall_s=wall_s,
        user_s=usage.ru_utime,
        system_s=usage.ru_stime,
        peak_rss_bytes=rss,
        open_files=files,
    )


def _peak_rss(process: int) -> int:
    """Of the process or the one of its children that has most."""
    try:
        status = pathlib.Path(f"/proc/{process}/status").read_text()
        children = pathlib.Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:  # it has ended meanwhile
        return 0
    _, found, rest = status.partition("VmHWM:")
    own = int(rest.split()[0]) * 1024 if found else 0
    return max(own, *(_peak_rss(int(child)) for child in children.split())) if children else own


def _open_files(process: int) -> int:
    try:
        return len(os.listdir(f"/proc/{process}/fd"))
    except OSError:  # it has ended meanwhile
        return 0
