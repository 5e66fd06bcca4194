"""Groups of rows of Parquet files, copied into another file as they are: nothing is decoded, nothing compressed again.

This file knows no column.
"""

from __future__ import annotations

from typing import IO, Final, NamedTuple

from allhops.output.footer import MAGIC, STRUCT, Field, Items, Struct, pack, read_footer, write_footer

# Numbers of fields, as in parquet.thrift: of the footer, a group, a chunk (one column of a group) and its description.
_SCHEMA, _ROWS, _GROUPS = 2, 3, 4
_CHUNKS, _ROWS_OF_GROUP, _GROUP_OFFSET, _ORDINAL = 1, 3, 5, 7
_CHUNK_OFFSET, _CHUNK = 2, 3
_BYTES, _DATA_OFFSET, _INDEX_OFFSET, _DICTIONARY_OFFSET = 7, 9, 10, 11
_ELSEWHERE: Final = {4, 5, 6, 7}, {14, 15}
"""Of a chunk and its description: indexes and filters, which stand outside the group and are not copied."""


class Group(NamedTuple):
    """A group of rows in a file."""

    file: IO[bytes]
    entry: Struct
    """What the footer says of it."""
    schema: Items

    @property
    def rows(self) -> int:
        """How many it has."""
        return int(self.entry[_ROWS_OF_GROUP].value)

    @property
    def place(self) -> tuple[int, int]:
        """Offset in the file, and bytes."""
        chunks = [chunk[_CHUNK].value for chunk in self.entry[_CHUNKS].value.values]
        starts = [(chunk.get(_DICTIONARY_OFFSET) or chunk[_DATA_OFFSET]).value for chunk in chunks]
        ends = [start + chunk[_BYTES].value for start, chunk in zip(starts, chunks, strict=True)]
        return min(starts), max(ends) - min(starts)


def groups_of(file: IO[bytes]) -> list[Group]:
    """The groups of a Parquet file."""
    footer = read_footer(file)
    return [Group(file, entry, footer[_SCHEMA].value) for entry in footer[_GROUPS].value.values]


class GroupsFile:
    """A Parquet file that groups are copied to; its schema and metadata are those of `like`, a file without rows."""

    def __init__(self, file: IO[bytes], like: IO[bytes]) -> None:
        self._file = file
        self._footer = read_footer(like)
        self._groups: list[bytes] = []
        self._rows = 0
        self._size = file.write(MAGIC)

    def takes(self, group: Group) -> bool:
        """Whether a group has the schema of this file, to the letter."""
        return bool(group.schema == self._footer[_SCHEMA].value)

    def add(self, group: Group) -> None:
        """Copy a group. Raises: OSError."""
        start, size = group.place
        group.file.seek(start)
        self._file.write(group.file.read(size))
        self._groups.append(pack(_moved(group.entry, self._size - start, len(self._groups))))
        self._rows += group.rows
        self._size += size

    def finish(self) -> None:
        """Write the end. Raises: OSError."""
        footer = self._footer
        footer[_ROWS] = footer[_ROWS]._replace(value=self._rows)
        footer[_GROUPS] = Field(footer[_GROUPS].kind, Items(STRUCT, [*self._groups]))
        write_footer(self._file, footer)


def _moved(group: Struct, by: int, ordinal: int) -> Struct:
    """What the footer says of a group that has moved by so many bytes."""
    group = _shifted(group, by, _GROUP_OFFSET)
    chunks = [_moved_chunk(chunk, by) for chunk in group[_CHUNKS].value.values]
    group[_CHUNKS] = group[_CHUNKS]._replace(value=Items(STRUCT, chunks))
    if _ORDINAL in group:
        group[_ORDINAL] = group[_ORDINAL]._replace(value=ordinal)
    return group


def _moved_chunk(chunk: Struct, by: int) -> Struct:
    of_chunk, of_description = _ELSEWHERE
    chunk = _shifted({number: field for number, field in chunk.items() if number not in of_chunk}, by, _CHUNK_OFFSET)
    told = {number: field for number, field in chunk[_CHUNK].value.items() if number not in of_description}
    told = _shifted(told, by, _DATA_OFFSET, _INDEX_OFFSET, _DICTIONARY_OFFSET)
    chunk[_CHUNK] = chunk[_CHUNK]._replace(value=told)
    return chunk


def _shifted(struct: Struct, by: int, *numbers: int) -> Struct:
    """A struct with some offsets moved; 0 is none."""
    return {
        number: field._replace(value=field.value + by) if number in numbers and field.value else field
        for number, field in struct.items()
    }
