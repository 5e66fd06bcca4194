"""Tables of probes in files: parts, as Arrow keeps them in memory, and the Parquet that they become.

A part is written and read once more. As an Arrow file with LZ4 (also known as Feather) both take 0.12 us a row, where
Parquet takes 0.43, so what is for good is the only thing that is encoded. This file knows no directory.
"""

from __future__ import annotations

import errno
import json
import os
from typing import IO, TYPE_CHECKING, Any

from allhops.errors import UsageError
from allhops.output.columns import COLUMNS
from allhops.output.parts import PART_SUFFIX
from allhops.output.tables import Tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from allhops.output.columns import Sheet

ROWS_PER_GROUP = 1 << 16
"""To which small parts are joined: what a reader takes at once."""
_METADATA = b"allhops"
_TEXTS = [column.name for column in COLUMNS if column.type == "text"]
_NUMBERS = [column.name for column in COLUMNS if column.type != "text"]
"""The bounds of texts help nobody to find one, and are as dear as all the others."""


class TableFiles:
    """Writes files that all have the same `fingerprint`, and reads them."""

    def __init__(self, fingerprint: Mapping[str, str]) -> None:
        """Raises: UsageError without pyarrow."""
        self._arrow, self._parquet = import_pyarrow()
        self._tables = Tables(self._arrow)
        self._schema = self._tables.schema.with_metadata({_METADATA: json.dumps(dict(fingerprint))})

    def write_part(self, file: IO[bytes], sheet: Sheet) -> None:
        """An Arrow file, of one batch: several would each have the words of all."""
        options = self._arrow.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        table = self._tables.table(sheet)
        with self._arrow.ipc.new_file(file, self._schema, options=options) as part:
            part.write_table(table)

    def join(self, paths: Sequence[Path], file: IO[bytes]) -> None:
        """All rows of these files in their order, as Parquet. Raises: OSError."""
        with self._parquet.ParquetWriter(
            file,
            self._schema,
            compression="zstd",
            use_dictionary=_TEXTS,
            write_statistics=_NUMBERS,
            write_batch_size=ROWS_PER_GROUP,
        ) as whole:
            waiting: list[Any] = []
            for table in self.read(paths):
                waiting.append(table)
                if sum(map(len, waiting)) >= ROWS_PER_GROUP:
                    whole.write_table(self._tables.merged(waiting))
                    waiting.clear()
            if waiting:
                whole.write_table(self._tables.merged(waiting))

    def read(self, paths: Sequence[Path], columns: Sequence[str] | None = None) -> Iterator[Any]:
        """What files hold, a table for each part or group of rows. Raises: OSError."""
        for path in paths:
            try:
                yield from (self._read_part if path.suffix == PART_SUFFIX else self._read_parquet)(path, columns)
            except (self._arrow.ArrowException, OSError) as error:
                raise OSError(errno.EIO, f"{path} cannot be read: {error}") from error

    def fingerprint(self, path: Path) -> dict[str, str]:
        """What a file was begun with. Raises: UsageError if it is none of ours, OSError."""
        with path.open("rb") as file:
            try:
                is_part = path.suffix == PART_SUFFIX
                schema = self._arrow.ipc.open_file(file).schema if is_part else self._parquet.read_schema(file)
                begun: dict[str, str] = json.loads((schema.metadata or {})[_METADATA])
            except (self._arrow.ArrowException, OSError, ValueError, KeyError) as error:
                raise UsageError(
                    f"{path} is damaged or no file of allhops: take it away, or choose another one"
                ) from error
        return begun

    def _read_part(self, path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
        ipc = self._arrow.ipc
        wanted = None if columns is None else [self._schema.get_field_index(name) for name in columns]
        options = ipc.IpcReadOptions(use_threads=False, included_fields=wanted)
        with path.open("rb") as opened, ipc.open_file(opened, options=options) as part:
            for number in range(part.num_record_batches):
                batch = part.get_batch(number)
                batch.validate(full=True)  # 0.016 us a row: a number that a bad disk changed may point anywhere
                yield self._arrow.Table.from_batches([batch])

    def _read_parquet(self, path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
        with path.open("rb") as opened, self._parquet.ParquetFile(opened) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=columns, use_threads=False)


def import_pyarrow() -> tuple[Any, Any]:
    """The package and its parquet module, 30 ms. Raises: UsageError."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # the other keeps 30 MB for the next part
    try:
        import pyarrow  # an optional dependency
        import pyarrow.parquet
    except ImportError:
        raise UsageError("Parquet needs pyarrow, which is not installed: pip install 'allhops[parquet]'") from None
    return pyarrow, pyarrow.parquet
