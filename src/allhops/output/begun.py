"""Whether a file of results goes on with what is asked for now: what a batch is, then and now, compared.

A fingerprint says what a batch is, in words (options, digests of what it reads). This file knows no format.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from allhops.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DIGEST = re.compile(r"[0-9a-f]{64}")


def check_same(path: object, begun: Mapping[str, str], asked: Mapping[str, str]) -> None:
    """Refuse to go on with the file at `path` as another batch than it was begun as. Raises: UsageError."""
    if differences := "; ".join(_differences(begun, asked)):
        raise UsageError(
            f"{path} cannot be resumed, it was begun otherwise: {differences}: ask for the same, or choose another file"
        )


def _differences(begun: Mapping[str, str], asked: Mapping[str, str]) -> Iterator[str]:
    """A few words each; digests are not told, for nobody compares them by eye."""
    for key in {**begun, **asked}:
        then, now = begun.get(key, "not given"), asked.get(key, "not given")
        if then != now:
            is_digest = _DIGEST.fullmatch(then) or _DIGEST.fullmatch(now)
            yield f"{key} is another one" if is_digest else f"{key} was {then} and is now {now}"
