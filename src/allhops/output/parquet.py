"""Parquet of a batch: one row for each probe, in parts that survive whatever ends the process.

Rows are gathered, and become a part when there are enough of them or some seconds have gone by; `close` joins the
parts (parts.py). All rows of a destination are in one part, so what is there is finished. What the columns hold:
columns.py, docs/formats.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from time import monotonic
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from allhops.core.paths import address_from
from allhops.errors import UsageError
from allhops.output.columns import COLUMNS, SCHEMA, Addresses, Column, Numbers, Sheet, stack
from allhops.output.parts import Parts
from allhops.output.sheets import sheet_of_harvest, sheet_of_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from os import PathLike

    from allhops.core.harvest import Harvest
    from allhops.model import Trace

ROWS_PER_PART = 1 << 17
"""100 bytes each until they are written: 13 MB."""
SECONDS_PER_PART = 5.0
"""What a process that is killed may lose, as long as something comes."""
_METADATA = b"allhops"
_COMPRESSION = "zstd"


class ParquetWriter:
    """Rows to a file at `path`; nothing of it is there before the first part is.

    `resume` goes on with what an earlier process wrote, joined or not; `force` writes over it; with neither it is
    refused. `fingerprint` says what the batch is (options, list): what is not the same cannot be gone on with. `clock` is
    monotonic, seconds.

    Raises: UsageError, OSError.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        resume: bool = False,
        force: bool = False,
        fingerprint: Mapping[str, str],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._arrow, self._parquet = _import_pyarrow()
        self._path = Path(path)
        self._parts = Parts(self._path)
        self._fingerprint = {"schema": SCHEMA, **fingerprint}
        self._schema = self._arrow.schema(
            [(column.name, self._type(column)) for column in COLUMNS],
            metadata={_METADATA: json.dumps(self._fingerprint)},
        )
        self._sheets: list[Sheet] = []
        self._rows = 0
        self._clock = clock
        self._begun_at = clock()
        if force:
            self._parts.reset()
        else:
            self._check(resume)
            self._parts.begin()

    def harvest(self, harvest: Harvest) -> None:
        """The rows of each course. Raises: OSError."""
        if len(harvest):
            self._gather(sheet_of_harvest(harvest))

    def trace(self, trace: Trace, *, position: int | None = None) -> None:
        """The rows of one trace; `position` is that of its destination in the caller's list. Raises: OSError."""
        self._gather(sheet_of_trace(trace, position))

    def flush(self) -> None:
        """Make a part of what has been gathered. Raises: OSError; then it is still gathered."""
        if self._sheets:
            table = self._table(stack(self._sheets))
            self._parts.add(lambda file: self._write([table], file))
            self._sheets.clear()
            self._rows = 0
        self._begun_at = self._clock()

    def close(self) -> None:
        """Join all parts to the file. Raises: OSError; then all that was written is in the parts."""
        self.flush()
        self._parts.join(lambda file: self._write(self._stored(), file))

    def finished(self) -> Iterator[str]:
        """The destination of each trace that is on the disk, as it was asked for: to be read before anything is written."""
        last: tuple[Any, Any] | None = None
        for table in self._stored(["destination", "position"]):
            names, positions = table["destination"].combine_chunks(), table["position"].combine_chunks()
            codes = names.indices.to_numpy()
            numbers = positions.fill_null(-1).to_numpy()
            changes = np.flatnonzero((np.diff(codes) != 0) | (np.diff(numbers) != 0)) + 1
            texts = names.dictionary.to_pylist()
            for at in (0, *changes.tolist()):
                trace = texts[codes[at]], numbers[at]
                if trace != last:  # the rows of one trace may go on in the next group
                    last = trace
                    yield trace[0]

    def _check(self, resume: bool) -> None:
        """Whether this file may be written. Raises: UsageError."""
        if not self._parts.exists:
            return
        if not resume:
            raise UsageError(
                f"{self._path} is there already, or parts of it: resume goes on with it, force writes over it"
            )
        for file in self._parts.files()[:1]:
            differences = _differences(self._begun(file), self._fingerprint)
            if differences:
                raise UsageError(
                    f"{self._path} cannot be resumed, it was begun otherwise: {'; '.join(differences)}: "
                    "ask for the same, or choose another file"
                )

    def _begun(self, file: Path) -> dict[str, str]:
        """The fingerprint in a file."""
        try:
            with file.open("rb") as opened:
                metadata = self._parquet.read_schema(opened).metadata or {}
        except self._arrow.ArrowInvalid:
            metadata = {}
        if _METADATA not in metadata:
            raise UsageError(f"{file} is no file of allhops: choose another one")
        begun: dict[str, str] = json.loads(metadata[_METADATA])
        return begun

    def _gather(self, sheet: Sheet) -> None:
        self._sheets.append(sheet)
        self._rows += len(sheet)
        if self._rows >= ROWS_PER_PART or self._clock() - self._begun_at >= SECONDS_PER_PART:
            self.flush()

    def _stored(self, columns: list[str] | None = None) -> Iterator[Any]:
        """What is on the disk, one table for each group of rows."""
        for path in self._parts.files():
            with path.open("rb") as opened, self._parquet.ParquetFile(opened) as file:
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group, columns=columns)

    def _write(self, tables: Iterable[Any], file: IO[bytes]) -> None:
        """Tables as groups of rows; small ones together in one group."""
        with self._parquet.ParquetWriter(
            file,
            self._schema,
            compression=_COMPRESSION,
            use_dictionary=[column.name for column in COLUMNS if column.type == "text"],
        ) as writer:
            waiting: list[Any] = []
            for table in tables:
                waiting.append(table)
                if sum(map(len, waiting)) >= ROWS_PER_PART:
                    writer.write_table(self._merged(waiting))
                    waiting = []
            if waiting:
                writer.write_table(self._merged(waiting))

    def _merged(self, tables: list[Any]) -> Any:
        """One table with one dictionary a column: with several, a group of rows has none."""
        return self._arrow.concat_tables(tables).unify_dictionaries().combine_chunks()

    def _table(self, sheet: Sheet) -> Any:
        trace_of_row = self._arrow.array(np.repeat(np.arange(len(sheet.counts)), sheet.counts))
        arrays = []
        for column in COLUMNS:
            array = self._array(column, sheet)
            arrays.append(array.take(trace_of_row) if column.is_of_trace else array)
        return self._arrow.table(arrays, schema=self._schema)

    def _array(self, column: Column, sheet: Sheet) -> Any:
        arrow, values = self._arrow, column.read(sheet)
        if isinstance(values, Addresses):
            return self._addresses(values)
        missing = None if values.known is None else ~values.known
        if isinstance(values, Numbers):
            return arrow.array(values.values, mask=missing).cast(self._type(column), safe=False)
        codes = arrow.array(values.codes.astype(np.int32), mask=missing)
        return arrow.DictionaryArray.from_arrays(codes, arrow.array(values.words, arrow.string()))

    def _addresses(self, values: Addresses) -> Any:
        arrow, width = self._arrow, values.sized.shape[1]
        packed = arrow.FixedSizeBinaryArray.from_buffers(
            arrow.binary(width), len(values.sized), [None, arrow.py_buffer(np.ascontiguousarray(values.sized))]
        ).dictionary_encode()
        texts = [str(address_from(one[1 : 1 + one[0]])) if one[0] else None for one in packed.dictionary.to_pylist()]
        known = np.array([text is not None for text in texts], np.bool_)
        codes = packed.indices.to_numpy()
        missing = ~known[codes] if len(texts) else None
        return arrow.DictionaryArray.from_arrays(
            arrow.array(codes, mask=missing), arrow.array([text or "" for text in texts], arrow.string())
        )

    def _type(self, column: Column) -> Any:
        arrow = self._arrow
        if column.type == "text":
            return arrow.dictionary(arrow.int32(), arrow.string())
        return arrow.timestamp("ns", "UTC") if column.type == "timestamp" else getattr(arrow, column.type)()


def _differences(begun: Mapping[str, str], asked: Mapping[str, str]) -> list[str]:
    """What is not the same, each as a few words."""
    return [
        f"{key} was {begun.get(key, 'not given')} and is now {asked.get(key, 'not given')}"
        for key in (*begun, *(key for key in asked if key not in begun))
        if begun.get(key) != asked.get(key)
    ]


def _import_pyarrow() -> tuple[Any, Any]:
    """The package and its parquet module, 45 ms. Raises: UsageError."""
    try:
        import pyarrow  # an optional dependency
        import pyarrow.parquet  # the same
    except ImportError:
        raise UsageError("Parquet needs pyarrow, which is not installed: pip install 'allhops[parquet]'") from None
    return pyarrow, pyarrow.parquet
