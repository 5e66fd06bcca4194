"""Footers are read and written to the byte, groups of rows moved as they are, and pyarrow reads what comes of it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from allhops.output.footer import MAGIC, Field, Items, pack, read_footer
from allhops.output.groups import GroupsFile, groups_of

KINDS: list[dict[str, Any]] = [
    {},
    {"compression": "zstd", "use_dictionary": ["word"], "write_statistics": ["number"]},
    {"write_page_index": True, "bloom_filter_options": None},
    {"data_page_version": "2.0", "compression": "none", "use_dictionary": False, "row_group_size": 7},
    {"row_group_size": 1},
]
LARGE = 2**62


def table(rows: int) -> Any:
    numbers = [at * LARGE // (rows + 1) - LARGE // 2 for at in range(rows)]
    words = [f"word {at % 3}" if at % 4 else None for at in range(rows)]
    columns = {
        "number": pyarrow.array(numbers, "int64"),
        "word": pyarrow.array(words, "string"),
        **{f"more{at}": pyarrow.array([at % 2 == 0] * rows, "bool") for at in range(20)},
    }
    return pyarrow.table(columns)


def parquet(rows: int, **options: Any) -> BytesIO:
    file = BytesIO()
    pyarrow.parquet.write_table(table(rows), file, **options)
    return file


@pytest.mark.parametrize("options", KINDS)
def test_a_footer_is_written_as_it_was_read(options: dict[str, Any]) -> None:
    file = parquet(30, **options)
    packed = pack(read_footer(file))
    assert file.getvalue().endswith(packed + len(packed).to_bytes(4, "little") + MAGIC)


@pytest.mark.parametrize("options", KINDS)
def test_groups_are_joined_as_they_are(options: dict[str, Any]) -> None:
    sizes = (30, 1, 17)
    joined = BytesIO()
    file = GroupsFile(joined, like=parquet(0))
    for size in sizes:
        for group in groups_of(parquet(size, **options)):
            assert file.takes(group)
            file.add(group)
    file.finish()
    with pyarrow.parquet.ParquetFile(joined) as read:
        assert read.read().equals(pyarrow.concat_tables([table(size) for size in sizes]))
        assert read.metadata.num_rows == sum(sizes)
        assert read.metadata.num_row_groups == len(
            [group for size in sizes for group in groups_of(parquet(size, **options))]
        )
    again = BytesIO()
    copied = GroupsFile(again, like=parquet(0))
    for group in groups_of(joined):
        copied.add(group)
    copied.finish()
    assert again.getvalue() == joined.getvalue()


def test_bounds_are_kept_and_indexes_are_not() -> None:
    joined = BytesIO()
    file = GroupsFile(joined, like=parquet(0))
    file.add(*groups_of(parquet(30, write_page_index=True)))
    file.finish()
    with pyarrow.parquet.ParquetFile(joined) as read:
        column = read.metadata.row_group(0).column(0)
        assert (column.statistics.min, column.statistics.null_count) == (-LARGE // 2, 0)
        assert not column.has_offset_index


def test_a_file_without_groups_has_no_rows() -> None:
    joined = BytesIO()
    GroupsFile(joined, like=parquet(0)).finish()
    assert pyarrow.parquet.read_table(joined).equals(table(0))


def test_another_schema_is_not_taken() -> None:
    other = BytesIO()
    pyarrow.parquet.write_table(table(3).drop_columns(["word"]), other)
    assert not GroupsFile(BytesIO(), like=parquet(0)).takes(*groups_of(other))


def test_what_no_footer_has_is_refused() -> None:
    file = BytesIO(b"\x1b\x00\x00" + (3).to_bytes(4, "little") + MAGIC)  # a map
    with pytest.raises(ValueError, match="kind 11"):
        read_footer(file)


@pytest.mark.parametrize("number", [0, 1, -1, 63, -64, 64, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)])
def test_numbers_and_long_steps(number: int) -> None:
    struct = {1: Field(6, number), 40: Field(5, number), 41: Field(1, None), 42: Field(9, Items(8, [b"a"] * 20))}
    packed = pack(struct)
    assert read_footer(BytesIO(packed + len(packed).to_bytes(4, "little") + MAGIC)) == struct
