"""JSON, schema "allhops.trace/1": one object a line, one line a destination, when its trace has ended.

Fields: docs/formats.md and docs/trace.schema.json. This file knows no clock.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from allhops.output.records import TRACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.model import Address, Hop, Trace
    from allhops.options import TraceOptions


class JsonWriter:
    """Traces as they end; see `allhops.output.Writer`. Names that were not looked up are null."""

    def __init__(self, write: Callable[[str], None], *, numeric: bool = False, extensions: bool = False) -> None:
        self._write = write

    def begin(self, destination: str, address: Address, options: TraceOptions, size: int) -> None:
        """Nothing: the object holds it all."""

    def hop(self, hop: Hop) -> None:
        """Nothing: the object holds it all."""

    def end(self, trace: Trace) -> None:
        """The object."""
        self._write(line(trace))


compact = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
"""What `json.dumps` would say, in ASCII and without a space."""


def line(trace: Trace) -> str:
    """One trace as one line of ASCII."""
    return compact(TRACE.write(trace)) + "\n"
