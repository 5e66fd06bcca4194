"""The answers of a ledger side by side: its bytes as an array of records.

This file knows no packet and no clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from allhops.core.ledger import ADDRESS_BYTES, ANSWER, ANSWER_SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from allhops.core.ledger import Ledger

FIELDS: dict[str, tuple[Any, int]] = {"responder": (("u8", ADDRESS_BYTES // 8), 0), **ANSWER}
"""(format, offset in bytes) of each; an address is two numbers that only equality means something to."""
_HALF = ADDRESS_BYTES // 2
"""Bytes."""
OPAQUE = np.dtype(f"V{ANSWER_SIZE}")
"""One answer as bytes: arrays of these are copied whole, arrays of records field by field."""


def record_of(fields: dict[str, tuple[Any, int]], size: int) -> np.dtype[np.void]:
    """A record of so many bytes with fields of these formats at these offsets."""
    formats, offsets = zip(*fields.values(), strict=True)
    return np.dtype({"names": [*fields], "formats": [*formats], "offsets": [*offsets], "itemsize": size})


_RECORD = record_of(FIELDS, ANSWER_SIZE)


def answers_of(ledger: Ledger) -> NDArray[Any]:
    """(slots,) records with the fields of `ANSWER`: the ledger's own memory."""
    return np.frombuffer(ledger.answers, _RECORD)


def as_records(answers: NDArray[np.void]) -> NDArray[Any]:
    """The fields of opaque ones."""
    return answers.view(_RECORD)


def packed_responders(ledger: Ledger, slots: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(..., 16): left-aligned addresses of those who answered these slots."""
    octets = np.ndarray((len(ledger.state),), f"V{ADDRESS_BYTES}", ledger.answers, 0, (ANSWER_SIZE,))
    return octets[slots][..., None].view(np.uint8)


def responder_keys(ledger: Ledger, slots: NDArray[np.int64], size: int) -> NDArray[np.uint64]:
    """(...,): the keys of those who answered these slots, whose addresses have so many bytes; 0 for nobody."""
    halves, first = np.frombuffer(ledger.answers, np.uint64), slots * (ANSWER_SIZE // _HALF)
    return halves[first] if size <= _HALF else _mixed(halves[first], halves[first + 1])


def key_of(packed: NDArray[Any]) -> NDArray[np.uint64]:
    """(..., 16) left-aligned addresses to (...,) numbers: an IPv4 address its own, an IPv6 address a hash.

    Never 0 for an address that is not. Good for comparing responders of one path, or as a key whose owner is checked.
    """
    halves = np.ascontiguousarray(packed).view(np.uint64)
    return _mixed(halves[..., 0], halves[..., 1])


def _mixed(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.uint64]:
    keys: NDArray[np.uint64] = high ^ (low * np.uint64(0x9E3779B97F4A7C15))
    return keys
