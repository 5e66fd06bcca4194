"""Destinations as keys that can be sorted, counted and split: IPv4 as uint32, IPv6 as 16 bytes, names as a digest.

This file knows no list and no network.
"""

from __future__ import annotations

from hashlib import blake2b
from ipaddress import IPv6Address
from socket import inet_ntoa
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from allhops.net.batch.group import Group, scope_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from allhops.model import Address

DTYPES: Final = {4: np.dtype(np.uint32), 6: np.dtype("S16")}
"""Of the keys of each IP version. All keys of one array have one width, so the zeros that S16 hides do not matter."""
NAME: Final = np.dtype("S16")
"""Of the keys of names."""
_LOW = (1 << 64) - 1
_SCOPE: Final = slice(2, 8)
"""Bytes of a link-local address that are zero (RFC 4291 2.5.6): room for the interface."""
_WRITTEN: Final[dict[int, Callable[[bytes], str]]] = {4: inet_ntoa, 6: lambda octets: str(IPv6Address(octets))}


def range_keys(version: int, first: int, count: int) -> NDArray[Any]:
    """Keys of `count` addresses from the number `first` on, in order.

    >>> [hex(key) for key in range_keys(4, 0xC0000200, 2)]
    ['0xc0000200', '0xc0000201']
    """
    if version == 4:
        return np.arange(first, first + count, dtype=np.uint64).astype(np.uint32)
    halves = np.empty((count, 2), ">u8")
    low = np.uint64(first & _LOW) + np.arange(count, dtype=np.uint64)  # comes round at a multiple of 2**64
    halves[:, 0] = (first >> 64) + (low < np.uint64(first & _LOW)).astype(np.uint64)
    halves[:, 1] = low
    keys: NDArray[Any] = halves.view(DTYPES[6]).ravel()
    return keys


def address_keys(version: int, addresses: Sequence[Address]) -> NDArray[Any]:
    """Keys of addresses of one version; link-local ones of several interfaces differ."""
    if version == 4:
        return np.frombuffer(b"".join(address.packed for address in addresses), ">u4").astype(DTYPES[4])
    return np.frombuffer(b"".join(map(_scoped_key, addresses)), DTYPES[6])


def _scoped_key(address: Address) -> bytes:
    scope = scope_of(address)
    packed = address.packed
    return packed if scope is None else packed[: _SCOPE.start] + _digest(scope) + packed[_SCOPE.stop :]


def scoped(keys: NDArray[Any], scope: str) -> NDArray[Any]:
    """Keys of link-local addresses of one interface, from those of the addresses alone."""
    octets = keys.view(np.uint8).reshape(-1, DTYPES[6].itemsize).copy()
    octets[:, _SCOPE] = np.frombuffer(_digest(scope), np.uint8)
    return octets.view(DTYPES[6]).ravel()


def _digest(scope: str) -> bytes:
    return blake2b(scope.encode(), digest_size=_SCOPE.stop - _SCOPE.start).digest()


def group_of(version: int, keys: NDArray[Any], positions: NDArray[np.int64]) -> Group:
    """The addresses that keys of `range_keys` stand for, named as they are written."""
    octets = (keys.astype(">u4") if version == 4 else keys).view(f"V{keys.itemsize}")
    return Group(
        packed=octets.view(np.uint8).reshape(-1, octets.itemsize),
        positions=positions,
        names=list(map(_WRITTEN[version], octets.tolist())),
    )


def name_key(name: str) -> bytes:
    """Key of a name: case does not matter (RFC 4343), nor does the final dot."""
    return blake2b(name.rstrip(".").lower().encode("utf-8", "surrogatepass"), digest_size=16).digest()


def name_keys(names: Sequence[str]) -> NDArray[Any]:
    """Keys of names."""
    return np.frombuffer(b"".join(map(name_key, names)), NAME)
