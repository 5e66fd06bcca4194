"""Which responder was met at which TTL, by whom first, and who came before: what Doubletree calls the local stop set.

An entry is a responder *at a TTL*: a router that two courses met at different TTLs lies on two paths that differ
before it, and one of them says nothing about the other. An entry names its donor, the destination of the course that
measured it, and its parent, the entry of the next lower TTL at which that course, or a later one, heard somebody. So
each hop that a course inherits carries who measured it. This file knows no packet and no clock.

Columns of one number an entry, and a hash table of positions with linear probing: 30 bytes an entry with IPv4, 54 with
IPv6. What is full begins anew: it costs probes, not truth.

Source: Donnet et al., "Efficient Algorithms for Large-Scale Topology Discovery" (SIGMETRICS 2005).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Words: TypeAlias = "NDArray[np.uint64] | NDArray[np.uint32]"
"""(n, words): addresses as few numbers each, see `words_of`."""
NOBODY = -1
"""For an entry: there is none."""
CAPACITY_BYTES = 28_000_000
"""Of columns and hash table. Pages that hold no entry yet are not in memory."""
MOST_FULL = 0.7
"""Share of the hash table's places that are taken before it is made twice as large."""
_FIRST_PLACES = 1 << 12
_MOST = 255
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STIR = np.uint64(0xBF58476D1CE4E5B9)


class Met(NamedTuple):
    """Routers at TTLs, one course after the other, each from its nearest; m of them."""

    address: Words
    ttl: NDArray[np.uint8]


def words_of(packed: NDArray[np.uint8], size: int) -> Words:
    """(..., 16) left-aligned addresses as (..., 1) or (..., 2) numbers in the machine's order.

    >>> words_of(np.array([[10, 0, 0, 1] + [0] * 12], np.uint8), 4).view(np.uint8).tolist()
    [[10, 0, 0, 1]]
    """
    if size == 4:
        return np.ascontiguousarray(packed[..., :4]).view(np.uint32)
    return np.ascontiguousarray(packed).view(np.uint64)


def bytes_of(words: Words) -> NDArray[np.uint8]:
    """The opposite of `words_of`."""
    packed = np.zeros((*words.shape[:-1], 16), np.uint8)
    raw = np.ascontiguousarray(words).view(np.uint8)
    packed[..., : raw.shape[-1]] = raw
    return packed


class StopSet:
    """Entries of one family; `size` is that of an address, bytes."""

    def __init__(self, size: int, capacity_bytes: int = CAPACITY_BYTES) -> None:
        self.size = size
        self._words, word = (1, np.uint32) if size == 4 else (2, np.uint64)
        entry_bytes = 2 * size + 4 + 10 + 4 * 2
        self.capacity = max(capacity_bytes // entry_bytes, 2)
        self.address = np.empty((self.capacity, self._words), word)
        self.donor = np.empty((self.capacity, self._words), word)
        self.ttl = np.empty(self.capacity, np.uint8)
        self.parent = np.empty(self.capacity, np.int32)
        self.flows = np.empty(self.capacity, np.uint8)
        """How many courses have met it."""
        self.reach = np.empty(self.capacity, np.uint8)
        """How many hops farther the path of one of them went."""
        self.leap = np.empty(self.capacity, np.uint8)
        """How many rows farther the next answer was at most, all rows in between having been asked in vain."""
        self.ends = np.empty(self.capacity, np.uint8)
        """How many courses it was the last answer of, the destination being silent."""
        self.is_sounded = np.empty(self.capacity, np.bool_)
        """Whether a course was sent to ask all rows beyond it, up to the gap limit."""
        self.silences = np.empty(self.capacity, np.uint8)
        """How many courses that have met it met silence right before it."""
        self.looks = np.empty(self.capacity, np.int16)
        """How many courses are under way to look beside it, or right before it (looks.py)."""
        self.is_branch = np.empty(self.capacity, np.bool_)
        """Whether another responder was met at its TTL before one and the same entry: a load balancer's branches."""
        self._clear()

    def __len__(self) -> int:
        return self._count

    def _clear(self) -> None:
        self._count = 0
        self._places = np.zeros(_FIRST_PLACES, np.int32)

    def make_room(self, entries: int) -> bool:
        """Begin anew if so many entries more have no room; whether that was so."""
        is_full = self._count + entries > self.capacity
        if is_full:
            self._clear()
        return is_full

    def find(self, met: Met) -> NDArray[np.int32]:
        """(m,): entries, `NOBODY` for none."""
        found = np.full(len(met.ttl), NOBODY, np.int32)
        mask = len(self._places) - 1
        place = (self._hash(met) & np.uint64(mask)).astype(np.int64)
        wanted = np.arange(len(found))
        while len(wanted):
            entry = self._places[place] - 1
            taken = entry >= 0
            wanted, entry, place = wanted[taken], entry[taken], place[taken]
            same = (self.ttl[entry] == met.ttl[wanted]) & (self.address[entry] == met.address[wanted]).all(axis=1)
            found[wanted[same]] = entry[same]
            wanted, place = wanted[~same], (place[~same] + 1) & mask
        return found

    def enter(self, met: Met, known: NDArray[np.int32], course: NDArray[np.int64], donor: Words) -> NDArray[np.int32]:
        """Learn what courses have met, `donor` being their destinations; each one's entry, `NOBODY` for no room.

        `known` is what `find` says of them.
        """
        entry = known.copy()
        unknown = np.flatnonzero(entry == NOBODY)
        if len(unknown):
            self._add(met, donor, unknown, entry)
        before = np.full(len(entry), NOBODY, np.int32)
        same_course = course[1:] == course[:-1]
        before[1:][same_course] = entry[:-1][same_course]
        orphans = np.flatnonzero((entry >= 0) & (before >= 0))
        orphans = orphans[self.parent[entry[orphans]] == NOBODY][::-1]
        self.parent[entry[orphans]] = before[orphans]
        return entry

    def _add(self, met: Met, donor: Words, unknown: NDArray[np.int64], entry: NDArray[np.int32]) -> None:
        digest = self._hash(Met(met.address[unknown], met.ttl[unknown]))
        _, first, which = np.unique(digest, return_index=True, return_inverse=True)
        first = unknown[first]
        if self._count + len(first) > self.capacity:
            return
        entries = np.arange(self._count, self._count + len(first), dtype=np.int32)
        self.address[entries], self.ttl[entries] = met.address[first], met.ttl[first]
        self.donor[entries], self.parent[entries] = donor[first], NOBODY
        for counter in (self.flows, self.reach, self.leap, self.ends, self.silences, self.looks):
            counter[entries] = 0
        self.is_branch[entries] = self.is_sounded[entries] = False
        self._count += len(first)
        least = int(self._count / MOST_FULL)
        if least > len(self._places):
            self._places = np.zeros(1 << least.bit_length(), np.int32)
            self._place(np.arange(self._count, dtype=np.int32))
        else:
            self._place(entries)
        found = entries[which]
        # Two IPv6 routers with one digest: the second stays unknown.
        same = (self.address[found] == met.address[unknown]).all(axis=1) & (self.ttl[found] == met.ttl[unknown])
        entry[unknown[same]] = found[same]

    def _place(self, entries: NDArray[np.int32]) -> None:
        mask = len(self._places) - 1
        digest = self._hash(Met(self.address[entries], self.ttl[entries]))
        place = (digest & np.uint64(mask)).astype(np.int64)
        while len(entries):
            free = self._places[place] == 0
            self._places[place[free]] = entries[free] + 1
            homeless = self._places[place] != entries + 1
            entries, place = entries[homeless], (place[homeless] + 1) & mask

    def count(self, entries: NDArray[np.int32], reach: NDArray[np.int64], silent: NDArray[np.int64]) -> None:
        """One course more has met each of these, its path went so many hops farther, and `silent` rows came before."""
        _add_one(self.flows, entries)
        _add_one(self.silences, entries[silent > 0])
        np.maximum.at(self.reach, entries, np.clip(reach, 0, _MOST).astype(np.uint8))

    def count_ends(self, entries: NDArray[np.int32]) -> None:
        """One course more has heard nobody beyond each of these."""
        _add_one(self.ends, entries)

    def count_leaps(self, entries: NDArray[np.int32], rows: NDArray[np.int64]) -> None:
        """After each of these the next answer was so many rows farther."""
        np.maximum.at(self.leap, entries, np.minimum(rows, _MOST).astype(np.uint8))

    def _hash(self, met: Met) -> NDArray[np.uint64]:
        digest = met.address[:, 0].astype(np.uint64)
        if self._words == 2:
            digest ^= (met.address[:, 1].astype(np.uint64) * _GOLDEN) ^ (digest >> np.uint64(29))
            digest *= _STIR
        digest ^= met.ttl.astype(np.uint64) << np.uint64(40)
        digest *= _GOLDEN
        digest ^= digest >> np.uint64(32)
        digest *= _STIR
        digest ^= digest >> np.uint64(29)
        return digest


def _add_one(counter: NDArray[np.uint8], entries: NDArray[np.int32]) -> None:
    touched, more = np.unique(entries, return_counts=True)
    counter[touched] = np.minimum(counter[touched] + more, _MOST)
