"""One file per format, and the table of them.

A writer turns rows and traces into text; where the text goes, it does not know.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from allhops.model import Address, Hop, Trace
    from allhops.options import TraceOptions

FORMATS = {
    "text": "allhops.output.text:TextWriter",
    "json": "allhops.output.json:JsonWriter",
}
"""Name to class; a format is imported when it is chosen, since json costs 3 ms that text needs not pay."""


class Writer(Protocol):
    """What the command tells about each destination in turn: `begin`, then each row, then `end`.

    A destination to which no trace could be started has only an `end`. Names are in the rows already.
    """

    def __init__(self, write: Callable[[str], None], *, numeric: bool, extensions: bool) -> None:
        """Write whole lines with `write`; `numeric` leaves names out, `extensions` shows what routers append."""
        ...

    def begin(self, destination: str, address: Address, options: TraceOptions, size: int) -> None:
        """A trace starts; `size` is that of a whole probe, bytes."""
        ...

    def hop(self, hop: Hop) -> None:
        """The next row is certain."""
        ...

    def end(self, trace: Trace) -> None:
        """The trace has ended."""
        ...


def writer(name: str, write: Callable[[str], None], *, numeric: bool = False, extensions: bool = False) -> Writer:
    """The writer of a format of `FORMATS`."""
    module, _, class_name = FORMATS[name].partition(":")
    kind: type[Writer] = getattr(import_module(module), class_name)
    return kind(write, numeric=numeric, extensions=extensions)
