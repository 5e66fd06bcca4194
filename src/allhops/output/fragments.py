"""What many lines have in common, remembered: the text of neighbouring fields of a record, and that of addresses.

A million probes have few combinations of ICMP type, flags and evidence, so the text of those is made once, by the
record's own readers, and found again by what it depends on. This file knows no field by name.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.paths import address_text
from allhops.output.addresses import distinct
from allhops.output.json import compact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from allhops.output.fields import Field, Record

MOST_REMEMBERED = 1 << 15
"""Addresses, or texts of one sort: 5 MB of the former, some hundred of the latter as a rule. Then all are forgotten."""


class Fragment:
    """One run of neighbouring fields; its text is `"name":value,"name":value`."""

    def __init__(self, fields: Sequence[Field[Any]]) -> None:
        self._fields = tuple((f"{compact(field.name)}:", field.read) for field in fields)
        self.name = self._fields[0][0]
        """What stands before the first value: `"name":`."""

    def text(self, source: object) -> str:
        """The text for one value of the model."""
        return ",".join(name + compact(read(source)) for name, read in self._fields)


class Remembered(dict[Hashable, str]):
    """Texts by what they depend on."""

    def texts(self, keys: Sequence[Hashable], make: Callable[[int], str]) -> list[str]:
        """The text of each key; `make` makes that of the key at a position."""
        try:
            return [*map(self.__getitem__, keys)]
        except KeyError:
            wanted = dict(zip(keys, range(len(keys)), strict=True))
        if len(self) + len(wanted) > MOST_REMEMBERED:
            self.clear()
        for key, position in wanted.items():
            if key not in self:
                self[key] = make(position)
        return [*map(self.__getitem__, keys)]


class AddressTexts(dict[int | bytes, str]):
    """Address to its text in quotes, remembered: an IPv4 one by its number, first octet lowest, an IPv6 one packed."""

    def texts(self, packed: NDArray[np.uint8]) -> NDArray[Any]:
        """(k,): the text of each of (k, 4 or 16) addresses."""
        packed = np.ascontiguousarray(packed)
        if packed.shape[1] != _IPV4_SIZE:
            return np.array([*map(self.__getitem__, packed.view(f"V{packed.shape[1]}")[:, 0].tolist())], object)
        numbers, codes = distinct(packed.view("<u4")[:, 0])  # as a rule few routers: cheaper than to look each up
        return np.array([*map(self.__getitem__, numbers.tolist())], object)[codes]

    def __missing__(self, key: int | bytes) -> str:
        if len(self) >= MOST_REMEMBERED:
            self.clear()
        packed = key if isinstance(key, bytes) else key.to_bytes(_IPV4_SIZE, "little")
        text = self[key] = f'"{address_text(packed)}"'
        return text


_IPV4_SIZE = 4
ADDRESSES = AddressTexts()
_FIRST, _OCTET, _LAST = (
    np.array([f"{before}{octet}{behind}" for octet in range(256)], object)
    for before, behind in (('"', "."), ("", "."), ("", '"'))
)


def address_texts(packed: NDArray[np.uint8]) -> list[str]:
    """The text of each of (k, 4 or 16) addresses in quotes, not remembered: IPv4 takes a third of what that costs."""
    if packed.shape[1] != _IPV4_SIZE:
        return [f'"{address_text(address.tobytes())}"' for address in packed]
    a, b, c, d = packed.T
    octets = (_FIRST[a].tolist(), _OCTET[b].tolist(), _OCTET[c].tolist(), _LAST[d].tolist())
    return [f"{one}{two}{three}{four}" for one, two, three, four in zip(*octets, strict=True)]


def cut(record: Record[Any], *runs: tuple[str, ...]) -> tuple[Fragment, ...]:
    """The fields of a record as runs of neighbours.

    Raises: ValueError if they are not all of its fields in its order: of a new one, nobody said what it depends on.
    """
    names = [name for run in runs for name in run]
    if names != [field.name for field in record.fields]:
        raise ValueError(f"{record.name} has other fields than {names}: cut it anew")
    fields = iter(record.fields)
    return tuple(Fragment([next(fields) for _ in run]) for run in runs)
