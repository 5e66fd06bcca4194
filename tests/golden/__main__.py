"""Write the snapshots anew, to be read as a diff before they are committed: `python -m tests.golden`."""

from __future__ import annotations

from tests.unit.test_json import golden_json
from tests.unit.test_text import GOLDEN, golden_text

if __name__ == "__main__":
    (GOLDEN / "traces.jsonl").write_text(golden_json())
    (GOLDEN / "trace.txt").write_text(golden_text())
