"""docs/faults.md: each fault that concerns a trace or a batch has its row, and each row a test that is there."""

from __future__ import annotations

import ast
import pathlib
import re
from functools import cache

import pytest

ROOT = pathlib.Path(__file__).parents[2]
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
ROWS = {int(number): (what, proof) for number, _, what, proof in ROW.findall((ROOT / "docs/faults.md").read_text())}
FAULTS = set(range(1, 59))
NOT_HERE = {51, 57}
"""A soak of hours; databases of places and networks."""


@cache
def collected_from(path: str) -> frozenset[str]:
    """Names of the tests that pytest collects from a file of this repository."""
    tree = ast.parse((ROOT / path).read_text())
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(function.name for function in functions if function.name.startswith("test_"))


def test_every_fault_has_its_row() -> None:
    assert set(ROWS) == FAULTS - NOT_HERE


@pytest.mark.parametrize("number", sorted(ROWS))
def test_every_row_has_its_tests(number: int) -> None:
    what, proof = ROWS[number]
    assert what.endswith(".")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", proof)
    assert named
    assert proof.count("`") == 2 * len(named)
    for path, name in named:
        assert name in collected_from(path), f"{path}::{name}"
