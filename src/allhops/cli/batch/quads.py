"""Lines that are nothing but an IPv4 address, read many at once: nearly all lines of nearly all long lists.

As strict as `read_entry`: what that reads otherwise, refuses or has to look at twice is left to it. This file knows no
file and no network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allhops.net.resolve import ORDINARY

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NEWLINE, _RETURN, _DOT, _ZERO = b"\n\r.0"
_PARTS = 4


class Quads(NamedTuple):
    """The q such lines of n."""

    which: NDArray[np.bool_]
    """(n,): whether a line is one."""
    packed: NDArray[np.uint8]
    """(q, 4): addresses."""
    names: list[str]
    """q of them: addresses as they are written."""


def read_quads(content: bytes, ip_version: int | None = None) -> Quads:
    r"""Those among whole lines, each with its newline; none where IPv6 is asked for.

    >>> read_quads(b"192.0.2.1\r\n192.0.2.01\nhost.example\n").names
    ['192.0.2.1']
    """
    octets = np.frombuffer(content, np.uint8)
    ends_line = octets == _NEWLINE
    ends = np.flatnonzero(ends_line | (octets == _DOT))  # of all that may be a number
    last = np.flatnonzero(ends_line[ends])
    which = (np.diff(last, prepend=-1) == _PARTS) & (ip_version != 6)
    bounds = np.append(ends, -1)[
        last[which] + np.arange(-_PARTS, 1)[:, None]
    ]  # what stands before the first line is -1
    begin, end = bounds[:-1] + 1, bounds[1:]
    end[-1] -= octets[end[-1] - 1] == _RETURN
    values, is_sound = _numbers(octets, begin, end)
    packed = values.T.astype(np.uint8, order="C")
    keys = packed.view(">u4").ravel()
    is_sound &= (keys >= ORDINARY[0]) & (keys <= ORDINARY[1])
    which[which] = is_sound
    texts = content.decode("latin-1").replace("\r\n", "\n").split("\n")
    return Quads(which, packed[is_sound], list(map(texts.__getitem__, np.flatnonzero(which).tolist())))


def _numbers(
    octets: NDArray[np.uint8], begin: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """(4, q), (q,): numbers written from `begin` to `end` ((4, q)), and whether all four are, without leading zeros."""
    size = end - begin
    values, are_digits = np.zeros(size.shape, np.uint16), np.ones(size.shape, np.bool_)
    for place, weight in enumerate((1, 10, 100)):
        digit = octets[end - 1 - place] - np.uint8(_ZERO)  # of a shorter number it is whatever stands there
        digit[size <= place] = 0
        are_digits &= digit <= 9
        values += digit.astype(np.uint16) * np.uint16(weight)
    is_short = size == 1 + (values > 9) + (values > 99)
    return values, (are_digits & is_short & (values <= 255)).all(0)
