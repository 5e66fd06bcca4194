"""The command line of a batch read into a request: the options of one trace, and those that a list needs."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from allhops.cli.arguments import (
    PACE,
    PROBES,
    WAY_OUT,
    Parser,
    Setting,
    add_backend,
    add_protocols,
    add_values,
    add_versions,
    options_from,
    parse,
    split_off,
)
from allhops.cli.batch.shard import MAX_SHARDS, Shard
from allhops.cli.values import rate, whole_number
from allhops.errors import UsageError
from allhops.options import BATCH_RATE_PPS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from allhops.options import TraceOptions

AUTO: Final = "auto"
STRATEGIES: Final = (AUTO, "parallel", "frugal", "whole")
MAX_RATE_PPS: Final = 10_000_000.0
"""More than one machine sends from one process, in C or in Python: whoever writes more has mistyped it."""
MAX_SEED: Final = 2**64 - 1
PARQUET: Final = ".parquet"
OUTPUT_SUFFIXES: Final = (".jsonl", PARQUET)
STANDARD_OUTPUT: Final = ("-", "/dev/stdout")
"""The second may stand for a regular file, which the shell has opened and nobody can resume."""
SYNTHETIC: Final = "synthetic:"
"""What --simulate begins with: the rest is the seed of a computed internet."""
BACKENDS: Final = ("auto", "ring", "raw", "errqueue")
"""Those of `allhops.net.batch`, which is not imported for --help; the first is the default."""
_BACKENDS = (
    "ring (packet sockets) or raw sockets, which need root, or errqueue, which needs none "
    "(default: auto, the first that is allowed)"
)
_HINT = "allhops batch --help lists the options"
_SHARD = re.compile(r"(\d{1,9})/(\d{1,9})", re.ASCII)
_EPILOG = """\
FILE holds one destination a line: a name, an address, or a prefix such as 192.0.2.0/24, of which every address is
traced, the first and the last included; # begins a comment. - reads standard input.

Exit status: 0 every destination was traced, whatever answered, 1 some lines were no destination or could not be
traced, 2 usage, 3 no permission, 4 local network error on all, 74 output failed, 130 interrupted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """What the user asked for."""

    list_path: str
    """"-" is standard input."""
    options: TraceOptions
    rate_pps: float | None
    """None is as fast as the machine can."""
    backend: str
    strategy: str | None
    """None leaves it to the number of destinations."""
    exclude_path: str | None
    seed: int | None
    """None is a random one."""
    shard: Shard
    output: str | None
    """None is standard output."""
    resume: bool
    force: bool
    simulate: int | None
    """Seed of the computed internet to use; None is the real network."""


def read_batch_arguments(argv: Sequence[str]) -> BatchRequest:
    """The request behind the arguments that follow `batch`.

    Raises: UsageError with one line for the user; SystemExit after --help.
    """
    parser = _parser()
    before, behind = split_off(argv)
    given = parse(parser, before, "FILE")
    lists = (*given.lists, *behind)
    if len(lists) != 1:
        raise UsageError(f"{'no' if not lists else 'more than one'} FILE with destinations ({_HINT})")
    request = BatchRequest(
        list_path=lists[0],
        options=options_from(parser, given),
        rate_pps=getattr(given, "rate", BATCH_RATE_PPS),
        backend=getattr(given, "backend", BACKENDS[0]),
        strategy=_named(getattr(given, "strategy", AUTO)),
        exclude_path=getattr(given, "exclude", None),
        seed=getattr(given, "seed", None),
        shard=getattr(given, "shard", Shard()),
        output=None if given.output in STANDARD_OUTPUT else given.output,
        resume=given.resume,
        force=given.force,
        simulate=getattr(given, "simulate", None),
    )
    _check(request)
    return request


def _check(request: BatchRequest) -> None:
    if request.resume and request.force:
        raise UsageError("--force contradicts --resume: drop one of them")
    if request.output is None:
        if request.resume or request.force:
            raise UsageError(f"{'--resume' if request.resume else '--force'} needs a file of results: name it with -o")
    elif not request.output.endswith(OUTPUT_SUFFIXES) and not request.output.startswith("/dev/"):
        raise UsageError(f"-o {request.output!r}: the name must end in {' or '.join(OUTPUT_SUFFIXES)}")


def _parser() -> Parser:
    parser = Parser(
        _HINT,
        prog="allhops batch",
        usage="allhops batch [options] FILE",
        description="Trace every destination of a list, one JSON object a line as each trace ends.",
        epilog=_EPILOG,
    )
    group = parser.add_argument_group
    _add_destinations(group("destinations"))
    probes = group("probes")
    add_protocols(probes)
    # A batch leases a source port for each window of destinations.
    add_values(tuple(value for value in PROBES if value.field != "source_port"), probes)
    add_values(WAY_OUT, add_backend(group("way out of this machine"), BACKENDS, _BACKENDS))
    add_values(PACE, _add_pace(group("waiting and pace")))
    _add_output(group("output"))
    _add_other(group("other"))
    return parser


def _add_other(group: argparse._ArgumentGroup) -> None:
    text = f"use a computed internet in 16.0.0.0/4, {SYNTHETIC}1 or any other number"
    _add(group, "--simulate", "NAME", text, synthetic)
    group.add_argument("-h", "--help", action="help", help="show this and exit")


def _add(group: Any, flags: str, metavar: str, help: str, read: Any = str, **rest: Any) -> None:
    """An option with a value, absent unless given."""
    group.add_argument(*flags.split(), type=read, action=Setting, metavar=metavar, help=help, **rest)


def _add_destinations(group: argparse._ArgumentGroup) -> None:
    # `*`, not one: the complaint is ours.
    group.add_argument("lists", metavar="FILE", nargs="*", help="destinations, one a line; - for standard input")
    add_versions(group)
    _add(group, "--exclude", "FILE", "prefixes and addresses that are never probed, one a line")
    _add(group, "--shard", "I/N", "only part I (from 1) of N: the same split on every machine", shard)


def _named(strategy: str) -> str | None:
    return None if strategy == AUTO else strategy


def _add_pace(group: argparse._ArgumentGroup) -> argparse._ArgumentGroup:
    text = f"probes a second, or max for what this machine can do (default: {BATCH_RATE_PPS:g})"
    _add(group, "--rate", "PPS", text, batch_rate)
    text = (
        "parallel asks every TTL, whole those that other paths leave in doubt, frugal those that they have not shown "
        "(default: auto, frugal from 100 on)"
    )
    _add(group, "--strategy", "NAME", text, choices=STRATEGIES)
    _add(group, "--seed", "N", "decides the order of the probes (default: a random one)", seed)
    return group


def _add_output(group: argparse._ArgumentGroup) -> None:
    text = "file of results, NAME.jsonl or NAME.parquet (default: standard output, JSON Lines)"
    group.add_argument("-o", "--output", metavar="FILE", help=text)
    group.add_argument("--resume", action="store_true", help="go on with a file of results that was cut short")
    group.add_argument("--force", action="store_true", help="begin anew, whatever is in the file of results")


def batch_rate(text: str) -> float | None:
    """Probes a second; None for "max"."""
    if text == "max":
        return None
    pps = rate(text)
    if pps > MAX_RATE_PPS:
        raise ArgumentTypeError(f"{text} probes a second are more than a machine can send: write max")
    return pps


def synthetic(text: str) -> int:
    """The seed of a computed internet."""
    if not text.startswith(SYNTHETIC):
        raise ArgumentTypeError(f"write {SYNTHETIC}1 or another number, not {text!r}")
    return seed(text.removeprefix(SYNTHETIC))


def seed(text: str) -> int:
    """A whole number of 64 bits."""
    number = whole_number(text)
    if not 0 <= number <= MAX_SEED:
        raise ArgumentTypeError(f"write a whole number from 0 to {MAX_SEED}, not {text!r}")
    return number


def shard(text: str) -> Shard:
    """Part i of n.

    >>> shard("2/4")
    Shard(index=2, count=4)
    """
    match = _SHARD.fullmatch(text)
    index, count = map(int, match.groups()) if match is not None else (0, 0)
    if not 1 <= index <= count <= MAX_SHARDS:
        raise ArgumentTypeError(f"write I/N, as in 1/4, with I from 1 to N and N at most {MAX_SHARDS:,}, not {text!r}")
    return Shard(index, count)
