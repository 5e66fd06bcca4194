"""Destinations side by side: what a feed tells, an intake sorts and a window holds. This file knows no network."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from allhops.model import Address


Kind = tuple[int, str | None]
"""IP version and scope."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """n destinations of one IP version; link-local ones are of one interface."""

    packed: NDArray[np.uint8]
    """(n, 4 or 16): addresses."""
    positions: NDArray[np.int64]
    """(n,): places in the caller's list."""
    names: Sequence[str]
    """n of them: destinations as the caller wrote them."""
    scope: str | None = None
    """The interface of link-local ones, as in fe80::1%eth0."""

    @classmethod
    def of(
        cls, addresses: Sequence[Address], names: Sequence[str] | None = None, positions: Sequence[int] | None = None
    ) -> Self:
        """One or more addresses of one IP version and scope; by themselves they are named as they are written."""
        octets = np.frombuffer(b"".join([address.packed for address in addresses]), np.uint8)
        return cls(
            packed=octets.reshape(len(addresses), -1),
            positions=np.array(range(len(addresses)) if positions is None else positions, np.int64),
            names=list(map(str, addresses)) if names is None else names,
            scope=scope_of(addresses[0]),
        )

    @classmethod
    def joined(cls, groups: Sequence[Self]) -> Self:
        """One group of one or more that are alike, in their order."""
        if len(groups) == 1:
            return groups[0]
        return cls(
            packed=np.concatenate([group.packed for group in groups]),
            positions=np.concatenate([group.positions for group in groups]),
            names=list(chain.from_iterable(group.names for group in groups)),
            scope=groups[0].scope,
        )

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, part: slice) -> Self:
        return type(self)(
            packed=self.packed[part], positions=self.positions[part], names=self.names[part], scope=self.scope
        )

    def select(self, places: NDArray[np.int64]) -> Self:
        """Those at these places, in their order."""
        return type(self)(
            packed=self.packed[places],
            positions=self.positions[places],
            names=list(map(self.names.__getitem__, places.tolist())),
            scope=self.scope,
        )

    @property
    def kind(self) -> Kind:
        """What groups that are joined have in common."""
        return self.version, self.scope

    @property
    def version(self) -> int:
        """4 or 6."""
        return 4 if self.packed.shape[1] == 4 else 6

    @property
    def keys(self) -> NDArray[Any]:
        """(n,): the addresses as what numpy sorts, uint32 or S16."""
        if self.version == 4:
            return self.packed.view(">u4").ravel().astype(np.uint32)
        return self.packed.view("S16").ravel()

    def octets(self) -> list[bytes]:
        """The addresses one by one, packed."""
        octets: list[bytes] = self.packed.view(f"V{self.packed.shape[1]}").ravel().tolist()
        return octets

    def address(self, place: int) -> Address:
        """One of the addresses."""
        octets = self.packed[place].tobytes()
        if self.version == 4:
            return IPv4Address(octets)
        address = IPv6Address(octets)
        return address if self.scope is None else IPv6Address(f"{address}%{self.scope}")


def scope_of(address: Address) -> str | None:
    """The interface that an address names."""
    return address.scope_id if isinstance(address, IPv6Address) else None


def all_differ(keys: NDArray[Any]) -> bool:
    """Whether none is there twice: to sort them takes a tenth of what `np.unique` does to say where each was."""
    ordered = np.sort(keys)
    return bool((ordered[1:] != ordered[:-1]).all())
