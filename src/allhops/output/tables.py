"""Sheets as Arrow tables, from the columns of columns.py.

Arrays are made of buffers: `pyarrow.array` and `to_numpy` import pandas, where there is one, 0.3 s and 60 MB.
This file imports no pyarrow: it is handed the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.paths import address_text
from allhops.output.columns import COLUMNS, UNKNOWN, Addresses, Column, Sheet, Words

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Tables:
    """Makes tables with the package `arrow`."""

    def __init__(self, arrow: Any) -> None:
        self._arrow = arrow
        self.schema = arrow.schema([(column.name, self._type(column)) for column in COLUMNS])

    def table(self, sheet: Sheet) -> Any:
        """One row of the sheet a row."""
        traces = np.repeat(np.arange(len(sheet.counts)), sheet.counts)
        trace_of_row = self._numbers(self._arrow.int64(), traces, None)
        arrays = []
        for column in COLUMNS:
            array = self._array(column, sheet)
            arrays.append(array.take(trace_of_row) if column.is_of_trace else array)
        return self._arrow.table(arrays, schema=self.schema)

    def _array(self, column: Column, sheet: Sheet) -> Any:
        values = column.read(sheet)
        if isinstance(values, Addresses):
            return self._addresses(values)
        if isinstance(values, Words):
            return self._words(values)
        stored = np.int64 if column.type == "timestamp" else column.type
        return self._numbers(self._type(column), values.values.astype(stored), values.known)

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
        return self._words(Words(integers(packed.indices), texts, values.sized[:, 0] > 0))

    def _type(self, column: Column) -> Any:
        arrow = self._arrow
        if column.type == "text":
            return arrow.dictionary(arrow.int32(), arrow.string())
        return arrow.timestamp("ns", "UTC") if column.type == "timestamp" else getattr(arrow, column.type)()

    def merged(self, tables: list[Any]) -> Any:
        """One table with one dictionary a column: with several, a group of rows has none."""
        return self._arrow.concat_tables(tables).unify_dictionaries().combine_chunks()


def integers(array: Any) -> NDArray[Any]:
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
