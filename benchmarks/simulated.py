"""`allhops batch` with a synthetic internet in the place of the network: `simulated MODEL OPTION ... FILE`.

MODEL is a JSON object: the arguments of `SyntheticInternet`. No socket, no root; everything else is as in the command,
so memory and CPU have the simulation's in them.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from allhops.cli.batch import run as batch_run
from allhops.cli.batch.arguments import read_batch_arguments
from allhops.errors import AllhopsError
from allhops.net.batch.engine import Batch
from allhops.testing import SyntheticInternet
from allhops.testing.fakewire import FakeWire

if TYPE_CHECKING:
    from allhops.cli.batch.arguments import BatchRequest


def main() -> int:
    """Run it; the command's exit status."""
    internet = SyntheticInternet(**json.loads(sys.argv[1]))

    def open_engine(request: BatchRequest) -> Batch:
        return Batch(
            request.options,
            strategy=request.strategy,
            rate_pps=request.rate_pps,
            seed=request.seed,
            wire=FakeWire(internet),
        )

    batch_run.open_engine = open_engine
    try:
        return batch_run.run(read_batch_arguments(sys.argv[2:]))
    except AllhopsError as error:
        print(f"allhops: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
