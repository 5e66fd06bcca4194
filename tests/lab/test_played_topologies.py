"""Generated internets behind a TUN device, with their real delays: both back ends, every protocol, both families.

All 500 of them: python -m benchmarks.topologies --count 500 --backend errqueue (or raw).
"""

from __future__ import annotations

import pytest

from allhops.model import Protocol
from benchmarks.topologies import play

pytestmark = pytest.mark.lab

COUNTS = {"errqueue": 60, "raw": 30}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize("backend", COUNTS)
def test_no_address_and_no_ttl_is_wrong(
    backend: str, protocol: Protocol, version: int, capsys: pytest.CaptureFixture[str]
) -> None:
    score = play(range(COUNTS[backend]), backend, protocol, version)
    with capsys.disabled():
        print(f"\n{score}")
    assert score.wrong == []
