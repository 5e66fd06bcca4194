"""What a run was asked for, beside its results: FILE.run says with which list and options FILE is written.

It is there, whole and on the disk, before the first byte of FILE is. This file knows no list and no network.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from allhops import __version__
from allhops.cli.arguments import option_of
from allhops.cli.batch.arguments import AUTO
from allhops.errors import UsageError

if TYPE_CHECKING:
    from allhops.cli.batch.arguments import BatchRequest

SCHEMA: Final = "allhops.run/1"
SUFFIX: Final = ".run"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """What must be the same for a run to be resumed, but for `version`."""

    list_sha256: str | None
    """None for a list that flowed by."""
    options: dict[str, Any]
    strategy: str
    exclude_sha256: str | None
    shard: str
    seed: int | None
    """None for a random one, which decides nothing but the order of the probes."""
    version: str = __version__

    def write(self, path: str) -> None:
        """Put it in its place in one step. Raises: OSError; then nothing is left of it."""
        draft = f"{path}.new"
        try:
            with open(draft, "w", encoding="utf-8") as file:
                json.dump({"schema": SCHEMA, **asdict(self)}, file, indent=1)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except OSError:
            with suppress(OSError):  # where it could not even be made
                os.unlink(draft)
            raise
        sync_directory(path)

    def fingerprint(self) -> dict[str, str]:
        """The same as words, for users and for a file of results that says it itself; without what was not given."""
        said = {
            "the list": self.list_sha256,
            "--exclude": self.exclude_sha256,
            "--strategy": self.strategy,
            "--shard": self.shard,
            "--seed": self.seed,
            **{option_of(name): value for name, value in self.options.items()},
        }
        return {name: str(value) for name, value in said.items() if value is not None}


def requested(request: BatchRequest, list_sha256: str | None, excluded: bytes | None) -> RunFile:
    """What is asked for now."""
    return RunFile(
        list_sha256=list_sha256,
        options={**asdict(request.options), "simulate": request.simulate},
        strategy=request.strategy or AUTO,
        exclude_sha256=None if excluded is None else hashlib.sha256(excluded).hexdigest(),
        shard=str(request.shard),
        seed=request.seed,
    )


def read_run_file(path: str) -> RunFile:
    """What was asked for then. Raises: UsageError."""
    try:
        with open(path, encoding="utf-8") as file:
            said = json.load(file)
        if said.pop("schema") != SCHEMA:
            raise UsageError(f"{path} is of another version of allhops: finish the run with that, or use --force")
        return RunFile(**said)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}), so nothing says what was asked for: use --force to begin anew"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path} is damaged: use --force to begin anew") from None


def sync_directory(path: str) -> None:
    """Make the names in the directory of a file durable, where the file system knows how to."""
    with suppress(OSError):
        descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
