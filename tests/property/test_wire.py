"""Properties of the wire rules and of what reads them."""

from __future__ import annotations

import dpkt
from hypothesis import given, settings
from hypothesis import strategies as st

from allhops.core.ledger import Ledger
from allhops.model import Protocol
from allhops.wire.checksum import internet_checksum
from allhops.wire.codec import balance, encode_mark, mark_attempt, mark_is_ours, mark_ttl
from allhops.wire.extensions import split_body
from allhops.wire.family import FAMILIES
from benchmarks.replies import Bench, error_about, plan_for, probe_of, valid_replies

KEYS = st.integers(0, 0xFFFF)
TYPES = [(protocol, version) for protocol in Protocol for version in (4, 6)]
REPLIES = {kind: valid_replies(*kind) for kind in TYPES}


@given(ttl=st.integers(1, 255), attempt=st.integers(0, 15), key=KEYS)
def test_a_mark_is_read_as_it_was_written(ttl: int, attempt: int, key: int) -> None:
    mark = encode_mark(ttl, attempt, key)
    assert 0 < mark <= 0xFFFF
    assert (mark_ttl(mark), mark_attempt(mark)) == (ttl, attempt)
    assert mark_is_ours(mark, key)
    assert (mark + balance(mark, key)) % 0xFFFF == key % 0xFFFF


@given(data=st.binary(max_size=200))
def test_the_checksum_is_dpkts(data: bytes) -> None:
    assert internet_checksum(data) == dpkt.in_cksum(data)


@given(kind=st.sampled_from(TYPES), data=st.data())
def test_a_wrong_key_does_not_read_the_marks_of_another(kind: tuple[Protocol, int], data: st.DataObject) -> None:
    key = data.draw(KEYS)
    probe = probe_of(plan_for(*kind, key=key))
    bench = Bench(plan_for(*kind))
    assert bool(bench.receive(error_about(probe))) is (key % 0xFFFF == 0xBEEF)


COLUMNS = [name for name in vars(Ledger(1)) if name not in ("counters", "guesses", "_most_guesses", "_bare_before")]


def columns(ledger: Ledger) -> list[object]:
    return [getattr(ledger, name) for name in COLUMNS]


@settings(max_examples=50)
@given(kind=st.sampled_from(TYPES), data=st.data())
def test_the_ledger_does_not_depend_on_the_order_of_replies(kind: tuple[Protocol, int], data: st.DataObject) -> None:
    plan = plan_for(*kind)
    rows = [(ttl, attempt) for ttl in range(1, 8) for attempt in range(3)]
    replies = [error_about(probe_of(plan, *row)) for row in rows]
    replies += replies[: data.draw(st.integers(0, 5))]
    one, other = Bench(plan), Bench(plan)
    one.receive(*replies)
    other.receive(*data.draw(st.permutations(replies)))
    assert columns(one.ledger) == columns(other.ledger)
    assert one.counters == other.counters


@given(data=st.binary(max_size=400))
def test_nothing_raises_whatever_arrives(data: bytes) -> None:
    bench = Bench(plan_for(Protocol.UDP, 4))
    assert bench.receive(data) == []
    for version in (0x45, 0x60):
        bench.receive(bytes((version,)) + data)
    counters = bench.counters
    assert counters.foreign + counters.malformed == 3


@given(kind=st.sampled_from(TYPES), data=st.data())
def test_a_cut_reply_is_counted_once_and_raises_nothing(kind: tuple[Protocol, int], data: st.DataObject) -> None:
    reply = data.draw(st.sampled_from(REPLIES[kind]))
    bench = Bench(plan_for(*kind))
    bench.receive(reply[: data.draw(st.integers(0, len(reply)))])
    counted = (getattr(bench.counters, name) for name in ("matched", "forged", "foreign", "unnamed", "malformed"))
    assert sum(counted) == 1


@given(version=st.sampled_from([4, 6]), message=st.binary(min_size=8, max_size=400))
def test_extensions_never_raise_and_the_quote_is_a_prefix(version: int, message: bytes) -> None:
    quote, _ = split_body(FAMILIES[version], message)
    assert message[8:].startswith(quote)
