"""What a strategy yields: a wave to send, or what to wait for before it is asked again.

A course that is complete ends, whatever its strategy would still have asked, unless and as long as the latest step
`holds` it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Wave(NamedTuple):
    """Slots to send in this order, `spacing_s` seconds apart; 0 sends them as fast as the pacer allows."""

    slots: Sequence[int]
    spacing_s: float = 0.0
    holds: Callable[[], bool] = bool


class Pause(NamedTuple):
    """Ask again so many seconds after the first wave was sent: `until_s()`, which may change with what is heard."""

    until_s: Callable[[], float]
    holds: Callable[[], bool] = bool


class Settle(NamedTuple):
    """Ask again when none of these slots is in flight any more."""

    slots: Sequence[int]
    holds: Callable[[], bool] = bool


Step = Wave | Pause | Settle
