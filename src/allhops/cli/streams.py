"""Results on stdout, everything else on stderr; a stdout that fails is an error of its own."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import TYPE_CHECKING

from allhops.cli.status import Status
from allhops.enrich.clean import clean_text

if TYPE_CHECKING:
    from typing import TextIO

_LAST_STANDARD_DESCRIPTOR = 2


class OutputError(Exception):
    """Standard output takes no more; the cause is the OSError."""


def prepare_streams() -> None:
    """Fill closed standard descriptors, and escape what the terminal's encoding lacks instead of ending there."""
    # Left closed, as by `>&-`, they would become sockets of ours: results would go there, and libuv aborts.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD_DESCRIPTOR:
        pass
    os.close(descriptor)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def descriptor_of(stream: TextIO | None) -> int:
    """That of a standard stream. Raises: OSError when the command was started with it closed; ValueError."""
    if stream is None:
        raise _closed()
    return stream.fileno()


def _closed() -> OSError:
    return OSError(errno.EBADF, os.strerror(errno.EBADF))


def say(text: str) -> None:
    """Write whole lines to stdout, now.

    Raises: OutputError.
    """
    try:
        if sys.stdout is None:
            raise _closed()
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        raise OutputError from error


def complain(sentence: str) -> None:
    """One line on stderr, without control characters; a stderr that fails has nobody left to tell."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"allhops: {clean_text(sentence)}", file=sys.stderr, flush=True)


def give_up_stdout(failure: OutputError) -> int:
    """Say why output ended, unless its reader just left (as `head` does); the exit status."""
    # What stdout has buffered would fail again, with a traceback, when the interpreter flushes it at exit.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    if isinstance(failure.__cause__, BrokenPipeError):
        return Status.REACHED
    reason = getattr(failure.__cause__, "strerror", None) or failure.__cause__
    complain(f"cannot write the results: {reason}")
    return Status.OUTPUT_FAILED
