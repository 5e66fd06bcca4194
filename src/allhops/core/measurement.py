"""What the net drives: a session, or several that together find a path MTU. This file knows no packet and no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from allhops.core.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allhops.core.lanes import Block, Lane
    from allhops.core.ledger import Counters
    from allhops.core.pacer import Pacer
    from allhops.core.plan import Plan
    from allhops.core.session import Event

Replies = TypeVar("Replies")
Replies_contra = TypeVar("Replies_contra", contravariant=True)


class Measurement(Protocol[Replies_contra]):
    """The six calls, as `Session` explains them, and what else the net needs to know."""

    @property
    def plan(self) -> Plan:
        """Flow and cookie; options and size are those of the whole measurement."""
        ...

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do."""
        ...

    def probes_to_send(self, now: float) -> Block | None:
        """The next probes; None when none may leave now."""
        ...

    def probes_sent(self, block: Block, now: float) -> None:
        """What the net did with the block that it was given last."""
        ...

    def replies_received(self, replies: Replies_contra, now: float) -> None:
        """Replies that the port lease brought here."""
        ...

    def next_deadline(self) -> float | None:
        """When to call again even if nothing arrives."""
        ...

    def next_event(self) -> Event | None:
        """The oldest thing that has become certain and was not asked for yet."""
        ...

    def interrupt(self, now: float) -> None:
        """End with what is known."""
        ...


def begin(
    plan: Plan,
    lane: Lane[Replies],
    pacer: Pacer,
    *,
    counters: Counters,
    names: Sequence[str],
    now: float,
    started_at_ns: int,
) -> Measurement[Replies]:
    """What the plan's options ask for; arguments as those of `Session`."""
    if not plan.options.discover_mtu:
        return Session(plan, lane, pacer, counters=counters, names=names, now=now, started_at_ns=started_at_ns)
    from allhops.core.mtu.session import PathMtuSession  # 2 ms that other traces can do without

    return PathMtuSession(plan, lane, pacer, counters=counters, names=names, now=now, started_at_ns=started_at_ns)
