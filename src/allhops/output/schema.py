"""The JSON Schema of what `--json` writes, made from the same tables as the writer.

python -m allhops.output.schema > docs/trace.schema.json
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from allhops.output.records import RECORDS, SCHEMA, TRACE

if TYPE_CHECKING:
    from allhops.output.fields import Schema


def trace_schema() -> Schema:
    """JSON Schema, draft 2020-12, of one line."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA,
        **TRACE.schema(),
        "$defs": {record.name: record.schema() for record in RECORDS if record is not TRACE},
    }


def schema_text() -> str:
    """The file docs/trace.schema.json."""
    return json.dumps(trace_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
