"""Parquet of a batch: one row for each probe, in parts that survive whatever ends the process.

Rows are gathered, and become a part when there are enough of them or some seconds have gone by; `close` joins the
parts (parts.py). All rows of a destination are in one part, so what is there is finished. What the columns hold:
columns.py, docs/formats.md.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from time import monotonic
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from allhops.core.paths import address_text
from allhops.errors import UsageError
from allhops.output.columns import COLUMNS, SCHEMA, UNKNOWN, Addresses, Column, Sheet, Words, stack
from allhops.output.parts import Parts
from allhops.output.sheets import sheet_of_harvest, sheet_of_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future
    from os import PathLike

    from numpy.typing import NDArray

    from allhops.core.harvest import Harvest
    from allhops.model import Trace

ROWS_PER_PART = 1 << 15
"""Written in 50 ms; what this takes of memory, 50 MB all in all, grows with it."""
ROWS_PER_GROUP = 1 << 17
"""Of the joined file: what a reader takes at once."""
SECONDS_PER_PART = 5.0
"""What a process that is killed may lose, as long as something comes."""
_METADATA = b"allhops"
_COMPRESSION = "zstd"


class ParquetWriter:
    """Rows to a file at `path`; nothing of it is there before the first part is.

    `resume` goes on with what an earlier process wrote, joined or not; `force` writes over it; with neither it is
    refused. `fingerprint` says what the batch is (options, list): what is not the same cannot be gone on with. `clock`
    is monotonic, seconds.

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
        self._gathered_since = clock()
        self._writing: Future[None] | None = None
        self._being_written: list[Sheet] = []
        self._thread = ThreadPoolExecutor(1, "allhops-parquet")
        if not force:
            self._check(resume)
        self._parts.begin(anew=force)

    def harvest(self, harvest: Harvest) -> None:
        """The rows of each course. Raises: OSError."""
        if len(harvest):
            self._gather(sheet_of_harvest(harvest))

    def trace(self, trace: Trace, *, position: int | None = None) -> None:
        """The rows of one trace; `position` is that of its destination in the caller's list. Raises: OSError."""
        self._gather(sheet_of_trace(trace, position))

    def flush(self) -> None:
        """Make a part of what has been gathered, and wait until it is durable. Raises: OSError; it stays gathered."""
        self._settle()
        if self._sheets:
            self._start_part()
            self._settle()

    def close(self) -> None:
        """Join all parts to the file: a second or two for a million rows.

        Raises: OSError; then what was written is in the parts. It may be tried again.
        """
        self.flush()
        self._parts.join(lambda file: self._write(self._stored(), file))
        self._thread.shutdown()

    def abandon(self) -> None:
        """Stop, and leave the parts as they are, for `resume`: when `close` cannot do its work."""
        self._thread.shutdown()
        self._parts.release()

    def finished(self) -> Iterator[str]:
        """The destination of each trace that is on the disk, as asked for. To be read before anything is written."""
        last: tuple[Any, Any] | None = None
        for table in self._stored(["destination", "position"]):
            names, positions = table["destination"].combine_chunks(), table["position"].combine_chunks()
            codes = _integers(names.indices)
            numbers = _integers(positions)
            changes = np.flatnonzero((np.diff(codes) != 0) | (np.diff(numbers) != 0)) + 1
            texts = names.dictionary.to_pylist()
            for at in (0, *changes.tolist()):
                trace = texts[codes[at]], numbers[at]
                if trace != last:  # the rows of one trace may go on in the next group
                    last = trace
                    yield trace[0]

    def _check(self, resume: bool) -> None:
        """Whether this file may be written. Raises: UsageError."""
        files = self._parts.files()
        if not files:
            return
        if not resume:
            raise UsageError(
                f"{self._path} is there already, or parts of it: resume goes on with it, force writes over it"
            )
        differences = _differences(self._begun(files[0]), self._fingerprint)
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
        if self._writing is not None and self._writing.done():
            self._settle()
        if not self._sheets:
            self._gathered_since = self._clock()
        self._sheets.append(sheet)
        self._rows += len(sheet)
        if self._rows >= ROWS_PER_PART or self._clock() - self._gathered_since >= SECONDS_PER_PART:
            self._settle()
            self._start_part()

    def _start_part(self) -> None:
        """Let the thread make a part of what has been gathered; nothing is under way there."""
        self._being_written, self._sheets, self._rows = self._sheets, [], 0
        self._writing = self._thread.submit(self._add_part, self._being_written)

    def _settle(self) -> None:
        """Wait for the part that is being written. Raises: OSError; then its rows are gathered again."""
        if self._writing is None:
            return
        wait([self._writing])  # an interrupt here changes nothing: the part is still being written
        error = self._writing.exception()
        self._writing = None
        if error is not None:
            self._sheets = self._being_written + self._sheets
            self._rows = sum(map(len, self._sheets))
            raise error

    def _add_part(self, sheets: list[Sheet]) -> None:
        """In the thread: most of it is pyarrow's, which lets the event loop run meanwhile."""
        table = self._table(stack(sheets))
        self._parts.add(lambda file: self._write([table], file))

    def _stored(self, columns: list[str] | None = None) -> Iterator[Any]:
        """What is on the disk, one table for each group of rows."""
        for path in self._parts.files():
            with path.open("rb") as opened, self._parquet.ParquetFile(opened) as file:
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group, columns=columns, use_threads=False)

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
                if sum(map(len, waiting)) >= ROWS_PER_GROUP:
                    writer.write_table(self._merged(waiting))
                    waiting = []
            if waiting:
                writer.write_table(self._merged(waiting))

    def _merged(self, tables: list[Any]) -> Any:
        """One table with one dictionary a column: with several, a group of rows has none."""
        return self._arrow.concat_tables(tables).unify_dictionaries().combine_chunks()

    def _table(self, sheet: Sheet) -> Any:
        traces = np.repeat(np.arange(len(sheet.counts)), sheet.counts)
        trace_of_row = self._numbers(self._arrow.int64(), traces, None)
        arrays = []
        for column in COLUMNS:
            array = self._array(column, sheet)
            arrays.append(array.take(trace_of_row) if column.is_of_trace else array)
        return self._arrow.table(arrays, schema=self._schema)

    def _array(self, column: Column, sheet: Sheet) -> Any:
        values = column.read(sheet)
        if isinstance(values, Addresses):
            return self._addresses(values)
        if isinstance(values, Words):
            return self._words(values)
        stored = np.int64 if column.type == "timestamp" else column.type
        return self._numbers(self._type(column), values.values.astype(stored), values.known)

    # From buffers throughout: `pyarrow.array` imports pandas, where there is one: 0.3 s and 60 MB.

    def _numbers(self, kind: Any, values: NDArray[Any], known: NDArray[np.bool_] | None) -> Any:
        arrow = self._arrow
        is_valid = None if known is None else arrow.py_buffer(np.packbits(known, bitorder="little"))
        return arrow.Array.from_buffers(kind, len(values), [is_valid, arrow.py_buffer(np.ascontiguousarray(values))])

    def _words(self, values: Words) -> Any:
        arrow = self._arrow
        encoded = [word.encode() for word in values.words]
        ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
        words = arrow.Array.from_buffers(
            arrow.string(), len(encoded), [None, arrow.py_buffer(ends), arrow.py_buffer(b"".join(encoded))]
        )
        codes = values.codes if values.known is None else np.where(values.known, values.codes, 0)
        numbers = self._numbers(arrow.int32(), codes.astype(np.int32), values.known)
        return arrow.DictionaryArray.from_arrays(numbers, words)

    def _addresses(self, values: Addresses) -> Any:
        arrow, width = self._arrow, values.sized.shape[1]
        packed = arrow.FixedSizeBinaryArray.from_buffers(
            arrow.binary(width), len(values.sized), [None, arrow.py_buffer(np.ascontiguousarray(values.sized))]
        ).dictionary_encode()
        sized: list[bytes] = packed.dictionary.to_pylist()
        texts = [address_text(one[1 : 1 + one[0]]) if one[0] else "" for one in sized]
        return self._words(Words(_integers(packed.indices), texts, values.sized[:, 0] > 0))

    def _type(self, column: Column) -> Any:
        arrow = self._arrow
        if column.type == "text":
            return arrow.dictionary(arrow.int32(), arrow.string())
        return arrow.timestamp("ns", "UTC") if column.type == "timestamp" else getattr(arrow, column.type)()


def _integers(array: Any) -> NDArray[Any]:
    """What an array of integers holds, `UNKNOWN` for null; its own `to_numpy` imports pandas."""
    kind = np.dtype(str(array.type))
    if not len(array):
        return np.zeros(0, kind)
    is_valid, data = array.buffers()
    values = np.frombuffer(data, kind, len(array), array.offset * kind.itemsize)
    if is_valid is None:
        return values
    known = np.unpackbits(np.frombuffer(is_valid, np.uint8), bitorder="little")[array.offset :][: len(array)]
    return np.where(known, values, UNKNOWN)


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
