from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.wire.checksum import fold, internet_checksum, pseudo_header_sum, word_sum


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        ("0001f203f4f5f6f7", 0x220D),  # RFC 1071 section 3: the sum is ddf2
        ("", 0xFFFF),
        ("00", 0xFFFF),
        ("ffff", 0x0000),
        ("01", 0xFEFF),  # odd data is padded with a zero byte
    ],
)
def test_known_sums(data: str, checksum: int) -> None:
    assert internet_checksum(bytes.fromhex(data)) == checksum


@given(st.binary(max_size=200))
def test_equals_dpkt(data: bytes) -> None:
    assert internet_checksum(data) == dpkt.in_cksum(data)


@given(st.binary(min_size=2, max_size=200).filter(lambda data: len(data) % 2 == 0))
def test_data_with_its_checksum_sums_to_zero(data: bytes) -> None:
    whole = data + internet_checksum(data).to_bytes(2, "big")
    assert internet_checksum(whole) == 0


@given(st.lists(st.integers(0, 0xFFFF), max_size=1000))
def test_fold_is_end_around_carry(words: list[int]) -> None:
    assert fold(sum(words)) % 0xFFFF == sum(words) % 0xFFFF
    assert 0 <= fold(sum(words)) <= 0xFFFF


def test_pseudo_header_counts_every_field() -> None:
    source, destination = bytes([10, 0, 0, 1]), bytes([192, 0, 2, 9])
    as_bytes = source + destination + bytes([0, 17]) + (40).to_bytes(2, "big")
    assert fold(pseudo_header_sum(source, destination, 17, 40)) == word_sum(as_bytes)
