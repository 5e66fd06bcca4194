"""A batch as a process: killed, interrupted, its reader gone, its list slow, its disk full.

The engine is the stand-in of tests/stand_in.py: nothing is sent anywhere.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from allhops.testing.namespaces import importing_us

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tests.stand_in"]
PATIENCE_S = 60.0
"""Far longer than anything takes."""
LOOK_S = 0.01
"""Between two looks at what is waited for."""
KILLS = 12
MOST_RUNS = 500
NOBODY = 65_534


@pytest.fixture
def listed(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "list"
    addresses = [f"10.{number // 256}.{number % 256}.1\n" for number in range(500)]
    junk = [f"line {number}\n" for number in range(20)]
    path.write_text("".join([*addresses[:300], *junk, "localhost\n", *addresses[250:], "10.9.9.0/24\n"]))
    return path


WANTED = 500 + 20 + 1 + 256


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """What a test started: none of it survives."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(started: list[subprocess.Popen[bytes]], *words: str, **options: Any) -> subprocess.Popen[bytes]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    started.append(subprocess.Popen([*COMMAND, *words], cwd=ROOT, env=importing_us(), bufsize=0, **pipes))
    return started[-1]


def records_in(path: pathlib.Path) -> Counter[tuple[str, str | None]]:
    return Counter(
        (record["destination"], record["error"]) for record in map(json.loads, path.read_text().splitlines())
    )


def test_killed_again_and_again_nothing_is_lost_and_nothing_twice(
    tmp_path: pathlib.Path, listed: pathlib.Path, started: list[subprocess.Popen[bytes]]
) -> None:
    out = tmp_path / "out.jsonl"
    chance = random.Random(4)
    kills = 0
    for _ in range(MOST_RUNS):
        process = start(started, str(listed), "-o", str(out), "--resume")
        with suppress(subprocess.TimeoutExpired):
            # How long it lives decides how often it is killed, never what must come out.
            process.wait(chance.uniform(0.2, 1.2) if kills < KILLS else PATIENCE_S)
        if process.poll() is None:
            kills += 1
            process.kill()
            process.communicate()
        else:
            break
    assert (process.returncode, kills > 0) == (1, True), process.communicate()
    records = records_in(out)
    assert (len(records), set(records.values())) == (WANTED, {1})


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_leaves_a_file_that_is_gone_on_with(
    tmp_path: pathlib.Path,
    listed: pathlib.Path,
    started: list[subprocess.Popen[bytes]],
    number: signal.Signals,
    status: int,
) -> None:
    out = tmp_path / "out.jsonl"
    process = start(started, str(listed), "-o", str(out))
    while not out.exists() or b'"reached":true' not in out.read_bytes():
        with suppress(subprocess.TimeoutExpired):
            pytest.fail(f"it ended with {process.wait(LOOK_S)}")
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == status
    assert b"cut short" in err
    assert b"allhops: the same command with --resume does the rest\n" in err
    assert 0 < len(records_in(out)) < WANTED
    assert {json.loads(text)["stop_reason"] for text in out.read_text().splitlines()} == {"reached", "bad_destination"}
    again = start(started, str(listed), "-o", str(out), "--resume")
    assert again.communicate(timeout=PATIENCE_S)[0] == b""
    assert again.returncode == 1
    records = records_in(out)
    assert (len(records), set(records.values())) == (WANTED, {1})


def test_a_signal_prints_what_was_under_way_where_nothing_can_be_resumed(
    listed: pathlib.Path, started: list[subprocess.Popen[bytes]]
) -> None:
    process = start(started, str(listed))
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    reasons = {json.loads(text)["stop_reason"] for text in (first + out).splitlines()}
    assert "reached" in reasons


def test_a_second_signal_ends_it_at_once(started: list[subprocess.Popen[bytes]], listed: pathlib.Path) -> None:
    process = start(started, str(listed))
    assert process.stdout is not None
    process.stdout.readline()  # and never more: the pipe fills, and the writer stands still
    process.send_signal(signal.SIGINT)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_S)
    assert process.returncode in (-signal.SIGINT, 130)


def test_a_reader_that_leaves_is_a_quiet_end(started: list[subprocess.Popen[bytes]], tmp_path: pathlib.Path) -> None:
    listed = tmp_path / "list"
    listed.write_text("10.1.0.0/22\n")
    process = start(started, str(listed))
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_a_list_that_comes_slowly_is_traced_as_it_comes(started: list[subprocess.Popen[bytes]]) -> None:
    process = start(started, "-")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"".join(f"10.0.0.{last}\n".encode() for last in range(20)))  # a window of the stand-in
    process.stdin.flush()
    for _ in range(20):
        assert json.loads(process.stdout.readline())["reached"]
    process.stdin.write(b"10.0.1.1")
    process.stdin.close()
    process.stdin = None
    out, err = process.communicate(timeout=PATIENCE_S)
    assert json.loads(out)["destination"] == "10.0.1.1"
    assert b"21 destinations: 21 traced\n" in err
    assert process.returncode == 0


def test_a_signal_while_the_list_stands_still(started: list[subprocess.Popen[bytes]]) -> None:
    process = start(started, "-")
    assert process.stdin is not None
    process.stdin.write(b"a b\n")
    process.stdin.flush()
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"allhops: line 1: ")
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130


def test_a_list_that_flows_by_cannot_be_resumed(started: list[subprocess.Popen[bytes]], tmp_path: pathlib.Path) -> None:
    words = ("-", "-o", str(tmp_path / "out.jsonl"))
    first = start(started, *words)
    first.communicate(b"10.0.0.1\n", timeout=PATIENCE_S)
    assert first.returncode == 0
    second = start(started, *words, "--resume")
    _, err = second.communicate(b"10.0.0.1\n", timeout=PATIENCE_S)
    assert second.returncode == 2
    assert err == b"allhops: --resume reads the list once more, to be sure that it is the same: give it as a file\n"


@pytest.mark.lab
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_is_too_small(
    started: list[subprocess.Popen[bytes]], tmp_path: pathlib.Path, listed: pathlib.Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "allhops-test", str(small)], check=True)
    try:
        out = small / "out.jsonl"
        process = start(started, str(listed), "-o", str(out))
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 74
        assert f"allhops: cannot write {out}: No space left on device\n".encode() in err
        assert out.read_bytes().endswith(b"}\n")
        subprocess.run(["mount", "-o", "remount,size=16m", str(small)], check=True)
        again = start(started, str(listed), "-o", str(out), "--resume")
        again.communicate(timeout=PATIENCE_S)
        assert again.returncode == 1
        records = records_in(out)
        assert (len(records), set(records.values())) == (WANTED, {1})
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.lab
@pytest.mark.skipif(os.geteuid() != 0, reason="giving root up needs root")
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_under_sudo_the_files_are_the_callers(listed: pathlib.Path, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        directory.chmod(0o777)
        shutil.copy(listed, directory / "list")
        (directory / "list").chmod(0o644)
        secret = directory / "secret"
        secret.write_text("not for you\n")
        secret.chmod(0o600)
        out = directory / f"out.{suffix}"
        environment = {**importing_us(), "SUDO_UID": str(NOBODY), "SUDO_GID": str(NOBODY)}
        command = [*COMMAND, "-o", str(out)]
        ended = subprocess.run(
            [*command, str(directory / "list")], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert ended.returncode == 1, ended.stderr
        assert {path.stat().st_uid for path in directory.glob("out.*")} == {NOBODY}
        refused = subprocess.run(
            [*command, "--force", str(secret)], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == f"allhops: cannot read the list {secret}: Permission denied\n"
