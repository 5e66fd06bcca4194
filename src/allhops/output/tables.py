"""Sheets as Arrow tables, from the columns of columns.py.

Arrays are made of buffers, and what numpy can do numpy does: `pyarrow.array` and `to_numpy` import pandas, where there
is one, 0.3 s and 60 MB; `take` and `dictionary_encode` import pyarrow.compute, 50 ms and 9 MB.
This file imports no pyarrow: it is handed the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.output.addresses import Texts, distinct_texts, texts_of
from allhops.output.columns import COLUMNS, UNKNOWN, Addresses, Column, Sheet, Words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Tables:
    """Makes tables with the package `arrow`."""

    def __init__(self, arrow: Any) -> None:
        self._arrow = arrow
        self.schema = arrow.schema([(column.name, self._type(column)) for column in COLUMNS])

    def table(self, sheet: Sheet) -> Any:
        """One row of the sheet a row."""
        return self._arrow.table([self._array(column, sheet) for column in COLUMNS], schema=self.schema)

    def _array(self, column: Column, sheet: Sheet) -> Any:
        values = column.read(sheet)
        if isinstance(values, Addresses):
            values = _words_of(values)
        numbers, known = values[0], values.known
        if column.is_of_trace:
            numbers = np.repeat(numbers, sheet.counts)
            known = None if known is None else np.repeat(known, sheet.counts)
        if isinstance(values, Words):
            return self._words(numbers, values.words, known)
        stored = np.int64 if column.type == "timestamp" else column.type
        return self._numbers(self._type(column), numbers.astype(stored, copy=False), known)

    def _numbers(self, kind: Any, values: NDArray[Any], known: NDArray[np.bool_] | None) -> Any:
        arrow = self._arrow
        is_valid = None if known is None else arrow.py_buffer(np.packbits(known, bitorder="little"))
        return arrow.Array.from_buffers(kind, len(values), [is_valid, arrow.py_buffer(np.ascontiguousarray(values))])

    def _words(self, codes: NDArray[Any], words: Sequence[str] | Texts, known: NDArray[np.bool_] | None) -> Any:
        arrow = self._arrow
        texts = words if isinstance(words, Texts) else texts_of(words)
        dictionary = arrow.Array.from_buffers(
            arrow.string(), len(texts.ends) - 1, [None, arrow.py_buffer(texts.ends), arrow.py_buffer(texts.letters)]
        )
        numbers = self._numbers(arrow.int32(), codes.astype(np.int32, copy=False), known)
        return arrow.DictionaryArray.from_arrays(numbers, dictionary)

    def _type(self, column: Column) -> Any:
        arrow = self._arrow
        if column.type == "text":
            return arrow.dictionary(arrow.int32(), arrow.string())
        return arrow.timestamp("ns", "UTC") if column.type == "timestamp" else getattr(arrow, column.type)()

    def merged(self, tables: list[Any]) -> Any:
        """One table with one dictionary a column: with several, a group of rows has none."""
        return self._arrow.concat_tables(tables).unify_dictionaries().combine_chunks()


def _words_of(addresses: Addresses) -> Words:
    known = addresses.sized[:, 0] > 0
    codes = np.zeros(len(known), np.int32)
    codes[known], texts = distinct_texts(addresses.sized[known])
    return Words(codes, texts, known)


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


class StoredWords:
    """One column of text: a code a row, and what the codes mean."""

    def __init__(self, column: Any) -> None:
        self.codes = integers(column.indices)
        self._texts: list[str] = column.dictionary.to_pylist()

    def at(self, row: int) -> str | None:
        """The text of a row; None for null."""
        code = self.codes[row]
        return None if code == UNKNOWN else self._texts[code]
