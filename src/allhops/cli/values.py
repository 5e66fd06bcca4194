"""Values of options, from the words that the user typed; what cannot be read says what would do.

Bounds are not here but in `TraceOptions`, but for what is no field of it.
"""

from __future__ import annotations

import math
from argparse import ArgumentTypeError

MAX_DSCP = 63
DSCP_NAMES = {
    "BE": 0,
    "DF": 0,
    "LE": 1,
    **{f"CS{selector}": 8 * selector for selector in range(8)},
    **{f"AF{group}{drop}": 8 * group + 2 * drop for group in range(1, 5) for drop in range(1, 4)},
    "VA": 44,
    "EF": 46,
}
"""Upper six bits of the byte that --tos sets. Source: RFC 2474, 2597, 3246, 5865, 8622."""


def whole_number(text: str) -> int:
    """A decimal number."""
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"write a whole number, not {text!r}") from None


def byte(text: str) -> int:
    """A number in any notation of Python's."""
    return _any_base(text, "write a number from 0 to 255, as in 184 or 0xb8")


def flow_label(text: str) -> int:
    """A number in any notation of Python's."""
    return _any_base(text, "write a number from 0 to 1048575, as in 74565 or 0x12345")


def dscp(text: str) -> int:
    """The whole byte of a code point: its ECN bits are 0.

    >>> dscp("ef") == dscp("46") == 0xb8
    True
    """
    advice = f"write a number from 0 to {MAX_DSCP} or a name such as EF, AF41 or CS5"
    point = DSCP_NAMES.get(text.upper())
    if point is None:
        point = _any_base(text, advice)
    if not 0 <= point <= MAX_DSCP:
        raise ArgumentTypeError(f"{advice}, not {text!r}")
    return point << 2


def seconds(text: str) -> float:
    """A decimal fraction."""
    try:
        return float(text)
    except ValueError:
        raise ArgumentTypeError(f"write seconds, as in 1.5, not {text!r}") from None


def rate(text: str) -> float:
    """Probes a second: finite and more than 0."""
    try:
        pps = float(text)
    except ValueError:
        pps = 0.0
    if not (math.isfinite(pps) and pps > 0):
        raise ArgumentTypeError(f"write probes a second, more than 0, not {text!r}")
    return pps


def _any_base(text: str, advice: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ArgumentTypeError(f"{advice}, not {text!r}") from None
