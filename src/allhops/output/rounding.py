"""Durations as `records.milliseconds` has them, many at once and in whole numbers. This file knows no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from allhops.output.records import milliseconds

if TYPE_CHECKING:
    from numpy.typing import NDArray

CERTAIN_NS = 10**15
"""Eleven days. Up to there a float of milliseconds is far nearer to what it stands for than to the next half of a
microsecond, and its text has all digits of the rounded value and no others."""

THOUSANDTHS = np.array([f"{part / 1_000}".removeprefix("0") for part in range(1_000)], object)
"""What follows the whole milliseconds: ".0", ".001" to ".999"."""


class Rounded(NamedTuple):
    """n durations, to the nearest microsecond."""

    whole: NDArray[np.int64]
    """(n,): milliseconds."""
    thousandths: NDArray[np.int64]
    """(n,): of a millisecond, 0 to 999."""
    is_doubtful: NDArray[np.bool_]
    """(n,): just between two microseconds, very long, or negative: there `milliseconds` must be asked."""


def rounded(duration_ns: NDArray[np.int64]) -> Rounded:
    """Each duration. Between two microseconds the float of `milliseconds` decides."""
    raised = duration_ns + 500
    micro = raised // 1_000
    whole = micro // 1_000
    is_doubtful = (micro * 1_000 == raised) | (duration_ns > CERTAIN_NS) | (duration_ns < 0)
    return Rounded(whole, micro - whole * 1_000, is_doubtful)


def milliseconds_texts(duration_ns: NDArray[np.int64]) -> list[str]:
    """The text of `milliseconds` of each duration.

    >>> milliseconds_texts(np.array([0, 1_499, 1_500, 2_500, 12_345_678_901, -500_000]))
    ['0.0', '0.001', '0.002', '0.003', '12345.679', '-0.5']
    """
    whole, thousandths, is_doubtful = rounded(duration_ns)
    texts = [
        f"{before}{behind}" for before, behind in zip(whole.tolist(), THOUSANDTHS[thousandths].tolist(), strict=True)
    ]
    for at in np.flatnonzero(is_doubtful).tolist():
        texts[at] = repr(milliseconds(int(duration_ns[at])))
    return texts
