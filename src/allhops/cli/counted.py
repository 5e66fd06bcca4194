"""Numbers with what they count."""

from __future__ import annotations


def counted(count: int, one: str, many: str | None = None) -> str:
    """`count` and the noun (or more of the sentence) that goes with it; `many` is `one` with an s unless given.

    >>> counted(1, "probe"), counted(1_200, "probe"), counted(0, "reply was", "replies were")
    ('1 probe', '1,200 probes', '0 replies were')
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
