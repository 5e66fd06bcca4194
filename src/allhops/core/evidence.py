"""What a reply was matched on and what is odd about it, as bits of two bytes and of one: columns in the ledger.

This file knows no packet.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from allhops.model import Evidence, ReplyFlag

if TYPE_CHECKING:
    from collections.abc import Iterable

EVIDENCE_BIT = {evidence: 1 << position for position, evidence in enumerate(Evidence)}
FLAG_BIT = {flag: 1 << position for position, flag in enumerate(ReplyFlag)}

SHORT_QUOTE = FLAG_BIT[ReplyFlag.SHORT_QUOTE]
NAT = FLAG_BIT[ReplyFlag.NAT]
ALT_ADDR = FLAG_BIT[ReplyFlag.ALT_ADDR]
DUPLICATE = FLAG_BIT[ReplyFlag.DUPLICATE]
SPOOF_SUSPECT = FLAG_BIT[ReplyFlag.SPOOF_SUSPECT]
DIRECT = 0x80
"""Private: an answer of the destination's own, which quotes nothing."""


def bits_of(evidence: Iterable[Evidence]) -> int:
    """The bits that say all of these."""
    return sum({EVIDENCE_BIT[one] for one in evidence})


@lru_cache(maxsize=1024)  # traces of a batch have few different ones
def evidence_in(bits: int) -> tuple[Evidence, ...]:
    """What an entry of the `matched` column says.

    >>> [str(one) for one in evidence_in(0b1001)]
    ['dst', 'cookie']
    """
    return tuple(evidence for evidence, bit in EVIDENCE_BIT.items() if bits & bit)


@lru_cache(maxsize=256)
def flags_in(bits: int) -> tuple[ReplyFlag, ...]:
    """What a byte of the `flags` column says."""
    return tuple(flag for flag, bit in FLAG_BIT.items() if bits & bit)
