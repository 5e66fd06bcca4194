"""Groups of destinations one by one, as tests look at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allhops.model import Address
    from allhops.net.batch.group import Group


class Destination(NamedTuple):
    """One of a group."""

    position: int
    name: str
    address: Address


def each(group: Group) -> Iterator[Destination]:
    """The destinations of a group, in its order."""
    for place, (position, name) in enumerate(zip(group.positions.tolist(), group.names, strict=True)):
        yield Destination(position, name, group.address(place))
