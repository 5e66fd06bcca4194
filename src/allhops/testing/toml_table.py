"""A TOML table read key by key: every value is checked, every unknown key is an error that says what would do.

A *reader* is a function from what tomllib delivers to a value; it raises
ValueError with the words for "must be ...". This file knows no scenario.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, TypeVar

from allhops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from enum import StrEnum

T = TypeVar("T")
D = TypeVar("D")
E = TypeVar("E", bound="StrEnum")


class Table:
    """One table of a file; `where` is the file and the dotted key that lead to it."""

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, dict):
            raise UsageError(f"{where}: must be a table, such as {{ key = value }}, not {values!r}")
        self.where = where
        self._values: dict[str, object] = values
        self._known: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def optional(self, key: str, read: Callable[[object], T], default: D) -> T | D:
        """The value of `key`, or `default` where the file does not have it.

        Raises:
            UsageError: the value is not what `read` takes.
        """
        self._known.add(key)
        if key not in self._values:
            return default
        try:
            return read(self._values[key])
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError(f"{self.at(key)}: must be {error}, not {self._values[key]!r}") from None

    def required(self, key: str, read: Callable[[object], T]) -> T:
        """The value of `key`.

        Raises:
            UsageError: it is missing or not what `read` takes.
        """
        if key not in self._values:
            raise UsageError(f"{self.where}: {key} is missing; add it (docs/lab.md lists the keys)")
        return self.optional(key, read, None)  # type: ignore[return-value]  # present, so never the default

    def table(self, key: str) -> Table | None:
        """The sub-table `key`, None where there is none."""
        self._known.add(key)
        return Table(self._values[key], self.at(key)) if key in self._values else None

    def items(self) -> list[tuple[str, Table]]:
        """All values as sub-tables: for tables whose keys the file's writer chooses."""
        self._known.update(self._values)
        return [(key, Table(value, self.at(key))) for key, value in self._values.items()]

    def texts(self) -> dict[str, str]:
        """All values as strings: for tables whose keys the file's writer chooses."""
        return {key: self.required(key, text) for key in self._values}

    def over(self, defaults: Mapping[str, object]) -> Table:
        """The same table where `defaults` stand for the keys that it does not have."""
        return Table({**defaults, **self._values}, self.where)

    def values(self) -> Mapping[str, object]:
        """The table as tomllib delivered it."""
        return self._values

    def at(self, key: str) -> str:
        """File and dotted key, for a message."""
        return f"{self.where}.{key}" if ": " in self.where else f"{self.where}: {key}"

    def finish(self) -> None:
        """Refuse keys that nobody asked for.

        Raises:
            UsageError: there is one; the message names the nearest known key.
        """
        for key in self._values:
            if key not in self._known:
                from difflib import get_close_matches  # 3 ms, and only for a mistake

                near = get_close_matches(key, self._known, 1)
                hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(sorted(self._known))}"
                raise UsageError(f"{self.at(key)}: unknown key; {hint}")


def text(value: object) -> str:
    """Read a string."""
    if not isinstance(value, str):
        raise ValueError("a string")
    return value


def truth_value(value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def hexadecimal(value: object) -> bytes:
    """Read bytes from a string of hexadecimal digits; blanks are allowed between bytes."""
    try:
        return bytes.fromhex(text(value))
    except ValueError:
        raise ValueError('hexadecimal bytes in a string, such as "00 ff"') from None


def integer(low: int, high: int) -> Callable[[object], int]:
    """Reader of an integer, bounds included."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"an integer from {low} to {high}")
        return value

    return read


def number(low: float, high: float) -> Callable[[object], float]:
    """Reader of an integer or float, bounds included."""

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return float(value)

    return read


def milliseconds(value: object) -> int:
    """Read milliseconds, 0 to an hour, into nanoseconds."""
    return round(number(0, 3_600_000)(value) * 1_000_000)


def one_of(choices: type[E]) -> Callable[[object], E]:
    """Reader of one of an enum's values."""

    def read(value: object) -> E:
        try:
            return choices(text(value))
        except ValueError:
            raise ValueError("one of " + ", ".join(f'"{choice}"' for choice in choices)) from None

    return read


def ipv4(value: object) -> IPv4Address:
    """Read an IPv4 address."""
    try:
        return IPv4Address(text(value))
    except ValueError:
        raise ValueError('an IPv4 address, such as "10.0.0.1"') from None


def ipv6(value: object) -> IPv6Address:
    """Read an IPv6 address."""
    try:
        return IPv6Address(text(value))
    except ValueError:
        raise ValueError('an IPv6 address, such as "2001:db8::1"') from None


def address(value: object) -> IPv4Address | IPv6Address:
    """Read an address of either family."""
    try:
        return ip_address(text(value))
    except ValueError:
        raise ValueError('an address, such as "10.0.0.1" or "2001:db8::1"') from None


def list_of(read_one: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """Reader of an array."""

    def read(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise ValueError("an array")
        return tuple(map(read_one, value))

    return read
