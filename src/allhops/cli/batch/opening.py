"""Which output a request means, and what of it there is already.

    no FILE          FILE.run is written, then FILE
    FILE             refused, unless --resume goes on with it or --force begins anew
    no regular file  a stream: nothing to resume

This file knows no destination.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, NamedTuple

from allhops.cli.batch.finished import Finished
from allhops.cli.batch.outputs import FileError, JsonLinesFile, JsonLinesStream, open_alone
from allhops.cli.batch.run_file import SUFFIX, read_run_file, requested, sync_directory
from allhops.cli.batch.sieve import Known
from allhops.cli.streams import OutputError
from allhops.errors import UsageError

if TYPE_CHECKING:
    from allhops.cli.batch.arguments import BatchRequest
    from allhops.cli.batch.outputs import Output
    from allhops.cli.batch.source import Reading


class Opened(NamedTuple):
    """An output, and the run that it belongs to."""

    output: Output
    is_resumable: bool
    """Whether --resume can go on with it."""
    finished: Known
    """By the run that is resumed."""
    failures: int = 0
    """Of those, how many could not be traced."""


def open_output(request: BatchRequest, reading: Reading | None, excluded: bytes | None) -> Opened:
    """Raises: UsageError, FileError, OutputError."""
    if request.output is None:
        return Opened(JsonLinesStream(_standard_output()), False, Known())
    if _is_stream(request.output):
        return Opened(JsonLinesStream(_opened_stream(request.output)), False, Known())
    if request.resume and os.path.exists(request.output):
        return _resumed(request, reading, excluded, request.output)
    return _begun(request, reading, excluded, request.output)


def _begun(request: BatchRequest, reading: Reading | None, excluded: bytes | None, path: str) -> Opened:
    """A new file, or an old one made new."""
    if os.path.exists(path) and not request.force:
        raise UsageError(f"{path} exists: --resume goes on with it, --force begins anew")
    run_file = requested(request, reading and reading.sha256, excluded)
    if os.path.exists(path):  # whatever happens next, old results must not stand beside the new FILE.run
        os.close(open_alone(path, anew=True))
        os.unlink(path)
        sync_directory(path)
    try:
        run_file.write(path + SUFFIX)
    except OSError as error:
        raise FileError(path + SUFFIX, error) from error
    output = JsonLinesFile(open_alone(path, anew=True), path, 0)
    sync_directory(path)
    return Opened(output, reading is not None, Known())


def _resumed(request: BatchRequest, reading: Reading | None, excluded: bytes | None, path: str) -> Opened:
    """The file of a run that was cut short."""
    if reading is None:
        raise UsageError("--resume reads the list once more, to be sure that it is the same: give it as a file")
    before = read_run_file(path + SUFFIX)
    if differences := requested(request, reading.sha256, excluded).differences(before):
        raise UsageError(f"{path} was begun differently: {'; '.join(differences)}; --force begins anew")
    descriptor = open_alone(path, anew=False)
    finished = Finished(descriptor, path)
    return Opened(JsonLinesFile(descriptor, path, finished.size), True, finished.known, finished.failures)


def _standard_output() -> int:
    try:
        return sys.stdout.fileno()
    except (AttributeError, OSError, ValueError) as error:
        raise OutputError from error


def _is_stream(path: str) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _opened_stream(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise FileError(path, error) from error
