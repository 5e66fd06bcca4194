"""The command. Its parts are imported when they are needed: start-up is most of what a short trace costs."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run `allhops` with these arguments, or the process's own; the exit status (see `allhops.cli.status`)."""
    if argv is None:  # a process of our own
        gc.disable()  # until `run_in_loop`: importing makes no garbage, and looking for it costs 10 ms
    try:
        from allhops.cli.command import command

        return command(argv)
    except KeyboardInterrupt:  # while still importing: from then on the trace itself takes Ctrl-C
        return 130
