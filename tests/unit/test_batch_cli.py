"""`allhops batch`: arguments, what is said, exit statuses, and files that are gone on with."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import random
import re
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from allhops.cli import main
from allhops.cli.arguments import BACKENDS
from allhops.cli.batch import outputs, run
from allhops.cli.batch.arguments import read_batch_arguments
from allhops.cli.batch.console import MAX_COMPLAINTS, Console
from allhops.cli.batch.finished import read_json_lines
from allhops.cli.batch.shard import Shard
from allhops.errors import PrivilegeError, UsageError
from allhops.model import Protocol, StopReason
from allhops.net.batch.engine import Batch
from allhops.options import BATCH_RATE_PPS, TraceOptions
from tests.stand_in import StandIn

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator
    from pathlib import Path

    from allhops.cli.batch.arguments import BatchRequest
    from allhops.core.harvest import Harvest
    from tests.groups import Destination

TOO_SMALL = UsageError("size must be at least 36")
MANY = "".join(f"192.0.2.{last}\n" for last in range(1, 41))


class Opened:
    """Which engines were opened, and with what."""

    def __init__(self) -> None:
        self.engines: list[StandIn] = []
        self.requests: list[BatchRequest] = []
        self.unreachable: frozenset[str] = frozenset()

    def __call__(self, request: BatchRequest) -> StandIn:
        self.requests.append(request)
        self.engines.append(StandIn(unreachable=self.unreachable))
        return self.engines[-1]

    @property
    def fed(self) -> list[str]:
        """What the last one was to trace."""
        return [destination.name for destination in self.engines[-1].fed]


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    engines = Opened()
    monkeypatch.setattr(run, "open_engine", engines)
    yield engines
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "list"
    path.write_text(MANY)
    return path


def names_in(path: Path) -> list[str]:
    return [json.loads(text)["destination"] for text in path.read_text().splitlines()]


# Arguments

HINT = "(allhops batch --help lists the options)"
SHARD = "--shard: write I/N, as in 1/4, with I from 1 to N and N at most 1,000,000, not "
BAD_ARGUMENTS: list[tuple[list[str], str | None]] = [
    ([], f"no FILE with destinations {HINT}"),
    (["a", "b"], f"more than one FILE with destinations {HINT}"),
    (["--rate", "0", "x"], f"--rate: write probes a second, more than 0, not '0' {HINT}"),
    (["--rate", "1e9", "x"], f"--rate: 1e9 probes a second are more than a machine can send: write max {HINT}"),
    (["--rate", "MAX", "x"], None),
    (["--shard", "0/0", "x"], f"{SHARD}'0/0' {HINT}"),
    (["--shard", "0/4", "x"], f"{SHARD}'0/4' {HINT}"),
    (["--shard", "5/4", "x"], f"{SHARD}'5/4' {HINT}"),
    (["--shard", "1/9999999", "x"], f"{SHARD}'1/9999999' {HINT}"),
    (["--shard", "\u0661/\u0662", "x"], None),
    (["--seed", "x", "x"], f"--seed: write a whole number, not 'x' {HINT}"),
    (["--strategy", "best", "x"], None),
    (["-q", "0", "x"], "-q/--attempts must be a whole number from 1 to 10, not 0"),
    (["-o", "x.csv", "x"], "-o 'x.csv': the name must end in .jsonl or .parquet"),
    (["--resume", "x"], "--resume needs a file of results: name it with -o"),
    (["--force", "-o", "-", "x"], "--force needs a file of results: name it with -o"),
    (["--force", "--resume", "-o", "a.jsonl", "x"], "--force contradicts --resume: drop one of them"),
    (["--simulate", "demo", "x"], f"--simulate: write synthetic:1 or another number, not 'demo' {HINT}"),
    (["--simulate", "synthetic:1", "-i", "lo", "x"], "-i/--interface contradicts --simulate: drop one of them"),
    (["--source-port", "9", "x"], None),
    (["--mtu", "x"], f"--mtu: no such option {HINT}; write -- before a FILE that begins with -"),
    (["-4", "-6", "x"], "-6 contradicts -4: drop one of them"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD_ARGUMENTS)
def test_bad_arguments(
    arguments: list[str], sentence: str | None, capsys: pytest.CaptureFixture[str], opened: Opened
) -> None:
    assert main(["batch", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), opened.engines) == ("", 1, [])
    assert sentence is None or err == f"allhops: {sentence}\n"


VALUED = [
    *("-q", "-f", "-m", "-p", "-t", "-l", "-s", "-i", "-w", "--size", "--dscp", "--gap-limit", "--rate", "--backend"),
    *("--strategy", "--seed", "--shard", "--simulate", "-o", "--exclude"),
]
ABSURD = [
    "0",
    "-1",
    "1",
    "9" * 30,
    "nan",
    "inf",
    "1e99",
    "",
    " ",
    "\u0663",
    "1/1",
    "2/1",
    "synthetic:-1",
    "max",
    "/dev/null",
]
ANY_VALUE = st.sampled_from(ABSURD) | st.text(max_size=8) | st.integers().map(str) | st.floats().map(str)


@given(st.lists(st.sampled_from(VALUED) | ANY_VALUE | st.just("--resume"), max_size=6))
def test_any_arguments_are_a_request_or_a_usage_error(arguments: list[str]) -> None:
    with contextlib.suppress(UsageError, SystemExit):  # SystemExit is --help's
        assert read_batch_arguments(arguments).options


@pytest.mark.parametrize("value", ABSURD)
@pytest.mark.parametrize("option", VALUED)
def test_any_value_of_any_option_is_taken_or_refused_in_one_line(
    option: str, value: str, listed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "open_engine", lambda request: _checked(request))
    status = main(["batch", f"{option}={value}" if option.startswith("--") else f"{option}{value}", str(listed)])
    out, err = capfd.readouterr()
    assert (status, len(out.splitlines()), len(err.splitlines())) in ((0, 40, 3), (0, 0, 3), (2, 0, 1))
    assert err.replace("\n", "").isprintable()


def _checked(request: BatchRequest) -> StandIn:
    """What the real engine takes, too."""
    Batch(request.options, rate_pps=request.rate_pps, seed=request.seed, strategy="parallel")
    return StandIn()


def test_defaults() -> None:
    request = read_batch_arguments(["-"])
    assert request.options == TraceOptions()
    assert (request.list_path, request.rate_pps, request.backend) == ("-", BATCH_RATE_PPS, BACKENDS[0])
    assert (request.strategy, request.shard, request.seed) == (None, Shard(1, 1), None)
    assert (request.output, request.exclude_path, request.resume, request.force) == (None, None, False, False)


def test_letters() -> None:
    line = (
        "-q 1 -m 20 -w 1.5 -I -4 --rate max --strategy frugal --exclude e --seed 7 --shard 2/3 "
        "-o o.jsonl --resume --backend raw -- -list"
    )
    request = read_batch_arguments(line.split())
    assert request.options == TraceOptions(attempts=1, max_ttl=20, timeout=1.5, protocol=Protocol.ICMP, ip_version=4)
    assert (request.list_path, request.rate_pps, request.backend) == ("-list", None, "raw")
    assert (request.strategy, request.shard, request.seed) == ("frugal", Shard(2, 3), 7)
    assert (request.output, request.exclude_path, request.resume) == ("o.jsonl", "e", True)


def test_help_and_hosts_of_that_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: allhops batch [options] FILE")
    for option in ("--rate", "--strategy", "--exclude", "--seed", "--shard", "-o", "--resume", "--force", "-q", "-m"):
        assert f" {option}" in out
    assert main(["--simulate", "no-such-scenario", "--", "batch"]) == 2
    assert "FILE" not in capsys.readouterr().err


# What comes out


def test_every_line_is_accounted_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list").write_text("192.0.2.1 # a\n192.0.2.1\njunk junk\n\n192.0.2.8/30\n192.0.2.99\n")
    (tmp_path / "no").write_text("192.0.2.10\n192.0.2.99\n")
    assert main(["batch", str(tmp_path / "list"), "--exclude", str(tmp_path / "no")]) == 1
    out, err = capfd.readouterr()
    told = {json.loads(text)["destination"]: json.loads(text)["stop_reason"] for text in out.splitlines()}
    assert told == {
        **dict.fromkeys(["192.0.2.1", "192.0.2.8", "192.0.2.9", "192.0.2.11"], "reached"),
        "junk junk": "bad_destination",
    }
    junk, destinations, probes, found = err.splitlines()
    assert junk == "allhops: line 3: 'junk junk': one destination a line, and nothing behind it but a # comment"
    assert destinations == "allhops: 8 destinations: 4 traced, 1 duplicate, 1 no destination, 2 excluded"
    assert probes == "allhops: 8 probes = 8 answered + 0 timed out + 0 local errors + 0 cancelled"
    assert found.startswith("allhops: 5 addresses and 4 links found in ")


def test_complaints_beyond_twenty_are_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list").write_text("a b\n" * 50 + "\x1b[2J\n")
    assert main(["batch", str(tmp_path / "list")]) == 1
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert len(lines) == MAX_COMPLAINTS + 1 + 3
    assert lines[MAX_COMPLAINTS] == "allhops: 31 more lines like these"
    assert len(out.splitlines()) == 51
    assert "\x1b" not in out + err


STATUSES: list[tuple[str, set[str], int]] = [
    ("192.0.2.1\n", set(), 0),
    ("", set(), 0),
    ("# nothing\n", set(), 0),
    ("192.0.2.1\nx y\n", set(), 1),
    ("192.0.2.1\n192.0.2.2\n", {"192.0.2.1"}, 1),
    ("192.0.2.1\n192.0.2.2\n", {"192.0.2.1", "192.0.2.2"}, 4),
    ("x y\n", set(), 1),
]


@pytest.mark.parametrize(("content", "unreachable", "status"), STATUSES)
@pytest.mark.usefixtures("capfd")
def test_exit_statuses(content: str, unreachable: set[str], status: int, tmp_path: Path, opened: Opened) -> None:
    opened.unreachable = frozenset(unreachable)
    (tmp_path / "list").write_text(content)
    assert main(["batch", str(tmp_path / "list")]) == status


def test_what_could_not_be_traced_is_not_counted_as_traced(
    listed: Path, opened: Opened, capfd: pytest.CaptureFixture[str]
) -> None:
    opened.unreachable = frozenset({"192.0.2.1", "192.0.2.2"})
    assert main(["batch", str(listed)]) == 1
    assert "40 destinations: 38 traced, 2 could not be traced\n" in capfd.readouterr().err


def test_no_permission(monkeypatch: pytest.MonkeyPatch, listed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async def refuse(self: StandIn) -> StandIn:
        raise PrivilegeError("raw sockets are not allowed")

    monkeypatch.setattr(StandIn, "__aenter__", refuse)
    assert main(["batch", str(listed)]) == 3
    assert capfd.readouterr().err == "allhops: raw sockets are not allowed\n"


@pytest.mark.parametrize("path", ["no-such-list", "."])
def test_a_list_that_cannot_be_read(path: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", path]) == 2
    assert capfd.readouterr().err.startswith(f"allhops: cannot read the list {path}: ")


@pytest.mark.parametrize("option", ["--force", "--resume"])
def test_results_never_replace_what_is_read(option: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    listed, link, other = tmp_path / "list.jsonl", tmp_path / "link.jsonl", tmp_path / "other"
    listed.write_text(MANY)
    link.symlink_to(listed)
    other.write_text(MANY)
    for out in (listed, link):
        assert main(["batch", str(listed), "-o", str(out), option]) == 2
        assert capfd.readouterr().err == f"allhops: -o {out} is the list itself: choose another file\n"
    assert main(["batch", str(other), "--exclude", str(listed), "-o", str(listed), option]) == 2
    assert capfd.readouterr().err == f"allhops: -o {listed} is what --exclude reads: choose another file\n"
    assert listed.read_text() == MANY


def test_a_list_from_a_closed_input(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert main(["batch", "-"]) == 2
    assert capfd.readouterr().err == "allhops: cannot read the list standard input: Bad file descriptor\n"


def test_results_to_a_closed_output(
    listed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert main(["batch", str(listed)]) == 74
    assert capfd.readouterr().err == "allhops: cannot write the results: Bad file descriptor\n"


def test_standard_output_by_its_name_is_no_file_of_results(listed: Path) -> None:
    assert read_batch_arguments(["-o", "/dev/stdout", str(listed)]).output is None


@pytest.mark.parametrize("error", [UsageError("size must be at least 36"), PrivilegeError("no ICMP")])
def test_what_no_destination_can_have_is_all_that_is_said(
    error: Exception, tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _refuse(monkeypatch, error)
    assert main(["batch", str(listed), "-o", str(tmp_path / "out.jsonl")]) in (2, 3)
    assert capfd.readouterr().err == f"allhops: {error}\n"


def _refuse(monkeypatch: pytest.MonkeyPatch, error: Exception = TOO_SMALL) -> None:
    """An engine that finds out with the first destination that none can be traced."""

    async def refuse(self: StandIn, window: object) -> AsyncGenerator[Harvest, None]:
        raise error
        yield

    monkeypatch.setattr(StandIn, "_ended", refuse)


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("is_file", [True, False])
def test_a_run_that_is_refused_leaves_nothing(
    name: str,
    force: list[str],
    is_file: bool,
    tmp_path: Path,
    listed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    reader = listed.open()
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdin", reader)
        _refuse(patched)
        assert main(["batch", str(listed) if is_file else "-", "-o", str(tmp_path / name), *force]) == 2
    assert capfd.readouterr().err == "allhops: size must be at least 36\n"
    assert [path.name for path in tmp_path.iterdir()] == ["list"]
    assert main(["batch", str(listed), "-o", str(tmp_path / name)]) == 0


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
@pytest.mark.usefixtures("capfd")
def test_a_list_in_another_encoding_leaves_nothing(name: str, tmp_path: Path, listed: Path) -> None:
    listed.write_text(MANY, encoding="utf-16")
    assert main(["batch", str(listed), "-o", str(tmp_path / name)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["list"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
@pytest.mark.usefixtures("capfd")
def test_a_run_that_is_refused_takes_nothing_away_that_was_there(
    name: str, tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["batch", str(listed), "-o", str(tmp_path / name)]
    with monkeypatch.context() as patched:
        patched.setattr(StandIn, "_reason", _stop_after(3))
        assert main(command) == 130
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with monkeypatch.context() as patched:
        _refuse(patched)
        assert main(command) == 2
        assert main([*command, "--resume"]) == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert main([*command, "--resume"]) == 0


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
@pytest.mark.usefixtures("capfd")
def test_a_run_that_is_refused_keeps_what_it_has_told(
    name: str, tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed.write_text("x y\n" + MANY)
    _refuse(monkeypatch)
    assert main(["batch", str(listed), "-o", str(tmp_path / name)]) == 2
    kept = tmp_path / name if name.endswith(".jsonl") else tmp_path / f"{name}.parts" / "part-000001.arrow"
    assert b"x y" in kept.read_bytes()


def test_exclusions_that_cannot_be_read(tmp_path: Path, listed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    no = tmp_path / "no"
    assert main(["batch", str(listed), "--exclude", str(no)]) == 2
    no.write_text("10.0.0.0/8\nhost.example\n")
    assert main(["batch", str(listed), "--exclude", str(no)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"allhops: --exclude {no} cannot be read: No such file or directory",
        f"allhops: --exclude {no}: line 2: 'host.example' is no prefix: nothing is probed before that is clear",
    ]


@pytest.mark.usefixtures("capfd")
def test_shards_share_the_list(listed: Path, opened: Opened) -> None:
    fed = []
    for index in (1, 2, 3):
        assert main(["batch", str(listed), "--shard", f"{index}/3"]) == 0
        fed.append(opened.fed)
    assert sorted(sum(fed, [])) == sorted(MANY.split())  # noqa: RUF017  # three short lists
    assert all(fed)


def test_progress_is_one_line_that_is_taken_away(capfd: pytest.CaptureFixture[str]) -> None:
    console = Console(shows_progress=True)
    console.progress(lambda: "1/2")
    console.say("a sentence")
    console.progress(lambda: "2/2" * 100)
    console.clear()
    console.clear()
    err = capfd.readouterr().err
    assert err == f"\r\x1b[K1/2\r\x1b[Kallhops: a sentence\n\r\x1b[K{('2/2' * 100)[:79]}\r\x1b[K"
    quiet = Console(shows_progress=False)
    quiet.progress(lambda: pytest.fail("nobody looks"))
    quiet.clear()
    assert capfd.readouterr().err == ""


# Files of results


def test_a_file_that_exists_is_refused_resumed_or_begun_anew(
    tmp_path: Path, listed: Path, opened: Opened, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    command = ["batch", str(listed), "-o", str(out)]
    assert main(command) == 0
    assert Counter(names_in(out)) == Counter(MANY.split())
    said = json.loads((tmp_path / "out.jsonl.run").read_text())
    assert (said["schema"], said["shard"], said["options"]["attempts"]) == ("allhops.run/1", "1/1", 3)
    before = out.read_bytes()
    capfd.readouterr()
    assert main(command) == 2
    assert capfd.readouterr().err == f"allhops: {out} exists: --resume goes on with it, --force begins anew\n"
    assert main([*command, "--resume"]) == 0
    assert (opened.fed, out.read_bytes()) == ([], before)
    assert "40 destinations: 0 traced, 40 finished before\n" in capfd.readouterr().err
    assert main([*command, "--force", "-q", "1"]) == 0
    assert (len(opened.fed), len(names_in(out))) == (40, 40)
    assert main([*command, "--resume", "-q1"]) == 0


DIFFERENT = [
    (["-q", "1"], "-q/--attempts was 3 and is now 1"),
    (["--strategy", "frugal"], "--strategy was auto and is now frugal"),
    (["--shard", "1/2"], "--shard was 1/1 and is now 1/2"),
    (["--seed", "8"], "--seed was not given and is now 8"),
    (["--exclude", "/dev/null"], "--exclude is another one"),
    (["-I"], "protocol was udp and is now icmp; -p/--port was 33434 and is now not given"),
]


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize(("options", "difference"), DIFFERENT)
def test_other_options_are_refused(
    options: list[str], difference: str, name: str, tmp_path: Path, listed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / name
    assert main(["batch", str(listed), "-o", str(out)]) == 0
    capfd.readouterr()
    assert main(["batch", str(listed), "-o", str(out), "--resume", *options]) == 2
    sentence = (
        f"{out} cannot be resumed, it was begun otherwise: {difference}: ask for the same, or choose another file"
    )
    assert capfd.readouterr().err == f"allhops: {sentence}\n"


def test_another_list_is_refused(tmp_path: Path, listed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["batch", str(listed), "-o", str(tmp_path / "out.jsonl")]
    assert main(command) == 0
    listed.write_text(MANY + "192.0.2.77\n")
    assert main([*command, "--resume"]) == 2
    assert "the list is another one" in capfd.readouterr().err


def test_what_says_nothing_about_the_run_is_refused(
    tmp_path: Path, listed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, run_file = tmp_path / "out.jsonl", tmp_path / "out.jsonl.run"
    command = ["batch", str(listed), "-o", str(out), "--resume"]
    out.write_text("precious\n")
    for said, sentence in [
        (None, "cannot be read (No such file or directory)"),
        ("", "is damaged"),
        ("[]", "is damaged"),
        ('{"schema": "allhops.run/1"}', "is damaged"),
        ('{"schema": "allhops.run/2"}', "is of another version"),
    ]:
        if said is not None:
            run_file.write_text(said)
        assert main(command) == 2
        assert f"{run_file} {sentence}" in capfd.readouterr().err
    assert out.read_text() == "precious\n"


def _begun(tmp_path: Path, content: str, capfd: pytest.CaptureFixture[str]) -> tuple[list[str], Path, bytes]:
    """(command, its file, what the file holds when all is done)."""
    listed, out = tmp_path / "list", tmp_path / "out.jsonl"
    listed.write_text(content)
    command = ["batch", str(listed), "-o", str(out)]
    main(command)
    capfd.readouterr()
    return [*command, "--resume"], out, out.read_bytes()


MIXED = "192.0.2.1\nx y\n[2001:db8::1]\n::ffff:192.0.2.7\nx y\nlocalhost\n192.0.2.4/31\n192.0.2.1\n1.2.3.4:5\nno such\n"


def test_cut_at_any_byte_nothing_is_lost_and_nothing_twice(
    tmp_path: Path, opened: Opened, capfd: pytest.CaptureFixture[str]
) -> None:
    command, out, whole = _begun(tmp_path, MIXED, capfd)
    wanted = _records(whole)
    assert len(whole.splitlines()) == 10
    for cut in random.Random(1).sample(range(len(whole) + 1), 100):
        out.write_bytes(whole[:cut])
        assert main(command) == 1
        assert _records(out.read_bytes()) == wanted
        kept = whole[: whole.rfind(b"\n", 0, cut) + 1]
        assert out.read_bytes().startswith(kept)
        assert len(opened.fed) == 6 - sum(
            record["address"] is not None for record in map(json.loads, kept.splitlines())
        )
        assert f"11 destinations: {len(opened.fed)} traced" in capfd.readouterr().err


def _records(content: bytes) -> Counter[tuple[str, str]]:
    return Counter((record["destination"], record["error"]) for record in map(json.loads, content.splitlines()))


def test_cut_at_every_byte_only_whole_lines_count(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, out, whole = _begun(tmp_path, MIXED, capfd)
    whole = b"".join(whole.splitlines(keepends=True)[-2:])
    for cut in range(len(whole) + 1):
        out.write_bytes(whole[:cut])
        descriptor = os.open(out, os.O_RDONLY)
        finished, size = read_json_lines(descriptor, str(out))
        os.close(descriptor)
        assert size == whole.rfind(b"\n", 0, cut) + 1
        known = finished.known
        assert sum(map(len, (*known.addresses.values(), known.lines))) == whole[:cut].count(b"\n")


@pytest.mark.parametrize("at_once", [1 << 20, 512])
def test_zeros_behind_a_power_failure_are_dropped(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("allhops.cli.batch.finished._READ_BYTES", at_once)
    command, out, whole = _begun(tmp_path, MANY, capfd)
    lines = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:9]) + lines[9][:30] + bytes(5_000) + b"\n" + lines[11])
    assert main(command) == 0
    assert Counter(names_in(out)) == Counter(MANY.split())


@pytest.mark.parametrize(
    "damage", [b"\n", b"hello\n", b'{"schema":"allhops.trace/1"}\n', b'{"schema":"allhops.trace/1",\n']
)
def test_a_line_that_is_not_ours_is_not_thrown_away(
    damage: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command, out, whole = _begun(tmp_path, MANY, capfd)
    lines = whole.splitlines(keepends=True)
    changed = b"".join([*lines[:3], damage, *lines[4:]])
    out.write_bytes(changed)
    assert main(command) == 2
    assert capfd.readouterr().err == f"allhops: {out}: line 4 is damaged or not ours: take it out, or use --force\n"
    assert out.read_bytes() == changed


def test_killed_between_the_two_files(tmp_path: Path, listed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    command = ["batch", str(listed), "-o", str(out), "--resume"]
    assert main(command) == 0
    out.unlink()
    assert main(command) == 0
    out.write_bytes(b"")
    assert main(command) == 0
    assert Counter(names_in(out)) == Counter(MANY.split())


def test_two_runs_never_write_one_file(tmp_path: Path, listed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command, out, whole = _begun(tmp_path, MANY, capfd)
    descriptor = outputs.open_alone(str(out), anew=False)
    for option in ("--resume", "--force"):
        assert main([*command[:-1], option]) == 2
        assert capfd.readouterr().err == f"allhops: {out} is being written by another run\n"
    os.close(descriptor)
    assert out.read_bytes() == whole


# A disk that is full


class FullDisk:
    """Takes so many bytes, then none."""

    def __init__(self, room: int, code: int) -> None:
        self.room = room
        self._code = code
        self._write = os.write

    def write(self, descriptor: int, data: Any) -> int:
        part = bytes(data)[: self.room]
        if not part:
            raise OSError(self._code, os.strerror(self._code))
        self.room -= len(part)
        return self._write(descriptor, part)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("room", [0, 100, 5_000])
@pytest.mark.parametrize("write_bytes", [64, outputs.WRITE_BYTES])
def test_a_full_disk_keeps_whole_lines_and_is_gone_on_with(
    code: int,
    room: int,
    write_bytes: int,
    tmp_path: Path,
    listed: Path,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.jsonl"
    command = ["batch", str(listed), "-o", str(out)]
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", FullDisk(room, code).write)
        patched.setattr(outputs, "WRITE_BYTES", write_bytes)
        assert main(command) == 74
    err = capfd.readouterr().err
    assert f"allhops: cannot write {out}: {os.strerror(code)}\n" in err
    assert "the same command with --resume does the rest" in err
    assert out.read_bytes() == b"" or out.read_bytes().endswith(b"}\n")
    assert f" destinations: {len(names_in(out))} traced" in err
    assert len(opened.fed) < 40
    assert main([*command, "--resume"]) == 0
    assert Counter(names_in(out)) == Counter(MANY.split())


def test_a_disk_without_room_for_what_was_asked_for(
    tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    out = tmp_path / "out.jsonl"
    assert main(["batch", str(listed), "-o", str(out)]) == 74
    assert capfd.readouterr().err == f"allhops: cannot write {out}.run: No space left on device\n"
    assert [path.name for path in tmp_path.iterdir()] == ["list"]


def test_what_is_on_the_disk_need_not_be_in_memory(
    tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    advised: list[int] = []

    def advise(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert (offset, length, advice) == (0, 0, os.POSIX_FADV_DONTNEED)
        advised.append(os.fstat(descriptor).st_size)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))  # not every file system takes the hint

    monkeypatch.setattr(outputs, "SYNC_S", 0.0)
    monkeypatch.setattr(os, "posix_fadvise", advise)
    out = tmp_path / "out.jsonl"
    assert main(["batch", str(listed), "-o", str(out)]) == 0
    assert len(names_in(out)) == 40
    assert 0 < advised[0] < advised[-1] == out.stat().st_size


def test_a_disk_that_fails_to_sync(
    tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".jsonl"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    assert main(["batch", str(listed), "-o", str(tmp_path / "out.jsonl")]) == 74
    assert "Input/output error" in capfd.readouterr().err


def test_what_is_on_the_disk_is_not_kept_in_memory_as_well(
    tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, told = tmp_path / "out.jsonl", []
    fsync = os.fsync

    def name(descriptor: int) -> str:
        return os.readlink(f"/proc/self/fd/{descriptor}")

    def sync(descriptor: int) -> None:
        fsync(descriptor)
        told.append(("synced", name(descriptor)))

    def advise(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert (offset, length, advice) == (0, 0, os.POSIX_FADV_DONTNEED)
        told.append(("forgotten", name(descriptor)))

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "posix_fadvise", advise)
    assert main(["batch", str(listed), "-o", str(out)]) == 0
    assert [what for what, path in told if path == str(out)][-2:] == ["synced", "forgotten"]


def test_a_write_that_is_under_way_is_waited_for(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread does it: whoever stopped waiting would write the next lines into the middle of these."""
    ends: list[str] = []

    async def catch_up(stream: outputs.JsonLinesStream) -> None:
        try:
            for _ in range(50):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            ends.append("cut short")
            raise
        ends.append("done")

    monkeypatch.setattr(run, "TICK_S", 0.0)
    monkeypatch.setattr(outputs.JsonLinesStream, "catch_up", catch_up)
    assert main(["batch", str(listed)]) == 0
    assert set(ends) == {"done"}


# The real engine, and tables


def test_a_computed_internet(listed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.undo()
    listed.write_text("20.0.0.1\n20.0.1.0/30\n192.0.2.1\n2001:db8::1\nno.example\n")
    assert main(["batch", "--simulate", "synthetic:1", "-q1", "-w", "0.5", "--rate", "max", str(listed)]) == 1
    out, err = capfd.readouterr()
    told = {record["destination"]: record for record in map(json.loads, out.splitlines())}
    assert len(told) == 8
    assert told["20.0.0.1"]["backend"] == "simulated"
    assert told["20.0.0.1"]["hops"][0]["probes"][0]["state"] == "answered"
    assert told["2001:db8::1"]["error"] == "2001:db8::1: the simulated internet has no IPv6"
    assert told["no.example"]["error"] == "line 5: no.example: no such name, or it has no address"
    sent, answered, *lost = map(int, re.findall(r"\d+", err.splitlines()[-2].replace(",", "")))
    assert sent == answered + sum(lost) > 0


def test_a_size_that_no_probe_can_have_is_refused_before_anything_is_made(
    tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    out = tmp_path / "out.jsonl"
    assert main(["batch", "--simulate", "synthetic:1", "--size", "20", "-o", str(out), str(listed)]) == 2
    sentence = "--size must be at least 36 for udp over IPv4, not 20: the probe's name has to fit"
    assert capfd.readouterr().err == f"allhops: {sentence}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["list"]


def test_what_was_not_begun_is_owned_up_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list").write_text("192.0.2.1\nx y\n10.0.0.0/9\n192.0.2.2\n")
    command = ["batch", str(tmp_path / "list"), "-o", str(tmp_path / "out.jsonl")]
    monkeypatch.setattr(StandIn, "_reason", _stop_after(3))
    assert main(command) == 130
    *_, destinations, _, _, unread, resume = capfd.readouterr().err.splitlines()
    read, rest = (int(re.findall(r"[\d,]+", line)[0].replace(",", "")) for line in (destinations, unread))
    assert read + rest == 3 + (1 << 23)
    assert unread == f"allhops: {rest:,} more destinations of the list were not begun"
    assert resume.endswith("--resume does the rest")


def test_a_table_is_gone_on_with(
    tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    listed, out = tmp_path / "list", tmp_path / "out.parquet"
    listed.write_text(MIXED)
    command = ["batch", str(listed), "-o", str(out)]
    with monkeypatch.context() as patched:
        patched.setattr(StandIn, "_reason", _stop_after(3))
        assert main(command) == 130
    assert "the same command with --resume does the rest" in capfd.readouterr().err
    assert not out.exists()
    assert main(command) == 2
    assert capfd.readouterr().err == f"allhops: {out}.parts exists: --resume goes on with it, --force begins anew\n"
    assert main([*command, "--resume", "-m", "9"]) == 2
    assert "-m/--max-ttl was 30 and is now 9" in capfd.readouterr().err
    assert main([*command, "--resume", "--seed", "8"]) == 2
    assert "begun otherwise: --seed was not given and is now 8: " in capfd.readouterr().err
    listed.write_text(MIXED + "192.0.2.77\n")
    assert main([*command, "--resume"]) == 2
    assert "begun otherwise: the list is another one: " in capfd.readouterr().err
    listed.write_text(MIXED)
    assert main([*command, "--resume"]) == 1
    assert len(opened.fed) == 3
    rows = parquet.ParquetFile(out).read().to_pylist()
    records = {(row["destination"], row["position"], row["error"]) for row in rows}
    assert sorted(position for _, position, _ in records) == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10]
    assert main([*command, "--resume"]) == 1
    assert "11 destinations: 0 traced, 10 finished before, 1 duplicate\n" in capfd.readouterr().err


def _stop_after(count: int) -> Callable[[StandIn, Destination], StopReason]:
    """An engine that is interrupted by a signal."""
    ended = 0

    def reason(self: StandIn, destination: Destination) -> StopReason:
        nonlocal ended
        ended += 1
        if ended == count + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return StopReason.REACHED if ended <= count else StopReason.INTERRUPTED

    return reason
