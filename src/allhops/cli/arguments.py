"""The command line read into a request: letters as in traceroute(8), bounds as in `TraceOptions`."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from allhops import __version__
from allhops.cli.values import byte, dscp, flow_label, rate, seconds, whole_number
from allhops.errors import UsageError
from allhops.model import Protocol
from allhops.options import DEFAULT_PORTS, TraceOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BACKENDS = ("auto", "raw", "errqueue")
"""Those of `allhops.net.prober`, which is not imported for --help; the first is the default."""
_BACKENDS = "raw sockets, which need root, or errqueue, which needs none (default: auto, raw where it is allowed)"
_HINT = "allhops --help lists the options"
_GIVEN_BY = "given_by"
_CONTRADICTIONS = (("interface", "simulate"), ("backend", "simulate"), ("discover_mtu", "size"))
"""What makes no sense together, besides options for the same thing (-4 and -6) and what `TraceOptions` refuses."""
_FIELD_NAME = re.compile(r"\w+_\w+|^\w+(?= must be )")
"""Where a sentence names a field: one that is an English word as well only in front of its bounds."""
_EPILOG = (
    "Exit status: 0 reached, 1 not reached, 2 usage, 3 no permission, 4 local network error,\n"
    "74 output failed, 130 interrupted."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for."""

    hosts: tuple[str, ...]
    options: TraceOptions
    numeric: bool
    extensions: bool
    """Whether the text shows ICMP extensions."""
    output: str
    """A name in `allhops.output.FORMATS`."""
    rate_pps: float | None
    backend: str
    """A name in `BACKENDS`."""
    simulate: str | None
    """A scenario file, or the name of a bundled one; None is the real network."""


def read_arguments(argv: Sequence[str]) -> Request:
    """The request behind the arguments.

    Raises: UsageError with one line for the user; SystemExit after --help and --version.
    """
    parser = _parser()
    before, behind = split_off(argv)
    given = parse(parser, before, "HOST")
    hosts = (*given.hosts, *behind)
    if not hosts:
        raise UsageError(f"no HOST to trace ({_HINT})")
    return Request(
        hosts=hosts,
        options=options_from(parser, given),
        numeric=given.numeric,
        extensions=given.extensions,
        output=given.output,
        rate_pps=given.rate,
        backend=getattr(given, "backend", BACKENDS[0]),
        simulate=getattr(given, "simulate", None),
    )


def split_off(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Arguments before and behind `--`: those behind are no options, whatever they look like."""
    cut = argv.index("--") if "--" in argv else len(argv)
    return argv[:cut], argv[cut + 1 :]


def parse(parser: Parser, arguments: Sequence[str], what: str) -> argparse.Namespace:
    """What was given; `what` is the parser's word for what is no option. Raises: UsageError."""
    given, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        raise UsageError(f"{unknown[0]}: no such option ({parser.hint}); write -- before a {what} that begins with -")
    _check_contradictions(given)
    return given


def _check_contradictions(given: argparse.Namespace) -> None:
    """Refuse what one of the options given makes meaningless, instead of ignoring it."""
    by = _given_by(given)
    for one, other in _CONTRADICTIONS:
        if one in by and other in by:
            raise UsageError(_contradiction(by[one], by[other]))


def _contradiction(one: str, other: str) -> str:
    return f"{one} contradicts {other}: drop one of them"


def options_from(parser: argparse.ArgumentParser, given: argparse.Namespace) -> TraceOptions:
    """The given ones; the rest have their defaults in one place, `TraceOptions`."""
    names = {field.name for field in fields(TraceOptions)}
    try:
        return TraceOptions(**{name: value for name, value in vars(given).items() if name in names})
    except UsageError as error:
        raise UsageError(_in_letters(parser, str(error))) from None


def in_letters(sentence: str) -> str:
    """A sentence of the library's about fields of `TraceOptions` with the command's options in their place."""
    return _in_letters(_parser(), sentence)


def option_of(field: str) -> str:
    """The option whose value becomes a field of `TraceOptions`; the field where options without a value choose it."""
    options = (action for action in _parser()._actions if action.dest == field and action.nargs != 0)
    return next(("/".join(action.option_strings) for action in options), field)


def _in_letters(parser: argparse.ArgumentParser, sentence: str) -> str:
    letters: dict[str, str] = {}
    for action in parser._actions:
        letters.setdefault(action.dest, "/".join(action.option_strings))
    return _FIELD_NAME.sub(lambda word: letters.get(word[0]) or word[0], sentence)


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose complaint is one line with a hint, written by whoever catches it."""

    def __init__(self, hint: str, **rest: Any) -> None:
        super().__init__(
            allow_abbrev=False, add_help=False, formatter_class=argparse.RawDescriptionHelpFormatter, **rest
        )
        self.hint = hint

    def error(self, message: str) -> NoReturn:
        """Raise it instead."""
        raise UsageError(f"{message.removeprefix('argument ')} ({self.hint})")


class Setting(argparse.Action):
    """Stores a value, or the constant of an option that takes none; absent unless given.

    Of the same option the last one wins, as everywhere; another one for the same thing contradicts it.
    """

    def __init__(self, option_strings: Sequence[str], dest: str, const: object = None, **rest: Any) -> None:
        nargs = None if const is None else 0
        super().__init__(option_strings, dest, nargs=nargs, const=const, default=argparse.SUPPRESS, **rest)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        """Take note of which option it was."""
        name = "/".join(self.option_strings)
        before = _given_by(namespace).setdefault(self.dest, name)
        if before != name:
            raise UsageError(_contradiction(name, before))
        setattr(namespace, self.dest, values if self.const is None else self.const)


def _given_by(namespace: argparse.Namespace) -> dict[str, str]:
    """Which option gave what: destination to its letters."""
    by: dict[str, str] = namespace.__dict__.setdefault(_GIVEN_BY, {})
    return by


class _Value(NamedTuple):
    """An option whose value is a field of `TraceOptions`, which checks it and has its default."""

    field: str
    flags: str
    metavar: str
    help: str
    """`{}` in it becomes the default."""
    read: Callable[[str], object] = whole_number


_PORTS = ", ".join(f"{protocol}: {port}" for protocol, port in DEFAULT_PORTS.items())
PROBES = (
    _Value("attempts", "-q --attempts", "N", "probes for each TTL (default: {})"),
    _Value("first_ttl", "-f --first-ttl", "TTL", "TTL to start with (default: {})"),
    _Value("max_ttl", "-m --max-ttl", "TTL", "largest TTL (default: {})"),
    _Value("destination_port", "-p --port", "PORT", f"destination port, the same for every probe ({_PORTS})"),
    _Value("source_port", "--source-port", "PORT", "source port, or ICMP identifier (default: a random one)"),
    _Value("size", "--size", "BYTES", "size of a whole probe (default: 60, for IPv6 80)"),
    _Value("tos", "-t --tos", "TOS", "type of service or traffic class, as in 184 or 0xb8 (default: {})", byte),
    _Value("tos", "--dscp", "DSCP", "its upper six bits alone: 0 to 63, or a name such as EF, AF41 or CS5", dscp),
    _Value("flow_label", "-l --flow-label", "LABEL", "flow label of IPv6, as in 0x12345 (default: 0)", flow_label),
)
WAY_OUT = (
    _Value("source", "-s --source", "ADDR", "source address (default: the route's)", str),
    _Value("interface", "-i --interface", "NAME", "interface to send by (default: the route's)", str),
)
PACE = (
    _Value("timeout", "-w --wait", "MAX", "longest wait for a reply, seconds (default: {:g})", seconds),
    _Value("gap_limit", "--gap-limit", "N", "silent hops in a row that end a path (default: {})"),
)


def _parser() -> Parser:
    parser = Parser(
        _HINT,
        prog="allhops",
        usage="allhops [options] HOST...\n       allhops batch [options] FILE\n       allhops doctor",
        description="Show the path to each HOST, every hop at once. batch traces a list (allhops batch --help);\n"
        "doctor tells what works on this machine.",
        epilog=_EPILOG,
    )
    group = parser.add_argument_group
    _add_destinations(group("destinations"))
    _add_probes(group("probes"))
    add_values(WAY_OUT, add_backend(group("way out of this machine")))
    add_values(PACE, _add_rate(group("waiting and pace")))
    _add_output(group("output"))
    _add_other(group("other"))
    return parser


def add_values(values: tuple[_Value, ...], group: argparse._ArgumentGroup) -> None:
    """Options that are absent unless given: `TraceOptions` has the defaults."""
    defaults = TraceOptions()
    for value in values:
        group.add_argument(
            *value.flags.split(),
            dest=value.field,
            type=value.read,
            action=Setting,
            metavar=value.metavar,
            help=value.help.format(getattr(defaults, value.field)),
        )


def _add_choice(group: Any, flags: str, field: str, const: object, help: str) -> None:
    """An option without a value that chooses one for a field of `TraceOptions`."""
    group.add_argument(*flags.split(), dest=field, action=Setting, const=const, help=help)


def _add_destinations(group: argparse._ArgumentGroup) -> None:
    # `*`, not `+`: the complaint about no host is ours.
    group.add_argument("hosts", metavar="HOST", nargs="*", help="name or address; several are traced at once")
    add_versions(group)


def add_versions(group: argparse._ArgumentGroup) -> None:
    """-4 and -6."""
    _add_choice(group, "-4", "ip_version", 4, "use IPv4 only")
    _add_choice(group, "-6", "ip_version", 6, "use IPv6 only")


def _add_probes(group: argparse._ArgumentGroup) -> None:
    add_protocols(group)
    _add_choice(group, "--mtu", "discover_mtu", True, "find the path MTU hop by hop (implies -F)")
    add_values(PROBES, group)


def add_protocols(group: argparse._ArgumentGroup) -> None:
    """What the probes are made of."""
    _add_choice(group, "-U --udp", "protocol", Protocol.UDP, "probe with UDP (the default)")
    _add_choice(group, "-I --icmp", "protocol", Protocol.ICMP, "probe with ICMP echo requests")
    _add_choice(group, "-T --tcp", "protocol", Protocol.TCP, "probe with TCP SYN")
    _add_choice(group, "-F --dont-fragment", "dont_fragment", True, "forbid routers to fragment probes (IPv4)")


def add_backend(
    group: argparse._ArgumentGroup, names: tuple[str, ...] = BACKENDS, text: str = _BACKENDS
) -> argparse._ArgumentGroup:
    """How probes leave."""
    group.add_argument("--backend", action=Setting, choices=names, metavar="NAME", help=text)
    return group


def _add_rate(group: argparse._ArgumentGroup) -> argparse._ArgumentGroup:
    text = "probes a second, all HOSTs together (default: no limit for one, 5000 for several)"
    group.add_argument("--rate", type=rate, metavar="PPS", help=text)
    return group


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-n", dest="numeric", action="store_true", help="addresses only, no names")
    extensions = "show what routers append, such as MPLS labels (--json always does)"
    group.add_argument("-e", "--extensions", action="store_true", help=extensions)
    group.add_argument(
        "--json",
        dest="output",
        action="store_const",
        const="json",
        default="text",
        help="one JSON object a line a HOST",
    )


def _add_other(group: argparse._ArgumentGroup) -> None:
    text = "use a simulated internet: a scenario file, or a bundled one such as demo"
    group.add_argument("--simulate", action=Setting, metavar="FILE", help=text)
    group.add_argument("--version", action="version", version=f"allhops {__version__}", help="show it and exit")
    group.add_argument("-h", "--help", action="help", help="show this and exit")
