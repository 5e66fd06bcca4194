"""The footer of a Parquet file as a tree, so that groups of rows can be copied from file to file without decoding them.

A footer is a struct of Thrift's compact protocol; what is not understood here is written as it was read. pyarrow reads
and writes such trees, but lets nobody move a group to another place in a file. Source:
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md and
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

import os
from typing import IO, Any, Final, NamedTuple

MAGIC: Final = b"PAR1"
_LENGTH_BYTES: Final = 4
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, STRUCT = range(1, 13)
"""Kinds of values."""
_LONG: Final = 15
"""As the size of a list: the size follows."""


class Field(NamedTuple):
    """One field of a struct."""

    kind: int
    value: Any
    """A number, bytes, a `Struct`, an `Items`; None for a bool, whose kind says it."""


Struct = dict[int, Field]
"""Fields by their numbers, which rise."""


class Items(NamedTuple):
    """A list."""

    kind: int
    values: list[Any]
    """Structs among them may be bytes: written already."""


def read_footer(file: IO[bytes]) -> Struct:
    """What a Parquet file ends with."""
    end = file.seek(-_LENGTH_BYTES - len(MAGIC), os.SEEK_END)
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    file.seek(end - length)
    return _Reader(file.read(length)).struct()


def write_footer(file: IO[bytes], footer: Struct) -> None:
    """End a Parquet file."""
    packed = pack(footer)
    file.write(packed + len(packed).to_bytes(_LENGTH_BYTES, "little") + MAGIC)


def pack(struct: Struct) -> bytes:
    """A struct as it stands in a file.

    >>> pack({1: Field(_I32, -3), 20: Field(_LIST, Items(_BINARY, [b"ab"]))}).hex()
    '150509281802616200'
    """
    packed, last = bytearray(), 0
    for number, (kind, value) in struct.items():
        step = number - last
        packed += bytes([step << 4 | kind]) if step <= 15 else bytes([kind]) + _signed(number)
        packed += _value(kind, value)
        last = number
    packed.append(0)
    return bytes(packed)


def _value(kind: int, value: Any) -> bytes:
    if value is None:
        return b""
    if isinstance(value, bytes):
        return _varint(len(value)) + value if kind == _BINARY else value
    if kind == STRUCT:
        return pack(value)
    if kind in (_I16, _I32, _I64):
        return _signed(value)
    size = len(value.values)
    head = bytes([size << 4 | value.kind]) if size < _LONG else bytes([_LONG << 4 | value.kind]) + _varint(size)
    return head + b"".join(_value(value.kind, one) for one in value.values)


def _signed(number: int) -> bytes:
    """Zigzag: small ones are short, whatever their sign."""
    return _varint(number << 1 if number >= 0 else ~(number << 1))


def _varint(number: int) -> bytes:
    packed = bytearray()
    while number > 0x7F:
        packed.append(number & 0x7F | 0x80)
        number >>= 7
    packed.append(number)
    return bytes(packed)


class _Reader:
    """Reads values one behind the other."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed
        self._at = 0

    def struct(self) -> Struct:
        fields: Struct = {}
        number = 0
        while head := self._byte():
            kind, step = head & 0x0F, head >> 4
            number = number + step if step else self._signed()
            fields[number] = Field(kind, None if kind in (_TRUE, _FALSE) else self._value(kind))
        return fields

    def _value(self, kind: int) -> Any:
        if kind == STRUCT:
            return self.struct()
        if kind in (_I16, _I32, _I64):
            return self._signed()
        if kind == _BINARY:
            return self._take(self._varint())
        if kind in (_LIST, _SET):
            head = self._byte()
            size = head >> 4
            size = self._varint() if size == _LONG else size
            return Items(head & 0x0F, [self._value(head & 0x0F) for _ in range(size)])
        if kind in (_TRUE, _FALSE, _BYTE, _DOUBLE):  # a bool that is an item has a byte of its own
            return self._take(8 if kind == _DOUBLE else 1)
        raise ValueError(f"no footer of a Parquet file has a value of kind {kind}")

    def _signed(self) -> int:
        number = self._varint()
        return number >> 1 ^ -(number & 1)

    def _varint(self) -> int:
        number = shift = 0
        while (byte := self._byte()) > 0x7F:
            number |= (byte & 0x7F) << shift
            shift += 7
        return number | byte << shift

    def _byte(self) -> int:
        self._at += 1
        return self._packed[self._at - 1]

    def _take(self, size: int) -> bytes:
        self._at += size
        return self._packed[self._at - size : self._at]
