"""The examples in docs/formats.md, run on a real file."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest

from allhops.output.parquet import ParquetWriter
from tests.harvests import EXTENSIONS, likely_harvest

FORMATS = Path(__file__).parents[2] / "docs" / "formats.md"
BLOCKS = re.findall(r"^```(sql|python)\n(.*?)^```", FORMATS.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a joined file and, beside it, its parts."""
    directory = tmp_path_factory.mktemp("batch")
    harvest = likely_harvest(1, 200)
    harvest.ledger.extensions[0] = EXTENSIONS[0]
    harvest.ledger.state[0], harvest.ledger.kind[0] = 2, 1
    writer = ParquetWriter(directory / "run.parquet", fingerprint={})
    writer.harvest(harvest)
    writer.flush()
    shutil.copytree(directory / "run.parquet.parts", directory / "copy")
    writer.close()
    (directory / "copy").rename(directory / "run.parquet.parts")
    return directory


@pytest.fixture
def here(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)


SQL = [text for language, text in BLOCKS if language == "sql"]
PYTHON = [text for language, text in BLOCKS if language == "python"]


def answer(query: str) -> list[Any]:
    relation = duckdb.sql(query)
    assert relation is not None
    return relation.fetchall()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("query", SQL, ids=[text.split()[1] for text in SQL])
def test_a_query_finds_something(query: str) -> None:
    assert answer(query)


@pytest.mark.usefixtures("here")
def test_loss_and_routers_are_right() -> None:
    loss = answer(SQL[0])
    assert [(ttl, probes) for ttl, probes, _, _ in loss] == [(ttl, 200) for ttl in range(1, 11)]
    assert loss[-1][2] == 0
    assert all(0 < lost < 30 for _, _, lost, _ in loss[:-1])
    routers = [responder for responder, *_ in answer(SQL[2])]
    assert len(routers) == len(set(routers))


@pytest.mark.usefixtures("here")
def test_parts_are_read_as_they_are() -> None:
    names: dict[str, Any] = {}
    exec(PYTHON[0], names)
    assert names["so_far"] == [("reached", 200)]


@pytest.mark.usefixtures("here")
def test_paths_become_a_table() -> None:
    names: dict[str, Any] = {}
    exec(PYTHON[1], names)
    assert names["paths"].shape == (200, 10)
