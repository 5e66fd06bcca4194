"""The command line read into a request: letters as in traceroute(8), bounds as in `TraceOptions`."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from allhops import __version__
from allhops.errors import UsageError
from allhops.model import Protocol
from allhops.options import TraceOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_HINT = "allhops --help lists the options"
_EPILOG = (
    "Exit status: 0 reached, 1 not reached, 2 usage, 3 no permission, 4 local network error, "
    "74 output failed, 130 interrupted."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for."""

    hosts: tuple[str, ...]
    options: TraceOptions
    numeric: bool
    output: str
    """A name in `allhops.output.FORMATS`."""
    rate_pps: float | None
    simulate: str | None
    """A scenario file, or the name of a bundled one; None is the real network."""


def read_arguments(argv: Sequence[str]) -> Request:
    """The request behind the arguments.

    Raises: UsageError with one line for the user; SystemExit after --help and --version.
    """
    parser = _parser()
    before, behind = _split(argv)
    given, unknown = parser.parse_known_intermixed_args(before)
    if unknown:
        raise UsageError(f"{unknown[0]}: no such option ({_HINT}); write -- before a HOST that begins with -")
    hosts = (*given.hosts, *behind)
    if not hosts:
        raise UsageError(f"no HOST to trace ({_HINT})")
    return Request(
        hosts=hosts,
        options=_options(parser, given),
        numeric=given.numeric,
        output=given.output,
        rate_pps=given.rate,
        simulate=given.simulate,
    )


def _split(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Arguments before and behind `--`: those behind are hosts, whatever they look like."""
    cut = argv.index("--") if "--" in argv else len(argv)
    return argv[:cut], argv[cut + 1 :]


def _options(parser: argparse.ArgumentParser, given: argparse.Namespace) -> TraceOptions:
    """The given ones; the rest have their defaults in one place, `TraceOptions`."""
    names = {field.name for field in fields(TraceOptions)}
    try:
        return TraceOptions(**{name: value for name, value in vars(given).items() if name in names})
    except UsageError as error:
        raise UsageError(_in_letters(parser, str(error))) from None


def _in_letters(parser: argparse.ArgumentParser, sentence: str) -> str:
    """A sentence about fields of `TraceOptions` with the options that the user typed in their place."""
    letters = {action.dest: "/".join(action.option_strings) for action in parser._actions if action.option_strings}
    return re.sub(r"\w+", lambda word: letters.get(word[0], word[0]), sentence)


class _Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose complaint is one line, written by whoever catches it."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')} ({_HINT})")


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"write a whole number, not {text!r}") from None


def _byte(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"write a number from 0 to 255, as in 184 or 0xb8, not {text!r}") from None


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"write seconds, as in 1.5, not {text!r}") from None


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not (math.isfinite(rate) and rate > 0):
        raise argparse.ArgumentTypeError(f"write probes a second, more than 0, not {text!r}")
    return rate


class _Value(NamedTuple):
    """An option whose value is a field of `TraceOptions`, which checks it and has its default."""

    field: str
    flags: str
    metavar: str
    help: str
    """`{}` in it becomes the default."""
    read: Callable[[str], object] = _whole_number


_PROBES = (
    _Value("attempts", "-q --attempts", "N", "probes for each TTL (default: {})"),
    _Value("first_ttl", "-f --first-ttl", "TTL", "TTL to start with (default: {})"),
    _Value("max_ttl", "-m --max-ttl", "TTL", "largest TTL (default: {})"),
    _Value("destination_port", "-p --port", "PORT", "destination port, the same for every probe (default: {})"),
    _Value("source_port", "--source-port", "PORT", "source port (default: a random one)"),
    _Value("size", "--size", "BYTES", "size of a whole probe (default: 60, for IPv6 80)"),
    _Value("tos", "-t --tos", "TOS", "type of service or traffic class, as in 184 or 0xb8 (default: {})", _byte),
)
_WAY_OUT = (
    _Value("source", "-s --source", "ADDR", "source address (default: the route's)", str),
    _Value("interface", "-i --interface", "NAME", "interface to send by (default: the route's)", str),
)
_PACE = (
    _Value("timeout", "-w --wait", "MAX", "longest wait for a reply, seconds (default: {:g})", _seconds),
    _Value("gap_limit", "--gap-limit", "N", "silent hops in a row that end a path (default: {})"),
)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="allhops",
        usage="allhops [options] HOST...",
        description="Show the path to each HOST, every hop at once.",
        epilog=_EPILOG,
        allow_abbrev=False,
        add_help=False,
    )
    group = parser.add_argument_group
    _add_destinations(group("destinations"))
    _add_values(_PROBES, _add_protocols(group("probes")))
    _add_values(_WAY_OUT, group("way out of this machine"))
    _add_values(_PACE, _add_rate(group("waiting and pace")))
    _add_output(group("output"))
    _add_other(group("other"))
    return parser


def _add_values(values: tuple[_Value, ...], group: argparse._ArgumentGroup) -> None:
    """Options that are absent unless given: `TraceOptions` has the defaults."""
    defaults = TraceOptions()
    for value in values:
        group.add_argument(
            *value.flags.split(),
            dest=value.field,
            type=value.read,
            default=argparse.SUPPRESS,
            metavar=value.metavar,
            help=value.help.format(getattr(defaults, value.field)),
        )


def _add_choice(group: Any, flags: str, field: str, const: object, help: str) -> None:
    """An option without a value that chooses one for a field of `TraceOptions`."""
    group.add_argument(
        *flags.split(), dest=field, action="store_const", const=const, default=argparse.SUPPRESS, help=help
    )


def _add_destinations(group: argparse._ArgumentGroup) -> None:
    # `*`, not `+`: the complaint about no host is ours.
    group.add_argument("hosts", metavar="HOST", nargs="*", help="name or address; several are traced at once")
    versions = group.add_mutually_exclusive_group()
    _add_choice(versions, "-4", "ip_version", 4, "use IPv4 only")
    _add_choice(versions, "-6", "ip_version", 6, "use IPv6 only")


def _add_protocols(group: argparse._ArgumentGroup) -> argparse._ArgumentGroup:
    _add_choice(group, "-U --udp", "protocol", Protocol.UDP, "probe with UDP (the default)")
    return group


def _add_rate(group: argparse._ArgumentGroup) -> argparse._ArgumentGroup:
    text = "probes a second, all HOSTs together (default: no limit for one, 5000 for several)"
    group.add_argument("--rate", type=_rate, metavar="PPS", help=text)
    return group


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-n", dest="numeric", action="store_true", help="addresses only, no names")
    group.add_argument(
        "--json",
        dest="output",
        action="store_const",
        const="json",
        default="text",
        help="one JSON object a line a HOST",
    )


def _add_other(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--simulate", metavar="FILE", help="use a simulated internet: a scenario file, or a bundled one such as demo"
    )
    group.add_argument("--version", action="version", version=f"allhops {__version__}", help="show it and exit")
    group.add_argument("-h", "--help", action="help", help="show this and exit")
