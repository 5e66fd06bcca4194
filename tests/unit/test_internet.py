"""The simulated internet answers as a network would; dpkt builds the probes and reads the answers."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import dpkt
import pytest

from allhops.errors import UsageError
from allhops.model import Protocol, ReplyKind
from allhops.testing import Internet, bundled_scenarios, load_scenario, parse_scenario

MS = 1_000_000
V4, V6 = "203.0.113.9", "2001:db8:9::9"
BOTH = pytest.mark.parametrize("destination", [V4, V6])


def wrap(destination: str, ttl: int, number: int, transport: Any, **fields: Any) -> bytes:
    """A full IP packet from the vantage point; dpkt fills in lengths and checksums."""
    target = ip_address(destination)
    if target.version == 4:
        source = IPv4Address("192.0.2.1").packed
        ip = dpkt.ip.IP(src=source, dst=target.packed, ttl=ttl, p=number, id=77, data=transport, **fields)
        ip.len = len(ip)
        return bytes(ip)
    source = IPv6Address("2001:db8::1").packed
    ip6 = dpkt.ip6.IP6(
        src=source, dst=target.packed, hlim=ttl, nxt=number, data=transport, plen=len(transport), **fields
    )
    ip6.extension_hdrs, ip6.all_extension_headers = {}, []
    return bytes(ip6)


def udp(
    destination: str, ttl: int, *, port: int = 40000, to: int = 33434, payload: bytes = b"p" * 20, **fields: Any
) -> bytes:
    datagram = dpkt.udp.UDP(sport=port, dport=to, data=payload)
    datagram.ulen = len(datagram)
    return wrap(destination, ttl, 17, datagram, **fields)


def echo(destination: str, ttl: int, sequence: int = 1) -> bytes:
    body = dpkt.icmp.ICMP.Echo(id=500, seq=sequence, data=b"ping")
    if ip_address(destination).version == 4:
        return wrap(destination, ttl, 1, dpkt.icmp.ICMP(type=8, data=body))
    body6 = dpkt.icmp6.ICMP6.Echo(id=500, seq=sequence, data=b"ping")
    return wrap(destination, ttl, 58, dpkt.icmp6.ICMP6(type=128, data=body6))


def tcp(destination: str, ttl: int, flags: int = dpkt.tcp.TH_SYN) -> bytes:
    return wrap(destination, ttl, 6, dpkt.tcp.TCP(sport=40000, dport=80, seq=1000, flags=flags))


def parsed(packet: bytes) -> Any:
    return dpkt.ip.IP(packet) if packet[0] >> 4 == 4 else dpkt.ip6.IP6(packet)


def source_of(packet: bytes) -> str:
    return str(ip_address(parsed(packet).src))


def only(internet: Internet, packet: bytes, now_ns: int = 0) -> tuple[int, bytes]:
    (arrival,) = internet.packet_sent(packet, now_ns)
    return arrival.at_ns, arrival.packet


def quoted(reply: bytes) -> bytes:
    return reply[28:] if reply[0] >> 4 == 4 else reply[48:]


@BOTH
@pytest.mark.parametrize("probe", [udp, echo, tcp])
def test_every_ttl_shows_the_truth_at_its_time(destination: str, probe: Any) -> None:
    internet = Internet(load_scenario("chain"))
    truth = internet.truth(destination)
    for ttl in range(1, 9):
        expected = truth[min(ttl, len(truth)) - 1]
        at_ns, reply = only(internet, probe(destination, ttl), now_ns=5 * MS)
        assert source_of(reply) == str(expected.address)
        assert at_ns == 5 * MS + expected.rtt_ns
    assert [hop.kind for hop in truth] == [ReplyKind.TIME_EXCEEDED] * 5 + [ReplyKind.DESTINATION]


@BOTH
@pytest.mark.parametrize(("probe", "ttl"), [(udp, 3), (udp, 6), (echo, 9), (tcp, 7), (echo, 2)])
def test_checksums_of_replies_are_right(destination: str, probe: Any, ttl: int) -> None:
    _, reply = only(Internet(load_scenario("chain")), probe(destination, ttl))
    if reply[0] >> 4 == 4:
        assert dpkt.in_cksum(reply[:20]) == 0
    ip = parsed(reply)
    segment = reply[20:] if reply[0] >> 4 == 4 else reply[40:]
    number = ip.p if reply[0] >> 4 == 4 else ip.nxt
    pseudo = b"" if number == 1 else ip.src + ip.dst + len(segment).to_bytes(4) + number.to_bytes(4)
    assert dpkt.in_cksum(pseudo + segment) == 0


@BOTH
@pytest.mark.parametrize(("ttl", "left"), [(1, 1), (4, 1), (6, 1), (9, 4)])
def test_the_quoted_packet_is_the_probe_as_it_arrived(destination: str, ttl: int, left: int) -> None:
    probe = udp(destination, ttl)
    _, reply = only(Internet(load_scenario("chain")), probe)
    assert quoted(reply) == udp(destination, left)


@BOTH
def test_the_reply_ages_on_its_way_back(destination: str) -> None:
    internet = Internet(load_scenario("chain"))
    at = 8 if destination == V4 else 7
    assert [only(internet, udp(destination, ttl))[1][at] for ttl in (1, 2, 6)] == [64, 63, 59]


@BOTH
def test_echo_reply_carries_the_request(destination: str) -> None:
    _, reply = only(Internet(load_scenario("chain")), echo(destination, 30, sequence=9))
    segment = reply[20:] if destination == V4 else reply[40:]
    assert segment[0] == (0 if destination == V4 else 129)
    assert segment[4:] == (500).to_bytes(2) + (9).to_bytes(2) + b"ping"


@pytest.mark.parametrize(("name", "flags"), [("chain", 0x12), ("silent_hops", 0x14)])
def test_syn_meets_an_open_or_a_closed_port(name: str, flags: int) -> None:
    _, reply = only(Internet(load_scenario(name)), tcp(V4, 30))
    segment = parsed(reply).data
    assert (segment.flags, segment.ack, segment.sport, segment.dport) == (flags, 1001, 80, 40000)


@pytest.mark.parametrize("flags", [dpkt.tcp.TH_RST, dpkt.tcp.TH_ACK])
def test_the_rest_of_a_handshake_is_ignored(flags: int) -> None:
    internet = Internet(load_scenario("chain"))
    assert internet.packet_sent(tcp(V4, 30, flags), 0) == []
    assert internet.counters["not_a_probe"] == 1


def test_udp_can_be_answered_with_udp() -> None:
    _, reply = only(Internet(load_scenario("tcp_open")), udp(V4, 30))
    datagram = parsed(reply).data
    assert (datagram.sport, datagram.dport, datagram.data) == (33434, 40000, b"p" * 20)


def flipped(packet: bytes, at: int) -> bytes:
    return packet[:at] + bytes((packet[at] ^ 1,)) + packet[at + 1 :]


@pytest.mark.parametrize(
    ("packet", "counter"),
    [
        (b"", "malformed"),
        (b"\x45" + bytes(10), "malformed"),
        (b"\x60" + bytes(10), "malformed"),
        (b"\x15" + bytes(40), "malformed"),
        (udp(V4, 3) + b"x", "malformed"),
        (udp(V6, 3)[:-1], "malformed"),
        (flipped(udp(V4, 3), 10), "bad_ip_checksum"),
        (flipped(udp(V4, 3), 27), "bad_transport_checksum"),
        (flipped(udp(V6, 3), 47), "bad_transport_checksum"),
        (flipped(echo(V4, 3), 22), "bad_transport_checksum"),
        (flipped(echo(V6, 3), 42), "bad_transport_checksum"),
        (flipped(tcp(V4, 3), 36), "bad_transport_checksum"),
        (udp(V4, 0), "ttl_zero"),
        (udp("203.0.113.200", 3), "no_route"),
        (udp("224.0.0.1", 1), "multicast"),
        (udp("ff02::2", 1), "multicast"),
        (wrap(V4, 30, 132, b"sctp" * 3), "unknown_protocol"),
        (wrap(V4, 2, 1, dpkt.icmp.ICMP(type=3, code=3, data=bytes(32))), "not_a_probe"),
        (udp(V4, 3).replace(IPv4Address("192.0.2.1").packed, b"\xc0\0\2\1"), None),
    ],
)
def test_what_is_not_in_order_is_dropped_and_counted(packet: bytes, counter: str | None) -> None:
    internet = Internet(load_scenario("chain"))
    arrivals = internet.packet_sent(packet, 0)
    assert (arrivals == []) == (counter is not None)
    assert internet.counters == {"received": 1, counter or "replies": 1}


def test_a_foreign_source_is_dropped_and_counted() -> None:
    internet = Internet(parse_scenario(CUSTOM))
    assert internet.packet_sent(udp(V4, 1), 0) == []
    assert internet.counters["not_from_vantage"] == 1


CUSTOM = """
schema = "allhops.scenario/1"
[vantage]
ipv4 = "192.0.2.77"
[routers.host]
[[paths]]
destination = "203.0.113.9"
hops = [{ router = "host", rtt_ms = 1 }]
"""


@pytest.mark.parametrize("name", bundled_scenarios())
def test_every_packet_is_accounted_for(name: str) -> None:
    internet = Internet(load_scenario(name))
    for destination in (V4, V6):
        for ttl in range(1, 13):
            internet.packet_sent(udp(destination, ttl), ttl * MS)
            internet.packet_sent(echo(destination, ttl), ttl * MS)
    counters = dict(internet.counters)
    first_replies = counters.pop("replies", 0) - counters.pop("duplicates", 0)
    assert counters.pop("received") == 48
    assert first_replies + sum(counters.values()) == 48


@BOTH
def test_silent_hops_are_silent_and_the_truth_says_so(destination: str) -> None:
    internet = Internet(load_scenario("silent_hops"))
    silent = {ttl for ttl in range(1, 11) if not internet.packet_sent(udp(destination, ttl), 0)}
    assert silent == {hop.ttl for hop in internet.truth(destination) if hop.address is None} == {2, 5, 6, 7}


@pytest.mark.parametrize(("protocol", "address"), [(Protocol.UDP, None), (Protocol.ICMP, ip_address(V4))])
def test_the_truth_depends_on_the_protocol(protocol: Protocol, address: object) -> None:
    internet = Internet(load_scenario("silent_host_udp"))
    assert internet.truth(V4, protocol=protocol)[-1].address == address


def test_linux_limits_let_six_pass_and_then_one_a_second() -> None:
    internet = Internet(load_scenario("rate_limited"))
    assert sum(len(internet.packet_sent(udp(V4, 3), 0)) for _ in range(10)) == 6
    assert [len(internet.packet_sent(udp(V4, 3), now)) for now in (999 * MS, 1000 * MS, 1001 * MS)] == [0, 1, 0]
    assert internet.counters["rate_limited"] == 6


def test_each_device_has_its_own_limit() -> None:
    internet = Internet(load_scenario("one_per_second"))
    assert [len(internet.packet_sent(udp(V4, ttl), 0)) for ttl in range(1, 10)] == [1] * 9
    assert [len(internet.packet_sent(udp(V4, ttl), 1)) for ttl in range(1, 10)] == [0] * 9


def test_echo_replies_are_not_limited() -> None:
    internet = Internet(load_scenario("one_per_second"))
    assert sum(len(internet.packet_sent(echo(V4, 30), 0)) for _ in range(20)) == 20


def test_the_global_limit_counts_both_families() -> None:
    text = CUSTOM.replace("192.0.2.77", "192.0.2.1").replace(
        "[routers.host]\n", 'ipv6 = "2001:db8::1"\n[routers.host]\nglobal_limit = { burst = 3, per_second = 1 }\n'
    )
    internet = Internet(parse_scenario(text.replace('"203.0.113.9"', f'["{V4}", "{V6}"]')))
    assert [len(internet.packet_sent(udp(at, 9), 0)) for at in (V4, V6, V4, V6, V4)] == [1, 1, 1, 0, 0]


def test_loss_is_about_what_was_asked() -> None:
    internet, probe = Internet(load_scenario("lossy")), udp(V4, 3)
    got = sum(len(internet.packet_sent(probe, now)) for now in range(400))
    assert 220 < got < 280  # 0.9 * 0.7 * 400 = 252


def test_duplicates_arrive_behind_each_other() -> None:
    arrivals = Internet(load_scenario("duplicates")).packet_sent(udp(V4, 3), 0)
    assert [arrival.at_ns - arrivals[0].at_ns for arrival in arrivals] == [0, 100_000, 200_000, 300_000, 400_000]


def test_jitter_reorders_and_never_comes_early() -> None:
    internet = Internet(load_scenario("reordering"))
    times = [only(internet, udp(V4, ttl))[0] for ttl in range(1, 10)]
    assert times != sorted(times)
    assert all(0 <= at - hop.rtt_ns < 40 * MS for at, hop in zip(times, internet.truth(V4), strict=True))


def test_the_same_seed_plays_the_same() -> None:
    first, second = Internet(load_scenario("reordering")), Internet(load_scenario("reordering"))
    probes = [udp(V4, ttl) for ttl in range(1, 10)]
    assert [first.packet_sent(probe, 0) for probe in probes] == [second.packet_sent(probe, 0) for probe in probes]


@BOTH
@pytest.mark.parametrize("name", ["diamond_flow", "unequal_diamond", "bypass", "nested_diamond"])
def test_a_flow_keeps_to_one_branch_and_flows_spread(name: str, destination: str) -> None:
    internet = Internet(load_scenario(name))
    seen: list[set[str]] = [set() for _ in internet.possible(destination)]
    for port in range(40000, 40012):
        truth = internet.truth(destination, ports=(port, 33434))
        assert truth == internet.truth(destination, packet=udp(destination, 1, port=port))
        for hop in truth:
            assert source_of(only(internet, udp(destination, hop.ttl, port=port))[1]) == str(hop.address)
            seen[hop.ttl - 1].add(str(hop.address))
    assert seen == [{str(address) for address in level} for level in internet.possible(destination)]


def test_the_diamonds_of_a_path_choose_independently() -> None:
    internet = Internet(load_scenario("diamond_flow"))
    pairs = {tuple(hop.address for hop in internet.truth(V4, ports=(port, 33434))[1:3]) for port in range(40000, 40060)}
    assert len(pairs) == 6


@BOTH
def test_an_echo_flow_with_one_checksum_keeps_to_one_branch(destination: str) -> None:
    internet = Internet(load_scenario("diamond_flow"))
    replies = {source_of(only(internet, echo(destination, 2))[1]) for _ in range(20)}
    assert replies == {str(internet.truth(destination, packet=echo(destination, 9))[1].address)}


def test_packet_balancing_shows_every_branch_of_one_flow() -> None:
    internet = Internet(load_scenario("diamond_packet"))
    seen = {source_of(only(internet, udp(V4, 2))[1]) for _ in range(60)}
    assert seen == {str(address) for address in internet.possible(V4)[1]}


@pytest.mark.parametrize(("name", "word"), [("diamond_flow", "ports="), ("diamond_packet", "possible")])
def test_the_truth_of_a_diamond_needs_a_flow(name: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Internet(load_scenario(name)).truth(V4)


@BOTH
def test_a_loop_goes_round_and_takes_longer_each_time(destination: str) -> None:
    internet = Internet(load_scenario("loop"))
    truth = internet.truth(destination, max_ttl=20)
    replies = [only(internet, udp(destination, ttl)) for ttl in range(1, 21)]
    assert [source_of(reply) for _, reply in replies] == [str(hop.address) for hop in truth]
    assert [at for at, _ in replies] == [hop.rtt_ns for hop in truth] == [3 * ttl * MS for ttl in range(1, 21)]
    assert truth[3].address == truth[5].address == truth[19].address != truth[4].address
    assert replies[19][1][8 if destination == V4 else 7] == 64 - 19


@pytest.mark.parametrize(
    ("name", "destination", "ttl", "error"),
    [
        ("admin_prohibited", V4, 4, (11, 0)),
        ("admin_prohibited", V4, 5, (3, 13)),
        ("admin_prohibited", V6, 9, (1, 1)),
        ("unreachable_host", V4, 6, (3, 1)),
        ("unreachable_host", V6, 6, (1, 3)),
        ("no_route", V4, 2, (11, 0)),
        ("no_route", V4, 3, (3, 0)),
        ("no_route", V6, 3, (1, 0)),
    ],
)
def test_a_router_that_refuses_says_so(name: str, destination: str, ttl: int, error: tuple[int, int]) -> None:
    internet = Internet(load_scenario(name))
    _, reply = only(internet, udp(destination, ttl))
    segment = reply[20:] if destination == V4 else reply[40:]
    assert (segment[0], segment[1]) == error
    truth = internet.truth(destination)
    assert truth[-1].kind is ReplyKind.UNREACHABLE
    assert source_of(reply) == str(truth[min(ttl, len(truth)) - 1].address)


@pytest.mark.parametrize(("destination", "error"), [(V4, (3, 4)), (V6, (2, 0))])
def test_a_narrow_link_names_its_size(destination: str, error: tuple[int, int]) -> None:
    internet = Internet(load_scenario("small_mtu"))
    fields: dict[str, Any] = {"df": 1} if destination == V4 else {}
    _, reply = only(internet, udp(destination, 30, payload=bytes(1400), **fields))
    segment = reply[20:] if destination == V4 else reply[40:]
    assert (segment[0], segment[1]) == error
    assert int.from_bytes(segment[4:8]) == 1280
    assert source_of(only(internet, udp(destination, 30, **fields))[1]) == destination


def test_a_large_probe_that_may_be_fragmented_passes_the_narrow_link() -> None:
    _, reply = only(Internet(load_scenario("small_mtu")), udp(V4, 30, payload=bytes(1400)))
    assert source_of(reply) == V4


@pytest.mark.parametrize(("destination", "size"), [(V4, 576), (V6, 1280)])
def test_a_large_probe_is_quoted_as_far_as_it_fits(destination: str, size: int) -> None:
    _, reply = only(Internet(load_scenario("chain")), udp(destination, 2, payload=bytes(1400)))
    assert len(reply) == size


def test_short_quotes_are_as_short_as_asked() -> None:
    internet = Internet(load_scenario("short_quotes"))
    assert [len(quoted(only(internet, udp(V4, ttl))[1])) for ttl in range(1, 6)] == [48, 28, 28, 24, 0]
    assert [len(quoted(only(internet, udp(V6, ttl))[1])) for ttl in range(1, 6)] == [68, 48, 48, 42, 0]


def extension_of(reply: bytes) -> tuple[int, bytes]:
    """(end of the quoted packet as the length attribute has it, bytes behind 128)."""
    if reply[0] >> 4 == 4:
        return reply[25] * 4, reply[28 + 128 :]
    return reply[44] * 8, reply[48 + 128 :]


@BOTH
@pytest.mark.parametrize(("ttl", "length", "labels"), [(2, 128, [16001]), (3, 0, [16002]), (4, 128, [16003, 24005])])
def test_mpls_labels_follow_the_quoted_packet(destination: str, ttl: int, length: int, labels: list[int]) -> None:
    claimed, structure = extension_of(only(Internet(load_scenario("mpls")), udp(destination, ttl))[1])
    assert claimed == length
    assert structure[0] >> 4 == 2
    assert dpkt.in_cksum(structure) == 0
    size = int.from_bytes(structure[4:6])
    assert structure[6:8] == b"\x01\x01"
    words = [int.from_bytes(structure[at : at + 4]) for at in range(8, 4 + size, 4)]
    assert [word >> 12 for word in words] == labels
    assert [word >> 8 & 1 for word in words] == [0] * (len(labels) - 1) + [1]


def test_broken_extensions_are_broken_as_asked() -> None:
    internet = Internet(load_scenario("broken_extensions"))
    replies = [extension_of(only(internet, udp(V4, ttl))[1]) for ttl in range(1, 9)]
    assert replies[0][1][2:4] == b"\xde\xad"
    assert [claimed for claimed, _ in replies] == [128, 1020, 4, 128, 128, 128, 128, 0]
    assert replies[3][1][0] >> 4 == 7
    assert replies[5][1] == bytes.fromhex("deadbeef000102")
    assert len(replies[6][1]) == 4 + 64 * 8


def test_the_destination_sends_extensions_no_echo_reply_carries() -> None:
    text = CUSTOM.replace("192.0.2.77", "192.0.2.1").replace(
        "[routers.host]\n", "[routers.host]\nextensions = { mpls = [{ label = 1 }] }\n"
    )
    internet = Internet(parse_scenario(text))
    assert len(only(internet, udp(V4, 9))[1]) == 28 + 128 + 12
    assert len(only(internet, echo(V4, 9))[1]) == len(echo(V4, 9))


@pytest.mark.parametrize(
    ("ttl", "at", "value"),
    [
        (1, slice(2, 4), b"\x00\x14"),
        (2, slice(4, 6), b"\x00\x00"),
        (3, slice(1, 2), b"\x20"),
        (4, slice(8, 9), b"\x03"),
        (5, slice(10, 12), b"\x00\x00"),
        (5, slice(26, 28), b"\x00\x00"),
        (6, slice(16, 20), IPv4Address("203.0.113.77").packed),
        (7, slice(28, None), b"lies"),
        (8, slice(20, 24), b"\x00\x01\x00\x02"),
    ],
)
def test_a_lying_router_changes_the_field_and_no_other(ttl: int, at: slice, value: bytes) -> None:
    lie = quoted(only(Internet(load_scenario("lying_quotes")), udp(V4, ttl))[1])
    truth = udp(V4, 1)
    assert lie[at] == value
    same = range(20) if at.start >= 20 else range(20, 28)
    assert all(lie[index] == truth[index] for index in same if ttl != 5)


@pytest.mark.parametrize(
    ("ttl", "at", "value"),
    [
        (1, slice(4, 6), b"\x00\x14"),
        (3, slice(0, 2), b"\x62\x00"),
        (4, slice(7, 8), b"\x03"),
        (6, slice(24, 40), IPv6Address("2001:db8:9::77").packed),
        (7, slice(48, None), b"lies"),
        (8, slice(40, 44), b"\x00\x01\x00\x02"),
    ],
)
def test_a_lying_router_changes_the_field_in_ipv6(ttl: int, at: slice, value: bytes) -> None:
    assert quoted(only(Internet(load_scenario("lying_quotes")), udp(V6, ttl))[1])[at] == value


@BOTH
def test_a_corrupt_router_has_a_wrong_checksum(destination: str) -> None:
    _, reply = only(Internet(load_scenario("lying_quotes")), echo(destination, 9))
    segment = reply[20:] if destination == V4 else reply[40:]
    pseudo = b"" if destination == V4 else reply[8:40] + len(segment).to_bytes(4) + (58).to_bytes(4)
    assert dpkt.in_cksum(pseudo + segment) != 0


@pytest.mark.parametrize(("destination", "outside"), [(V4, "198.51.100.77"), (V6, "2001:db8:77::77")])
def test_behind_a_nat_the_quoted_packet_has_its_address(destination: str, outside: str) -> None:
    internet = Internet(load_scenario("nat"))
    before = parsed(quoted(only(internet, udp(destination, 2))[1]))
    after = parsed(quoted(only(internet, udp(destination, 3))[1]))
    assert (before.src, before.data.sport) == (parsed(udp(destination, 2)).src, 40000)
    assert (str(ip_address(after.src)), after.data.sport) == (outside, 41000)
    pseudo = after.src + after.dst + (28).to_bytes(4) + (17).to_bytes(4)
    assert dpkt.in_cksum(pseudo + bytes(after.data)) == 0
    if destination == V4:
        assert dpkt.in_cksum(quoted(only(internet, udp(destination, 3))[1])[:20]) == 0


def test_replies_from_behind_a_nat_reach_the_vantage_point() -> None:
    internet = Internet(load_scenario("nat"))
    for probe in (udp, echo, tcp):
        assert str(ip_address(parsed(only(internet, probe(V4, 30))[1]).dst)) == "192.0.2.1"


def test_a_nat_may_restore_all_but_the_checksum() -> None:
    probe, reply = udp(V4, 1), only(Internet(load_scenario("nat_restoring")), udp(V4, 3))[1]
    assert quoted(reply)[:26] == probe[:26]
    assert quoted(reply)[26:28] != probe[26:28]


@BOTH
def test_a_hop_may_answer_from_the_destination_s_address(destination: str) -> None:
    internet = Internet(load_scenario("transit_from_destination_address"))
    _, reply = only(internet, udp(destination, 4))
    assert source_of(reply) == destination
    assert internet.truth(destination)[3].kind is ReplyKind.TIME_EXCEEDED


@pytest.mark.parametrize(("destination", "alias"), [(V4, "203.0.113.10"), (V6, "2001:db8:9::10")])
def test_a_destination_may_answer_from_an_alias(destination: str, alias: str) -> None:
    internet = Internet(load_scenario("alias_destination"))
    assert source_of(only(internet, udp(destination, 30))[1]) == alias
    assert str(internet.truth(destination)[-1].address) == alias


def test_every_address_of_a_prefix_is_a_host_and_the_longest_match_wins() -> None:
    internet = Internet(load_scenario("prefix"))
    assert source_of(only(internet, udp("198.19.255.3", 30))[1]) == "198.19.255.3"
    assert len(internet.truth("198.18.7.7")) == 6
    assert len(internet.truth("198.18.0.1")) == 2


def ask(internet: Internet, name: str, kind: int, now_ns: int = 0) -> tuple[int, Any]:
    query = dpkt.dns.DNS(id=9, qd=[dpkt.dns.DNS.Q(name=name, type=kind)])
    at_ns, reply = only(internet, udp("192.0.2.53", 64, to=53, payload=bytes(query)), now_ns)
    answer = dpkt.dns.DNS(parsed(reply).data.data)
    assert (answer.id, answer.qr, answer.qd[0].name) == (9, 1, name)
    return at_ns, answer


def test_the_name_server_knows_routers_and_destinations() -> None:
    internet = Internet(load_scenario("demo"))
    at_ns, answer = ask(internet, "9.113.0.203.in-addr.arpa", dpkt.dns.DNS_PTR, now_ns=MS)
    assert at_ns == 5 * MS
    assert answer.an[0].ptrname == "demo.example.net"
    _, answer = ask(internet, "Demo.example.net", dpkt.dns.DNS_A)
    assert answer.an[0].ip == ip_address("203.0.113.9").packed
    _, answer = ask(internet, "demo.example.net", dpkt.dns.DNS_AAAA)
    assert answer.an[0].ip6 == ip_address("2001:db8:4::9").packed
    assert internet.name_of("10.0.0.1") == "router.home.example.net"
    assert internet.address_of("demo.example.net", 4) == ip_address("203.0.113.9")


@pytest.mark.parametrize("name", ["nobody.example.net", "1.2.3.4.in-addr.arpa"])
def test_the_name_server_denies_what_it_does_not_know(name: str) -> None:
    _, answer = ask(Internet(load_scenario("demo")), name, dpkt.dns.DNS_PTR)
    assert (answer.rcode, answer.an) == (dpkt.dns.DNS_RCODE_NXDOMAIN, [])


def test_a_hostile_name_is_served_as_it_stands() -> None:
    _, answer = ask(Internet(load_scenario("hostile_names")), "2.0.0.10.in-addr.arpa", dpkt.dns.DNS_PTR)
    assert answer.an[0].ptrname == "\x1b[31mred\x1b[0m"


@pytest.mark.parametrize("payload", [b"", b"\xff" * 12, b"\0" * 11 + b"\xc0" * 40])
def test_garbage_at_the_name_server_is_silence(payload: bytes) -> None:
    internet = Internet(load_scenario("demo"))
    assert internet.packet_sent(udp("192.0.2.53", 64, to=53, payload=payload), 0) == []


def test_a_packet_that_is_none_has_no_truth() -> None:
    with pytest.raises(UsageError, match="malformed"):
        Internet(load_scenario("chain")).truth(V4, packet=b"")


def test_a_destination_without_a_path_has_no_truth() -> None:
    with pytest.raises(UsageError, match=r"203\.0\.113\.200: the scenario chain\.toml has no path there"):
        Internet(load_scenario("chain")).truth("203.0.113.200")
