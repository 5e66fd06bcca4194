"""The judge of the batch benchmarks: what is right, wrong, missed; what counts as an address or a link."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.findings import Coverage, Verdict, coverage, gather, judge

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEAR, FAR, OTHER = 1, 2, 3
HOST, DEAD = 100, 200
PORT = 33_434


def found(*rows: tuple[int, int, int]) -> NDArray[np.int64]:
    """(destination, TTL, responder) of one flow."""
    return np.array([(to, 40_000, PORT, ttl, who, 1_000) for to, ttl, who in rows], np.int64).reshape(-1, 6)


def truth(
    destination: NDArray[np.uint32], source_port: NDArray[np.uint16], destination_port: NDArray[np.uint16]
) -> NDArray[np.uint32]:
    """Near, silence, far, and the host if it is alive."""
    paths = np.tile(np.array([NEAR, 0, FAR, HOST], np.uint32), (len(destination), 1))
    paths[destination == DEAD, 3] = 0
    return paths


ASKED = np.array([DEAD, HOST], np.uint32)


def verdict(*rows: tuple[int, int, int], max_ttl: int = 30) -> Verdict:
    return judge(gather(found(*rows)), truth, ASKED, max_ttl)


def test_every_answering_hop_found_is_right_and_complete() -> None:
    rows = [(HOST, 4, HOST), (HOST, 1, NEAR), (HOST, 3, FAR), (DEAD, 3, FAR), (DEAD, 1, NEAR)]
    assert verdict(*rows) == Verdict(right=5, wrong=0, missed=0, complete=2)


def test_a_responder_at_another_ttl_is_wrong_and_its_own_is_missed() -> None:
    rows = [(HOST, 1, NEAR), (HOST, 2, FAR), (HOST, 4, HOST), (DEAD, 1, NEAR), (DEAD, 3, FAR)]
    assert verdict(*rows) == Verdict(right=4, wrong=1, missed=1, complete=1)


def test_two_responders_at_one_ttl_are_not_both_right() -> None:
    rows = [(DEAD, 1, NEAR), (DEAD, 1, OTHER), (DEAD, 3, FAR)]
    assert verdict(*rows)[:2] == (2, 1)


def test_what_was_never_asked_is_wrong() -> None:
    assert verdict((300, 1, NEAR)) == Verdict(right=0, wrong=1, missed=5, complete=0)


def test_nothing_found_misses_all_up_to_the_largest_ttl_asked() -> None:
    assert verdict() == Verdict(right=0, wrong=0, missed=5, complete=0)
    assert verdict(max_ttl=1).missed == 2


def test_a_destination_counts_at_its_nearest_ttl_and_what_is_said_twice_once() -> None:
    findings = gather(found((HOST, 6, HOST), (HOST, 4, HOST), (HOST, 5, HOST), (HOST, 1, NEAR), (HOST, 1, NEAR)))
    assert list(zip(findings.ttl.tolist(), findings.responder.tolist(), strict=True)) == [(1, NEAR), (4, HOST)]


def flows(*rows: tuple[int, int]) -> NDArray[np.int64]:
    """(destination, source port)."""
    return np.array([(to, source, PORT) for to, source in rows], np.int64).reshape(-1, 3)


def balanced(
    destination: NDArray[np.uint32], source_port: NDArray[np.uint16], destination_port: NDArray[np.uint16]
) -> NDArray[np.uint32]:
    """As the truth, but that flows of odd source ports meet another router far away."""
    paths = truth(destination, source_port, destination_port)
    paths[:, 2] = np.where(source_port % 2 == 0, FAR, OTHER)
    return paths


def test_coverage_is_of_what_answers_on_the_tools_own_flows() -> None:
    asked = flows((HOST, 40_000), (DEAD, 40_000))
    assert coverage(gather(found()), asked, balanced, 30) == Coverage(findable=3, found=0)
    everything = gather(found((HOST, 1, NEAR), (DEAD, 3, FAR), (HOST, 4, HOST)))
    assert coverage(everything, asked, balanced, 30) == Coverage(findable=3, found=3)
    assert coverage(everything, asked, balanced, 30).percent == 100
    both = flows((HOST, 40_000), (DEAD, 40_001))
    assert coverage(everything, both, balanced, 30) == Coverage(findable=4, found=3)
    assert coverage(everything, both, balanced, 30).percent == 75


def test_what_is_on_no_flow_of_the_tool_or_too_far_to_be_asked_does_not_count() -> None:
    odd = flows((HOST, 40_001))
    findings = gather(found((HOST, 1, NEAR), (HOST, 3, FAR), (HOST, 4, HOST), (300, 1, 301)))
    assert coverage(findings, odd, balanced, 30) == Coverage(findable=3, found=2)
    assert coverage(findings, odd, balanced, 3) == Coverage(findable=2, found=1)
    assert coverage(findings, flows(), balanced, 30).percent == 0


def test_a_link_joins_neighbouring_ttls_of_one_destination() -> None:
    rows = [(HOST, 3, FAR), (HOST, 4, HOST), (HOST, 1, NEAR), (DEAD, 2, OTHER), (DEAD, 3, FAR)]
    findings = gather(found(*rows))
    assert findings.links() == 2, "far - host and other - far; near and far are two apart"
    assert findings.addresses() == 4
