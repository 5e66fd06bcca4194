"""Which output a request means, and what of it there is already.

    no FILE          NAME.jsonl.run is written, then NAME.jsonl; NAME.parquet.parts, in the end NAME.parquet
    FILE             refused, unless --resume goes on with it or --force begins anew
    no regular file  a stream: nothing to resume

This file knows no destination.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from allhops.cli.batch.arguments import PARQUET
from allhops.cli.batch.finished import Finished, read_json_lines
from allhops.cli.batch.outputs import FileError, JsonLinesFile, JsonLinesStream, ParquetFile, open_alone
from allhops.cli.batch.run_file import SUFFIX, read_run_file, requested, sync_directory
from allhops.cli.batch.sieve import Known
from allhops.cli.streams import OutputError, descriptor_of
from allhops.errors import UsageError
from allhops.output.begun import check_same

if TYPE_CHECKING:
    from allhops.cli.batch.arguments import BatchRequest
    from allhops.cli.batch.outputs import Output
    from allhops.cli.batch.run_file import RunFile


_PARTS = ".parts"
"""Behind the name of a Parquet file: the directory of what is not joined yet."""


class Opened(NamedTuple):
    """An output, and the run that it belongs to."""

    output: Output
    is_resumable: bool
    """Whether --resume can go on with it."""
    finished: Known
    """By the run that is resumed."""
    failures: int = 0
    """Of those, how many could not be traced."""
    made: tuple[str, ...] = ()
    """Files and directories of this run alone, which may go as long as they hold no result."""

    def take_back(self) -> None:
        """Leave no trace of a run without results, whose output is closed."""
        for path in self.made:
            with suppress(OSError):  # such as a directory that is not empty
                (os.rmdir if os.path.isdir(path) else os.unlink)(path)


def open_output(request: BatchRequest, list_sha256: str | None, excluded: bytes | None) -> Opened:
    """The output; `list_sha256` is None for a list that flows by.

    Raises: UsageError, FileError, OutputError.
    """
    path = request.output
    if path is None:
        return Opened(JsonLinesStream(_standard_output()), False, Known())
    if _is_stream(path):
        return Opened(JsonLinesStream(_opened_stream(path)), False, Known())
    asked = requested(request, list_sha256, excluded)
    for there in filter(os.path.exists, (path, path + _PARTS)):
        if not request.resume and not request.force:
            raise UsageError(f"{there} exists: --resume goes on with it, --force begins anew")
        if request.resume and list_sha256 is None:
            raise UsageError("--resume reads the list once more, to be sure that it is the same: give it as a file")
    if path.endswith(PARQUET):
        return _parquet(request, asked, path)
    if request.resume and os.path.exists(path):
        return _resumed(asked, path)
    return _begun(request, asked, path)


def _begun(request: BatchRequest, asked: RunFile, path: str) -> Opened:
    """A new file, or an old one made new."""
    if os.path.exists(path):  # whatever happens next, old results must not stand beside the new FILE.run
        os.close(open_alone(path, anew=True))
        os.unlink(path)
        sync_directory(path)
    try:
        asked.write(path + SUFFIX)
    except OSError as error:
        raise FileError(path + SUFFIX, error) from error
    output = JsonLinesFile(open_alone(path, anew=True), path, 0)
    sync_directory(path)
    made = () if request.resume else (path, path + SUFFIX)
    return Opened(output, asked.list_sha256 is not None, Known(), made=made)


def _resumed(asked: RunFile, path: str) -> Opened:
    """The file of a run that was cut short."""
    check_same(path, read_run_file(path + SUFFIX).fingerprint(), asked.fingerprint())
    descriptor = open_alone(path, anew=False)
    finished, size = read_json_lines(descriptor, path)
    return Opened(JsonLinesFile(descriptor, path, size), True, finished.known, finished.failures)


def _parquet(request: BatchRequest, asked: RunFile, path: str) -> Opened:
    """A file that knows itself what was asked for."""
    from allhops.output.parquet import ParquetWriter  # an optional dependency

    try:
        writer = ParquetWriter(path, resume=request.resume, force=request.force, fingerprint=asked.fingerprint())
        finished = Finished()
        for trace in writer.finished():
            finished.take(*trace)
        finished.settle()
    except OSError as error:
        raise FileError(path, error) from error
    output, made = ParquetFile(writer, path), () if request.resume else (path + _PARTS,)
    return Opened(output, asked.list_sha256 is not None, finished.known, finished.failures, made)


def _standard_output() -> int:
    try:
        return descriptor_of(sys.stdout)
    except (OSError, ValueError) as error:
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
