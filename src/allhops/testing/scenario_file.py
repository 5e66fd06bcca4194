"""A scenario file is TOML; reading it gives a `Scenario`, or one sentence that says what is wrong with it.

Every key, with its unit and default, is listed in docs/lab.md. This file knows
no packet and no clock.
"""

from __future__ import annotations

import pathlib
import tomllib
from ipaddress import ip_address, ip_network

from allhops.errors import UsageError
from allhops.testing.scenario import (
    SCHEMA,
    Balancing,
    Diamond,
    DnsAnswer,
    ExtensionForm,
    ExtensionObject,
    Extensions,
    HostBehaviour,
    IcmpAnswer,
    IcmpError,
    Limit,
    MplsLabel,
    NameServer,
    Nat,
    NatRestores,
    Network,
    Path,
    Rewrite,
    Router,
    Scenario,
    Stage,
    Step,
    TcpAnswer,
    UdpAnswer,
    Vantage,
)
from allhops.testing.toml_table import (
    Table,
    address,
    hexadecimal,
    integer,
    ipv4,
    ipv6,
    list_of,
    milliseconds,
    number,
    one_of,
    text,
    truth_value,
)

BUNDLED = pathlib.Path(__file__).parent / "scenarios"
"""Where the scenario files that come with allhops are."""

BYTE = integer(0, 0xFF)
WORD = integer(0, 0xFFFF)
SHARE = number(0, 1)
PACKET_SIZE = integer(0, 0xFFFF)


def bundled_scenarios() -> tuple[str, ...]:
    """Names of the scenario files that come with allhops, sorted."""
    return tuple(sorted(path.stem for path in BUNDLED.glob("*.toml")))


def load_scenario(source: str | pathlib.Path) -> Scenario:
    """Read a scenario file, or the bundled scenario of that name.

    A string without a slash and without ".toml" is the name of a bundled scenario.

    Raises:
        UsageError: there is no such file, or something in it is wrong: file, key, what would do.
    """
    path = pathlib.Path(source)
    if isinstance(source, str) and "/" not in source and not source.endswith(".toml"):
        path = BUNDLED / f"{source}.toml"
        if not path.exists():
            raise UsageError(f"{source}: no such scenario; bundled are: {', '.join(bundled_scenarios())}")
    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    return parse_scenario(content, origin=path.name)


def parse_scenario(content: str, *, origin: str = "scenario") -> Scenario:
    """Read the text of a scenario file; `origin` leads the error messages.

    Raises:
        UsageError: something in it is wrong: file, key, what would do.
    """
    try:
        values = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{origin}: is not TOML: {error}") from None
    table = Table(values, origin)
    schema = table.required("schema", text)
    if schema != SCHEMA:
        raise UsageError(f"{table.at('schema')}: {schema!r} is not known; this version reads {SCHEMA!r}")
    defaults = table.table("defaults")
    routers = table.table("routers")
    dns = table.table("dns")
    vantage = table.table("vantage")
    scenario = Scenario(
        description=table.optional("description", text, ""),
        seed=table.optional("seed", integer(0, 2**63 - 1), 1),
        vantage=_vantage(vantage) if vantage else Vantage(),
        dns=_name_server(dns) if dns else None,
        routers=_routers(routers, defaults),
        paths=_paths(table),
        origin=origin,
    )
    table.finish()
    return scenario


def _vantage(table: Table) -> Vantage:
    vantage = Vantage(
        ipv4=table.optional("ipv4", ipv4, None),
        ipv6=table.optional("ipv6", ipv6, None),
        mtu=table.optional("mtu", integer(68, 0xFFFF), 1500),
    )
    table.finish()
    return vantage


def _name_server(table: Table) -> NameServer:
    names = table.table("ptr")
    server = NameServer(
        address=table.required("address", address),
        rtt_ns=table.optional("rtt_ms", milliseconds, 20_000_000),
        loss=table.optional("loss", SHARE, 0.0),
        answer=table.optional("answer", one_of(DnsAnswer), DnsAnswer.NORMAL),
        ptr=_pointers(names) if names else {},
    )
    table.finish()
    return server


def _pointers(table: Table) -> dict[str, str]:
    """Names by address. What is in them is free; what no DNS message can carry is not."""
    names = table.texts()
    for key, name in names.items():
        try:
            ip_address(key)
        except ValueError:
            raise UsageError(f"{table.at(key)}: the key must be an address, such as 10.0.0.1") from None
        if len(name.encode()) > 253 or any(not 0 < len(label.encode()) < 64 for label in name.split(".")):
            raise UsageError(f"{table.at(key)}: must be at most 253 bytes in labels of 1 to 63, not {name!r}")
    return names


def _routers(table: Table | None, defaults: Table | None) -> dict[str, Router]:
    if defaults:
        _router("defaults", defaults)  # checks its keys and values under its own name
    if table is None:
        return {}
    return {key: _router(key, entry.over(defaults.values() if defaults else {})) for key, entry in table.items()}


def _router(key: str, table: Table) -> Router:
    limit, limit_ipv6, global_limit = map(table.table, ("limit", "limit_ipv6", "global_limit"))
    icmp, icmp_ipv6 = table.table("icmp"), table.table("icmp_ipv6")
    rewrite, extensions, host = map(table.table, ("rewrite", "extensions", "host"))
    router = Router(
        key=key,
        ipv4=table.optional("ipv4", ipv4, None),
        ipv6=table.optional("ipv6", ipv6, None),
        name=table.optional("name", text, None),
        silent=table.optional("silent", truth_value, False),
        loss=table.optional("loss", SHARE, 0.0),
        duplicate=table.optional("duplicate", integer(0, 1000), 0),
        jitter_ns=table.optional("jitter_ms", milliseconds, 0),
        limit=_limit(limit) if limit else None,
        limit_ipv6=_limit(limit_ipv6) if limit_ipv6 else None,
        global_limit=_limit(global_limit) if global_limit else None,
        quote=table.optional("quote", PACKET_SIZE, None),
        quote_ipv6=table.optional("quote_ipv6", PACKET_SIZE, None),
        reply_ttl=table.optional("reply_ttl", integer(1, 255), 64),
        mtu=table.optional("mtu", integer(28, 0xFFFF), None),
        mtu_told=table.optional("mtu_told", WORD, None),
        black_hole=table.optional("black_hole", truth_value, False),
        icmp=_icmp_error(icmp) if icmp else None,
        icmp_ipv6=_icmp_error(icmp_ipv6) if icmp_ipv6 else None,
        answers_from=table.optional("answers_from", ipv4, None),
        answers_from_ipv6=table.optional("answers_from_ipv6", ipv6, None),
        corrupt=table.optional("corrupt", truth_value, False),
        rewrite=_rewrite(rewrite) if rewrite else None,
        extensions=_extensions(extensions) if extensions else None,
        host=_host(host) if host else HostBehaviour(),
    )
    table.finish()
    return router


def _limit(table: Table) -> Limit:
    limit = Limit(
        burst=table.required("burst", integer(1, 1_000_000_000)),
        per_second=table.required("per_second", number(0.001, 1e9)),
    )
    table.finish()
    return limit


def _icmp_error(table: Table) -> IcmpError:
    error = IcmpError(
        type=table.required("type", BYTE),
        code=table.required("code", BYTE),
        mtu=table.optional("mtu", WORD, 0),
        stage=table.optional("stage", one_of(Stage), Stage.EGRESS),
    )
    table.finish()
    return error


def _rewrite(table: Table) -> Rewrite:
    rewrite = Rewrite(
        ip_id=table.optional("ip_id", WORD, None),
        ip_length=table.optional("ip_length", WORD, None),
        ip_checksum=table.optional("ip_checksum", WORD, None),
        tos=table.optional("tos", BYTE, None),
        ttl=table.optional("ttl", BYTE, None),
        source=table.optional("source", ipv4, None),
        source_ipv6=table.optional("source_ipv6", ipv6, None),
        destination=table.optional("destination", ipv4, None),
        destination_ipv6=table.optional("destination_ipv6", ipv6, None),
        source_port=table.optional("source_port", WORD, None),
        destination_port=table.optional("destination_port", WORD, None),
        checksum=table.optional("checksum", WORD, None),
        payload=table.optional("payload", hexadecimal, None),
    )
    table.finish()
    return rewrite


def _extensions(table: Table) -> Extensions:
    def label(value: object) -> MplsLabel:
        entry = Table(value, table.at("mpls"))
        result = MplsLabel(
            label=entry.required("label", integer(0, 2**20 - 1)),
            tc=entry.optional("tc", integer(0, 7), 0),
            ttl=entry.optional("ttl", BYTE, 1),
        )
        entry.finish()
        return result

    def extension_object(value: object) -> ExtensionObject:
        entry = Table(value, table.at("objects"))
        result = ExtensionObject(
            class_num=entry.required("class", BYTE),
            c_type=entry.required("type", BYTE),
            data=entry.optional("data", hexadecimal, b""),
        )
        entry.finish()
        return result

    extensions = Extensions(
        form=table.optional("form", one_of(ExtensionForm), ExtensionForm.RFC4884),
        mpls=table.optional("mpls", list_of(label), ()),
        objects=table.optional("objects", list_of(extension_object), ()),
        version=table.optional("version", integer(0, 15), 2),
        checksum=table.optional("checksum", WORD, None),
        length=table.optional("length", BYTE, None),
        raw=table.optional("raw", hexadecimal, None),
    )
    table.finish()
    return extensions


def _host(table: Table) -> HostBehaviour:
    host = HostBehaviour(
        udp=table.optional("udp", one_of(UdpAnswer), UdpAnswer.UNREACHABLE),
        icmp=table.optional("icmp", one_of(IcmpAnswer), IcmpAnswer.REPLY),
        tcp=table.optional("tcp", one_of(TcpAnswer), TcpAnswer.CLOSED),
    )
    table.finish()
    return host


def _paths(table: Table) -> tuple[Path, ...]:
    entries = table.required("paths", list_of(lambda value: value))
    return tuple(_path(Table(entry, f"{table.at('paths')}[{number}]")) for number, entry in enumerate(entries))


def _path(table: Table) -> Path:
    nat = table.table("nat")
    path = Path(
        destinations=table.required("destination", _destinations),
        hops=table.required("hops", list_of(lambda value: _hop(Table(value, table.at("hops"))))),
        name=table.optional("name", text, None),
        loop_from=table.optional("loop_from", integer(1, 255), None),
        forward_loss=table.optional("forward_loss", SHARE, 0.0),
        nat=_nat(nat) if nat else None,
    )
    table.finish()
    return path


def _destinations(value: object) -> tuple[Network, ...]:
    values = value if isinstance(value, list) else [value]
    try:
        return tuple(ip_network(text(one)) for one in values)
    except ValueError:
        raise ValueError("an address or a prefix without host bits, or an array of them") from None


def _hop(table: Table) -> Step | Diamond:
    if "any_of" in table:
        return _diamond(table)
    step = Step(router=table.required("router", text), rtt_ns=table.required("rtt_ms", milliseconds))
    table.finish()
    return step


def _diamond(table: Table) -> Diamond:
    rtt_ns = table.optional("rtt_ms", milliseconds, None)

    def branch(value: object) -> tuple[Step | Diamond, ...]:
        if isinstance(value, list):
            return tuple(_hop(Table(hop, table.at("any_of"))) for hop in value)
        if rtt_ns is None:
            raise ValueError("arrays of hops, or router keys with rtt_ms beside any_of")
        return (Step(router=text(value), rtt_ns=rtt_ns),)

    branches = table.required("any_of", list_of(branch))
    if not branches:
        raise UsageError(f"{table.at('any_of')}: is empty; name at least one branch")
    diamond = Diamond(branches=branches, by=table.optional("by", one_of(Balancing), Balancing.FLOW))
    table.finish()
    return diamond


def _nat(table: Table) -> Nat:
    nat = Nat(
        after_ttl=table.required("after_ttl", integer(1, 255)),
        source=table.optional("source", ipv4, None),
        source_ipv6=table.optional("source_ipv6", ipv6, None),
        port_shift=table.optional("port_shift", WORD, 0),
        restores=table.optional("restores", one_of(NatRestores), NatRestores.NOTHING),
    )
    table.finish()
    return nat
