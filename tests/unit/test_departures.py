"""When each probe left, of what is known by the slice."""

from __future__ import annotations

from allhops.core.lanes import Block
from allhops.core.lanes.departures import departures

SECOND_NS = 1_700_000_000_000_000_000
"""Too large for a float to tell nanoseconds apart."""


def made_block(*marks: tuple[int, int]) -> Block:
    block = Block(range(10), bytearray(10), 1)
    block.marks += [(handed, SECOND_NS + since_ns) for handed, since_ns in marks]
    return block


def since(block: Block, first: int, last: int) -> list[int]:
    return [stamp_ns - SECOND_NS for stamp_ns in departures(block, first, last).tolist()]


def test_between_two_marks_they_left_one_after_the_other() -> None:
    block = made_block((0, 1), (4, 401), (4, 401), (6, 1_401))
    assert since(block, 0, 6) == [1, 101, 201, 301, 401, 901]
    assert since(block, 3, 5) == [301, 401]


def test_what_came_after_a_pause_left_after_it() -> None:
    block = made_block((0, 0), (2, 200), (2, 9_000), (4, 9_200))
    assert since(block, 0, 4) == [0, 100, 9_000, 9_100]


def test_a_clock_that_was_set_back_in_between_moves_only_what_left_after_that() -> None:
    block = made_block((0, 0), (2, 200), (2, -5_000), (4, -4_800))
    assert since(block, 0, 4) == [0, 100, -5_000, -4_900]


def test_without_marks_each_has_a_stamp_of_its_own() -> None:
    block = made_block()
    block.sent_ns[3], block.sent_ns[4] = SECOND_NS + 7, SECOND_NS + 5
    assert since(block, 3, 5) == [7, 5]
