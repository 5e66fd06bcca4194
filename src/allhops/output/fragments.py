"""What many lines have in common: the text of neighbouring fields of a record.

A million probes have few combinations of ICMP type, flags and evidence, so the text of those is made once, by the
record's own readers, and found again by what it depends on (remembered.py). This file knows no field by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allhops.output.json import compact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allhops.output.fields import Field, Record


class Fragment:
    """One run of neighbouring fields; its text is `"name":value,"name":value`."""

    def __init__(self, fields: Sequence[Field[Any]]) -> None:
        self._fields = tuple((f"{compact(field.name)}:", field.read) for field in fields)
        self.name = self._fields[0][0]
        """What stands before the first value: `"name":`."""

    def text(self, source: object) -> str:
        """The text for one value of the model."""
        return ",".join(name + compact(read(source)) for name, read in self._fields)


def cut(record: Record[Any], *runs: tuple[str, ...]) -> tuple[Fragment, ...]:
    """The fields of a record as runs of neighbours.

    Raises: ValueError if they are not all of its fields in its order: of a new one, nobody said what it depends on.
    """
    names = [name for run in runs for name in run]
    if names != [field.name for field in record.fields]:
        raise ValueError(f"{record.name} has other fields than {names}: cut it anew")
    fields = iter(record.fields)
    return tuple(Fragment([next(fields) for _ in run]) for run in runs)
