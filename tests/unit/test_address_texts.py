"""Addresses as text, many at once: what `ipaddress` says, each once."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from allhops.output.addresses import SIZED_ADDRESS, distinct_texts

IPV4 = st.integers(0, 2**32 - 1).map(IPv4Address)
IPV6 = st.integers(0, 2**128 - 1).map(IPv6Address)
SMALL = st.sampled_from([IPv4Address(0), IPv4Address(2**32 - 1), IPv6Address(0), IPv6Address(1), IPv6Address(1 << 120)])


@given(st.lists(IPV4) | st.lists(IPV6) | st.lists(IPV4 | IPV6 | SMALL))
def test_each_has_its_text(addresses: list[IPv4Address | IPv6Address]) -> None:
    sized = np.zeros((len(addresses), SIZED_ADDRESS), np.uint8)
    for row, address in zip(sized, addresses, strict=True):
        row[0] = len(address.packed)
        row[1 : 1 + row[0]] = list(address.packed)
    codes, texts = distinct_texts(sized)
    words = [texts.letters[start:end].decode() for start, end in zip(texts.ends, texts.ends[1:], strict=False)]
    assert [words[code] for code in codes.tolist()] == [str(address) for address in addresses]
    assert len(words) == len(set(addresses))
