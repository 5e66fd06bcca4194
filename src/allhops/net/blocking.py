"""Blocking system calls as futures, in daemon threads.

Not the loop's default executor: its threads are joined at exit, and a resolver that hangs for ten seconds must
delay neither the end of the program nor Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


async def in_daemon_thread(function: Callable[..., Result], *arguments: object) -> Result:
    """Result of `function(*arguments)`, run in a thread of its own; cancelling abandons the thread.

    Raises: what the function raises.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def unless_done(settle: Callable[[], None]) -> None:
        if not future.done():
            settle()

    def run() -> None:
        try:
            settle = partial(future.set_result, function(*arguments))
        except BaseException as error:  # the thread has nobody else to tell
            settle = partial(future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop was closed while we were blocked
            loop.call_soon_threadsafe(unless_done, settle)

    threading.Thread(target=run, daemon=True, name="allhops-blocking").start()
    return await future
