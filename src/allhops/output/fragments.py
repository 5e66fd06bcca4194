"""What many lines have in common, remembered: the text of neighbouring fields of a record, and that of addresses.

A million probes have few combinations of ICMP type, flags and evidence, so the text of those is made once, by the
record's own readers, and found again by what it depends on. This file knows no field by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allhops.core.paths import address_text
from allhops.output.json import compact

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from allhops.output.fields import Field, Record

MOST_REMEMBERED = 1 << 16
"""Texts of one run of fields, or of addresses, 50 to 300 bytes each: 10 MB. Then all are forgotten."""


class Fragments:
    """One run of neighbouring fields; texts are `"name":value,"name":value`."""

    def __init__(self, fields: Sequence[Field[Any]]) -> None:
        self._fields = tuple((f"{compact(field.name)}:", field.read) for field in fields)
        self._texts: dict[Hashable, str] = {}
        self.name = self._fields[0][0]
        """What stands before the first value: `"name":`."""

    def texts(self, keys: Sequence[Hashable], read: Callable[[int], object]) -> list[str]:
        """The text of each key; `read` gives a value of the model with the key at a position."""
        known = self._texts
        wanted = set(keys)
        if not wanted <= known.keys():
            if len(known) + len(wanted) > MOST_REMEMBERED:
                known.clear()
            for key, position in dict(zip(keys, range(len(keys)), strict=True)).items():
                if key not in known:
                    known[key] = self.text(read(position))
        return [known[key] for key in keys]

    def text(self, source: object) -> str:
        """The text for one value of the model."""
        return ",".join(name + compact(read(source)) for name, read in self._fields)


class AddressTexts(dict[bytes, str]):
    """Packed address to its text, remembered."""

    def __missing__(self, packed: bytes) -> str:
        if len(self) >= MOST_REMEMBERED:
            self.clear()
        text = self[packed] = address_text(packed)
        return text


def cut(record: Record[Any], *runs: tuple[str, ...]) -> tuple[Fragments, ...]:
    """The fields of a record as runs of neighbours.

    Raises: ValueError if they are not all of its fields in its order: of a new one, nobody said what it depends on.
    """
    names = [name for run in runs for name in run]
    if names != [field.name for field in record.fields]:
        raise ValueError(f"{record.name} has other fields than {names}: cut it anew")
    fields = iter(record.fields)
    return tuple(Fragments([next(fields) for _ in run]) for run in runs)
