"""The command's event loop: what the library warns of becomes lines like ours, the first signal asks, the second ends.

This file knows no trace.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from typing import TYPE_CHECKING, TypeVar

import uvloop

from allhops.cli.streams import complain

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

Result = TypeVar("Result")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_in_loop(main: Coroutine[None, None, Result], say: Callable[[str], None] = complain) -> Result:
    """What `main` returns, run in a loop of its own; `say` gets the library's warnings."""
    if not gc.isenabled():  # `main` has left that to us
        gc.freeze()  # what is imported by now stays: 35 ms less at exit, and less to look through until then
        gc.enable()
    log, complaints = logging.getLogger("allhops"), _Complaints(say)
    log.addHandler(complaints)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    finally:
        log.removeHandler(complaints)


class _Complaints(logging.Handler):
    """What the library warns of, as lines like ours."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        self._say(record.getMessage())


class Signals:
    """Calls `stop` for the first signal; the second one ends the process."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self.number = 0
        """Of the signal that came; 0 for none."""
        self._stop = stop
        self._count = 0

    def listen(self) -> None:
        """From now on."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # such as SIGHUP under nohup
                loop.add_signal_handler(number, self._on_first, number)
                # The loop's own handler does nothing but wake the loop, and has writes go on where they were. A reader
                # that stands still would keep both from us for ever.
                signal.signal(number, self._count_signal)

    def _count_signal(self, number: int, frame: object) -> None:
        """Between any two instructions, or in the middle of a write: the second signal is not for the loop any more."""
        self._count += 1
        if self._count > 1:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _on_first(self, number: int) -> None:
        """End everything with what is known; a second signal ends the process at once."""
        self.number = number
        loop = asyncio.get_running_loop()
        for handled in _SIGNALS:
            if loop.remove_signal_handler(handled):
                signal.signal(handled, signal.SIG_DFL)
        self._stop()
