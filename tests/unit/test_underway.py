"""Packets under way come in order of arrival, each once, whatever the times and whenever one looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from allhops.testing.underway import FIRST_ROOM, SPAN_NS, Underway

if TYPE_CHECKING:
    from numpy.typing import NDArray


def packet(number: int, length: int) -> bytes:
    return number.to_bytes(4, "big").ljust(length, b"\xff")


def rows(packets: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(packets), np.uint8).reshape(len(packets), -1)


Batches = st.lists(
    st.tuples(
        st.lists(st.integers(0, 4 * SPAN_NS), min_size=1, max_size=6),
        st.integers(4, 12),
        st.integers(0, 5 * SPAN_NS),
        st.integers(0, 8),
    ),
    max_size=12,
)


@given(Batches)
def test_what_is_taken_is_what_a_sorted_list_would_give(batches: list[tuple[list[int], int, int, int]]) -> None:
    underway, expected, number = Underway(), list[tuple[int, bytes]](), 0
    for times, length, now_ns, most in batches:
        packets = [packet(number + index, length) for index in range(len(times))]
        number += len(times)
        underway.add(np.array(times, np.int64), rows(packets))
        expected += zip(times, packets, strict=True)
        expected.sort(key=lambda one: one[0])
        assert underway.next_ns() == expected[0][0]
        due = [one for one in expected if one[0] <= now_ns][:most]
        got = underway.take(now_ns, most)
        assert got.at_ns.tolist() == [at_ns for at_ns, _ in due]
        taken = [row[:length].tobytes() for row, length in zip(got.packets, got.lengths.tolist(), strict=True)]
        times_of = {bytes_: at_ns for at_ns, bytes_ in expected}
        assert [times_of[one] for one in taken] == [at_ns for at_ns, _ in due]
        assert len(set(taken)) == len(taken)
        expected = [one for one in expected if one[1] not in set(taken)]
        assert len(underway) == len(expected)
        if not expected:
            assert underway.next_ns() is None


def test_there_is_room_for_more_than_at_first() -> None:
    underway = Underway()
    count = 5 * FIRST_ROOM
    numbers = np.arange(count)
    underway.add(numbers[::-1].astype(np.int64), rows([packet(number, 8) for number in range(count)]))
    got = underway.take(count, 2 * count)
    assert got.packets[:, :4].copy().view(">u4")[:, 0].tolist() == numbers[::-1].tolist()
    assert len(underway) == 0
    assert underway.next_ns() is None
