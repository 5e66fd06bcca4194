"""What a record of the JSON is made of: fields, each with its type, its reader and its words.

This file knows no field by name: see `allhops.output.records`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import StrEnum

Schema = dict[str, Any]
Source = TypeVar("Source")


class Field(NamedTuple, Generic[Source]):
    """One member of a JSON object: its type as JSON Schema, how to read it, and what it says."""

    name: str
    type: Schema
    read: Callable[[Source], object]
    says: str
    unit: str = ""
    origin: str = ""
    """Which packet, or which part of this machine, the value was read from."""


class Record(Generic[Source]):
    """A JSON object made of fields."""

    def __init__(self, name: str, says: str, fields: tuple[Field[Source], ...]) -> None:
        self.name = name
        self.says = says
        self.fields = fields
        self._readers = tuple((field.name, field.read) for field in fields)

    def write(self, source: Source) -> dict[str, object]:
        """The object for one value of the model, ready for `json.dumps`."""
        return {name: read(source) for name, read in self._readers}

    def schema(self) -> Schema:
        """Its JSON Schema."""
        return {
            "type": "object",
            "description": self.says,
            "properties": {field.name: field.type | {"description": _sentence(field)} for field in self.fields},
            "required": [field.name for field in self.fields],
            "additionalProperties": False,
        }

    @property
    def reference(self) -> Schema:
        """How another record's schema names this one."""
        return {"$ref": f"#/$defs/{self.name}"}


def _sentence(field: Field[Any]) -> str:
    unit = f" Unit: {field.unit}." if field.unit else ""
    return f"{field.says}{unit} From: {field.origin}." if field.origin else field.says + unit


def or_null(schema: Schema) -> Schema:
    """What may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(kind: type[StrEnum]) -> Schema:
    """One of an enum's values."""
    return {"enum": [member.value for member in kind]}


def integer(low: int, high: int) -> Schema:
    """A whole number from `low` to `high`."""
    return {"type": "integer", "minimum": low, "maximum": high}


def list_of(*choices: Schema) -> Schema:
    """A list whose members are each one of these."""
    return {"type": "array", "items": choices[0] if len(choices) == 1 else {"anyOf": list(choices)}}


TEXT: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
BYTE = integer(0, 255)
TTL = integer(1, 255)
WORD = integer(0, 65_535)
LONG = integer(0, (1 << 32) - 1)
MILLISECONDS: Schema = {"type": "number", "minimum": 0}
ADDRESS: Schema = {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}
HEX: Schema = {"type": "string", "pattern": "^([0-9a-f]{2})*$"}
TIME: Schema = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$",
}
