"""The command from arguments to exit status: every error becomes one line here."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from allhops.cli.arguments import read_arguments
from allhops.cli.status import Status, status_of_error
from allhops.cli.streams import OutputError, complain, give_up_stdout, prepare_streams, say
from allhops.errors import AllhopsError

if TYPE_CHECKING:
    from collections.abc import Sequence

DOCTOR = "doctor"
"""The only argument that is no HOST, when there is no other; `allhops -- doctor` traces a host of that name."""
BATCH = "batch"
"""As the first argument; `allhops -- batch` traces a host of that name."""


def command(argv: Sequence[str] | None) -> int:
    """Do what the arguments ask; the exit status."""
    prepare_streams()
    try:
        return _command(sys.argv[1:] if argv is None else argv)
    except AllhopsError as error:
        complain(str(error))
        return status_of_error(error)
    except OutputError as failure:
        return give_up_stdout(failure)


def _command(argv: Sequence[str]) -> int:
    if list(argv) == [DOCTOR]:
        return _doctor()
    if argv and argv[0] == BATCH:
        return _batch(argv[1:])
    try:
        request = read_arguments(argv)
    except SystemExit:  # --help and --version have been written, but perhaps not out yet
        say("")
        return Status.REACHED
    from allhops.cli.run import run  # asyncio and uvloop: 80 ms that a usage error need not cost

    return run(request)


def _batch(argv: Sequence[str]) -> int:
    """Trace a list."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads for matrices: 75 ms, and not for us
    from allhops.cli.batch.arguments import read_batch_arguments  # numpy: 50 ms that no other branch need pay

    try:
        request = read_batch_arguments(argv)
    except SystemExit:  # --help, as above
        say("")
        return Status.REACHED
    from allhops.cli.batch.run import run  # asyncio and uvloop, as above

    return run(request)


def _doctor() -> int:
    """Print what works on this machine."""
    from allhops.net.doctor import diagnose, is_fit, render  # asyncio and every back end: 80 ms, as above

    findings = diagnose()
    say(f"{render(findings)}\n")
    return Status.REACHED if is_fit(findings) else Status.NOT_REACHED
