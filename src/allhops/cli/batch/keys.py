"""Destinations as keys that can be sorted, counted and split: IPv4 as uint32, IPv6 as 16 bytes, names as a digest.

This file knows no list and no network.
"""

from __future__ import annotations

from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from allhops.model import Address

DTYPES: Final = {4: np.dtype(np.uint32), 6: np.dtype("S16")}
"""Of the keys of each IP version. All keys of one array have one width, so the zeros that S16 hides do not matter."""
NAME: Final = np.dtype("S16")
"""Of the keys of names."""
_LOW = (1 << 64) - 1


def range_keys(version: int, first: int, count: int) -> NDArray[Any]:
    """Keys of `count` addresses from the number `first` on, in order.

    >>> range_keys(4, int(IPv4Address("192.0.2.0")), 2).tolist() == [0xC0000200, 0xC0000201]
    True
    """
    if version == 4:
        return np.arange(first, first + count, dtype=np.uint64).astype(np.uint32)
    halves = np.empty((count, 2), ">u8")
    low = np.uint64(first & _LOW) + np.arange(count, dtype=np.uint64)  # comes round at a multiple of 2**64
    halves[:, 0] = (first >> 64) + (low < np.uint64(first & _LOW)).astype(np.uint64)
    halves[:, 1] = low
    keys: NDArray[Any] = halves.view(DTYPES[6]).ravel()
    return keys


def address_keys(version: int, addresses: Sequence[Address], *, scoped: bool = True) -> NDArray[Any]:
    """Keys of addresses of one version; `scoped` tells link-local addresses of several interfaces apart."""
    if version == 4:
        return np.frombuffer(b"".join(address.packed for address in addresses), ">u4").astype(DTYPES[4])
    key = _scoped_key if scoped else _plain_key
    return np.frombuffer(b"".join(map(key, addresses)), DTYPES[6])


def _plain_key(address: Address) -> bytes:
    return address.packed


def _scoped_key(address: Address) -> bytes:
    packed = address.packed
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        # Bytes 2 to 7 of a link-local address are zero (RFC 4291 2.5.6): room for the interface.
        return packed[:2] + blake2b(address.scope_id.encode(), digest_size=6).digest() + packed[8:]
    return packed


def addresses_of(version: int, keys: NDArray[Any]) -> list[Address]:
    """The addresses that keys of `range_keys` stand for."""
    if version == 4:
        return [IPv4Address(number) for number in keys.tolist()]
    octets = keys.tobytes()
    return [IPv6Address(octets[start : start + 16]) for start in range(0, len(octets), 16)]


def name_key(name: str) -> bytes:
    """Key of a name: case does not matter (RFC 4343), nor does the final dot."""
    return blake2b(name.rstrip(".").lower().encode("utf-8", "surrogatepass"), digest_size=16).digest()


def name_keys(names: Sequence[str]) -> NDArray[Any]:
    """Keys of names."""
    return np.frombuffer(b"".join(map(name_key, names)), NAME)
