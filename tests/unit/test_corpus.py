"""Packets that broke something once, here or elsewhere: one file each in tests/corpus, replayed for ever.

A file is hexadecimal with `#` comments; one that begins with `# counts: name` says which counter its packet must move.
"""

from __future__ import annotations

import pathlib

import pytest

from allhops.model import Protocol
from benchmarks.replies import Bench, plan_for

CORPUS = sorted((pathlib.Path(__file__).parents[1] / "corpus").glob("*.hex"))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_the_corpus_raises_nothing(path: pathlib.Path) -> None:
    lines = path.read_text().splitlines()
    packet = bytes.fromhex("".join(line for line in lines if not line.startswith("#")))
    for protocol in Protocol:
        for version in (4, 6):
            Bench(plan_for(protocol, version)).receive(packet)
    wanted = [line.partition(":")[2].strip() for line in lines if line.startswith("# counts:")]
    bench = Bench(plan_for(Protocol.UDP, packet[0] >> 4))
    bench.receive(packet)
    for name in wanted:
        assert getattr(bench.counters, name) == 1


def test_the_corpus_is_there() -> None:
    assert len(CORPUS) >= 12
