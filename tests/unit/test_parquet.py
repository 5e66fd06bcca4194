"""Parquet: rows say what the traces say, and whatever ends the process, nothing is lost or doubled."""

from __future__ import annotations

import concurrent.futures
import errno
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow.feather
import pyarrow.parquet
import pytest

from allhops.core.harvest import STOP_REASONS
from allhops.core.ledger import UNSENT, Ledger
from allhops.errors import UsageError
from allhops.model import StopReason, Trace
from allhops.output import parquet, table_files
from allhops.output.extensions import write_extension
from allhops.output.json import compact
from allhops.output.parquet import ParquetWriter
from tests.harvests import EPOCH_NS, likely_harvest, random_harvest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from allhops.core.harvest import Harvest
    from allhops.model import Hop, Probe

BATCH = {"list": "a.txt", "attempts": "1"}
Row = dict[str, Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.parquet"


def writer(path: Path, **options: Any) -> ParquetWriter:
    return ParquetWriter(path, fingerprint=BATCH, **options)


def written(path: Path, *harvests: Harvest) -> list[Row]:
    output = writer(path)
    for harvest in harvests:
        output.harvest(harvest)
    output.close()
    return rows_of(path)


def rows_of(path: Path) -> list[Row]:
    rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


def destinations(path: Path) -> Counter[str]:
    """How many rows each has."""
    return Counter(row["destination"] for row in rows_of(path))


def stored(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def as_rows(trace: Trace, position: int | None) -> Iterator[Row]:
    """What a trace's value of the model says, as rows."""
    flow = trace.flow
    common = {
        "destination": stored(trace.destination),
        "position": position,
        "address": trace.address and str(trace.address),
        "source": trace.source and str(trace.source),
        "protocol": str(trace.protocol),
        "source_port": flow and flow.source_port,
        "destination_port": flow and flow.destination_port,
        "duration_ns": trace.duration_ns,
        "stop_reason": str(trace.stop_reason),
        "error": trace.error,
        "backend": trace.backend,
    }
    for hop in trace.hops:
        if hop.inherited is not None:
            yield common | inherited_row(hop)
        for probe in hop.probes:
            yield common | probe_row(hop, probe)


def inherited_row(hop: Hop) -> Row:
    assert hop.inherited is not None
    told = {"ttl": hop.ttl, "state": "inherited", "responder": str(hop.inherited.address)}
    return NOTHING | told | {"inherited_from": str(hop.inherited.destination)}


def probe_row(hop: Hop, probe: Probe) -> Row:
    sent = NOTHING | {
        "ttl": hop.ttl,
        "probe_ttl": probe.probe_ttl,
        "attempt": probe.attempt,
        "state": str(probe.state),
        "late_rtt_ns": probe.late_rtt_ns,
    }
    reply = probe.reply
    if reply is None:
        return sent
    same = ("rtt_ns", "icmp_type", "icmp_code", "reply_ttl", "quoted_ttl", "quoted_tos", "mtu", "duplicates")
    return sent | {name: getattr(reply, name) for name in same} | {
        "responder": str(reply.address),
        "kind": str(reply.kind),
        "port_state": reply.port_state and str(reply.port_state),
        "flags": ",".join(reply.flags),
        "matched": ",".join(reply.matched),
        "extensions": compact([*map(write_extension, reply.extensions)]) if reply.extensions else None,
    }  # fmt: skip


NOTHING: Row = dict.fromkeys(
    [
        "ttl", "probe_ttl", "attempt", "state", "responder", "rtt_ns", "late_rtt_ns", "kind", "icmp_type", "icmp_code",
        "reply_ttl", "quoted_ttl", "quoted_tos", "mtu", "port_state", "flags", "matched", "duplicates", "extensions",
        "inherited_from",
    ]
)  # fmt: skip


def comparable(rows: Any) -> list[tuple[tuple[str, str], ...]]:
    """Rows without regard to order, and without the time that Python's datetime is too coarse for."""
    return sorted(tuple((name, str(row[name])) for name in sorted(row) if name != "started_at") for row in rows)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("seed", range(12))
def test_rows_say_what_the_traces_say(path: Path, seed: int, version: int) -> None:
    harvest = random_harvest(seed, version=version, max_ttl=6, attempts=2)
    rows = written(path, harvest)
    positions = harvest.positions[harvest.courses].tolist()
    wanted = [row for at, trace in zip(positions, harvest.traces(), strict=True) for row in as_rows(trace, at)]
    assert comparable(row for row in rows if row["ttl"] is not None) == comparable(wanted)


@pytest.mark.parametrize("seed", range(6))
def test_a_trace_has_the_rows_of_its_harvest(tmp_path: Path, seed: int) -> None:
    harvest = random_harvest(seed, max_ttl=6, attempts=2)
    rows = written(tmp_path / "harvest.parquet", harvest)
    output = writer(tmp_path / "traces.parquet")
    for position, trace in zip(harvest.positions[harvest.courses].tolist(), harvest.traces(), strict=True):
        output.trace(trace, position=position)
    output.close()
    told = [row for row in rows_of(tmp_path / "traces.parquet") if row["ttl"] is not None]
    assert comparable(told) == comparable(row for row in rows if row["ttl"] is not None)


@pytest.mark.parametrize("seed", range(6))
def test_every_probe_that_was_sent_is_a_row(path: Path, seed: int) -> None:
    harvest = random_harvest(seed, max_ttl=6, attempts=2)
    rows = written(path, harvest)
    states = harvest.ledger.state
    slots = [slot for course in harvest.courses.tolist() for slot in harvest.plan.course_slots(course)]
    assert sum(row["probe_ttl"] is not None for row in rows) == sum(states[slot] != UNSENT for slot in slots)
    order = [(row["position"], row["probe_ttl"] or row["ttl"], row["attempt"] or 0) for row in rows]
    by_trace = [[key[1:] for key in order if key[0] == one] for one in dict.fromkeys(key[0] for key in order)]
    assert all(trace == sorted(trace) for trace in by_trace)
    together = Counter(key[0] for key in order)
    assert [key[0] for key in order] == [*together.elements()]


def test_a_destination_without_a_probe_has_one_row(path: Path) -> None:
    harvest = random_harvest(3, max_ttl=6)
    silent = Ledger(harvest.plan.slots)
    harvest = replace(harvest, ledger=silent, inherited=None)
    rows = written(path, harvest)
    assert [row["position"] for row in rows] == harvest.positions[harvest.courses].tolist()
    assert [{name: row[name] for name in NOTHING} for row in rows] == [NOTHING] * len(rows)


BAD = Trace(
    destination="no\udcffsuch name",
    address=None,
    source=None,
    protocol=next(likely_harvest(1, 1).traces()).protocol,
    flow=None,
    started_at_ns=EPOCH_NS,
    duration_ns=0,
    stop_reason=StopReason.BAD_DESTINATION,
    hops=(),
    error="no\udcff\x1bsuch name: no such name",
)


def test_what_is_no_destination_has_one_row(path: Path) -> None:
    output = writer(path)
    output.trace(BAD, position=7)
    output.trace(BAD)
    output.close()
    rows = rows_of(path)
    assert [(row["destination"], row["position"], row["address"], row["error"]) for row in rows] == [
        (r"no\udcffsuch name", 7, None, "nosuch name: no such name"),
        (r"no\udcffsuch name", None, None, "nosuch name: no such name"),
    ]
    assert rows[0]["stop_reason"] == "bad_destination"


def test_stamps_are_nanoseconds(path: Path) -> None:
    harvest = likely_harvest(1, 3, hops=1)
    written(path, harvest)
    column = pyarrow.parquet.read_table(path)["started_at"]
    assert str(column.type) == "timestamp[ns, tz=UTC]"
    assert column.cast("int64").to_pylist() == harvest.started_ns.tolist()


def test_an_empty_batch_is_a_table_without_rows(path: Path) -> None:
    output = writer(path)
    assert not [*output.finished()]
    output.close()
    assert rows_of(path) == []


# Parts


def test_a_part_is_made_when_there_are_enough_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROWS_PER_PART", 20)
    monkeypatch.setattr(parquet, "MOST_ROWS", 20)
    output = writer(path, clock=lambda: 0.0)
    for part in likely_harvest(1, 9).split(1):
        output.harvest(part)
    output.flush()
    parts_now = sorted((path.parent / "run.parquet.parts").iterdir())
    assert [len(pyarrow.feather.read_table(part)) for part in parts_now] == [20, 20, 20, 20, 10]
    output.close()
    assert pyarrow.parquet.read_metadata(path).num_row_groups == 1
    assert not (path.parent / "run.parquet.parts").exists()


def test_a_part_is_made_when_its_first_rows_are_old(path: Path) -> None:
    now = 100.0
    output = writer(path, clock=lambda: now)
    first, second, third = likely_harvest(1, 3).split(1)
    output.harvest(first)
    now += parquet.SECONDS_PER_PART - 0.1
    output.harvest(second)
    assert not [*output.finished()]
    now += 0.1
    output.harvest(third)
    output.flush()
    assert len([*output.finished()]) == 3
    assert len([*(path.parent / "run.parquet.parts").iterdir()]) == 1
    output.close()


def test_a_part_is_made_though_nothing_more_comes(path: Path) -> None:
    now = 100.0
    output = writer(path, clock=lambda: now)
    output.harvest(likely_harvest(1, 3))
    now += parquet.SECONDS_PER_PART
    output.tick()
    output.abandon()  # waits for the thread
    assert len([*writer(path, resume=True).finished()]) == 3


def test_a_slow_disk_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_synced = threading.Event()
    now = 100.0
    output = writer(path, clock=lambda: now)
    monkeypatch.setattr(os, "fsync", lambda descriptor: is_synced.wait())
    for harvest in likely_harvest(1, 4).split(1):
        output.harvest(harvest)
        now += parquet.SECONDS_PER_PART
        output.tick()
    is_synced.set()
    output.close()
    assert len(destinations(path)) == 4


def test_rows_of_a_part_that_failed_are_in_the_next(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    output = writer(path, clock=lambda: now)
    output.harvest(likely_harvest(1, 3))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        now += parquet.SECONDS_PER_PART
        output.tick()
        concurrent.futures.wait([output._writing] if output._writing is not None else [])
    output.flush()
    output.close()
    assert len(destinations(path)) == 3


def fails(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "no room")


def test_a_part_can_be_read_as_it_is_and_the_joined_file_is_the_same(path: Path) -> None:
    output = writer(path)
    output.harvest(likely_harvest(1, 100))
    output.flush()
    [part] = path.with_name("run.parquet.parts").iterdir()
    assert part.name == "part-000001.arrow"
    told = pyarrow.feather.read_table(part)
    output.close()
    joined = pyarrow.parquet.read_table(path)
    assert (told.schema, told.schema.metadata) == (joined.schema, joined.schema.metadata)
    assert told.to_pylist() == joined.to_pylist()
    assert pyarrow.parquet.read_metadata(path).row_group(0).column(0).compression == "ZSTD"


def test_texts_are_written_once_and_as_numbers_into_each_row(path: Path) -> None:
    written(path, likely_harvest(1, 100))
    schema, group = pyarrow.parquet.read_schema(path), pyarrow.parquet.read_metadata(path).row_group(0)
    columns = [group.column(at) for at in range(group.num_columns)]
    texts = [column for column, field in zip(columns, schema, strict=True) if str(field.type).startswith("dictionary")]
    assert len(texts) > 10
    assert all("RLE_DICTIONARY" in column.encodings for column in texts)


def test_joined_rows_are_in_large_groups(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROWS_PER_PART", 10)
    monkeypatch.setattr(parquet, "MOST_ROWS", 10)
    monkeypatch.setattr(table_files, "ROWS_PER_GROUP", 30)
    harvest = likely_harvest(1, 10)
    output = writer(path)
    for part in harvest.split(1):
        output.harvest(part)
    output.close()
    metadata = pyarrow.parquet.read_metadata(path)
    assert [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)] == [30, 30, 30, 10]
    assert destinations(path) == dict.fromkeys(harvest.names, 10)


def test_parts_of_any_size_are_joined_in_their_order(path: Path) -> None:
    harvest = likely_harvest(1, 11)
    courses = iter(harvest.split(1))
    output = writer(path)
    for size in (1, 3, 2, 1, 1, 3):
        for _ in range(size):
            output.harvest(next(courses))
        output.flush()
    output.close()
    told = [(row["destination"], row["probe_ttl"]) for row in rows_of(path)]
    assert told == [(harvest.names[course], ttl) for course in harvest.courses.tolist() for ttl in range(1, 11)]


# What is there already


def test_what_is_there_is_not_touched(path: Path) -> None:
    written(path, likely_harvest(1, 2))
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"is there already.*resume.*force"):
        writer(path)
    assert path.read_bytes() == before
    writer(path, force=True).close()
    assert rows_of(path) == []


def test_parts_are_not_touched_either(path: Path) -> None:
    output = writer(path)
    output.harvest(likely_harvest(1, 2))
    output.flush()
    output.abandon()
    with pytest.raises(UsageError, match="is there already"):
        writer(path)
    writer(path, force=True).close()
    assert rows_of(path) == []


@pytest.mark.parametrize("joined", [True, False])
def test_another_batch_is_not_resumed(path: Path, joined: bool) -> None:
    output = writer(path)
    output.harvest(likely_harvest(1, 2))
    output.flush()
    output.close() if joined else output.abandon()
    with pytest.raises(UsageError, match=r"attempts was 1 and is now 3; rate was not given and is now 9") as refused:
        ParquetWriter(path, resume=True, fingerprint=BATCH | {"attempts": "3", "rate": "9"})
    assert "list" not in str(refused.value).replace("list of", "")


def test_what_is_no_file_of_ours_is_not_resumed(path: Path) -> None:
    path.write_bytes(b"PAR1 or so")
    with pytest.raises(UsageError, match="no file of allhops"):
        writer(path, resume=True)
    assert path.read_bytes() == b"PAR1 or so"


def test_only_one_process_writes(path: Path) -> None:
    output = writer(path)
    output.harvest(likely_harvest(1, 2))
    with pytest.raises(UsageError, match="another process"):
        writer(path, resume=True)
    output.close()


@pytest.mark.parametrize("joined", [True, False])
def test_resume_goes_on(path: Path, joined: bool) -> None:
    first, second = likely_harvest(1, 20).split(10)
    output = writer(path)
    output.harvest(first)
    output.flush()
    output.close() if joined else output.abandon()
    output = writer(path, resume=True)
    assert Counter(trace.destination for trace in output.finished()) == Counter(
        first.names[course] for course in first.courses.tolist()
    )
    output.harvest(second)
    output.close()
    assert destinations(path) == dict.fromkeys(first.names, 10)
    assert not (path.parent / "run.parquet.parts").exists()


def test_resume_of_what_is_complete_changes_nothing(path: Path) -> None:
    written(path, likely_harvest(1, 2))
    before = path.read_bytes()
    writer(path, resume=True).close()
    assert path.read_bytes() == before


def test_resume_where_nothing_is_begins(path: Path) -> None:
    output = writer(path, resume=True)
    output.harvest(likely_harvest(1, 2))
    output.close()
    assert len(destinations(path)) == 2


# Faults


KILLED = """
import os, signal, sys
from pathlib import Path
from allhops.output import parquet, parts
from tests.harvests import likely_harvest

path, moment = Path(sys.argv[1]), sys.argv[2]
output = parquet.ParquetWriter(path, fingerprint={"list": "a.txt", "attempts": "1"}, resume=True)
finished = {trace.destination for trace in output.finished()}
harvest = likely_harvest(1, 20)
count = 0

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

for part in harvest.split(1):
    if harvest.names[part.courses[0]] in finished:
        continue
    output.harvest(part)
    count += 1
    if count % 4 == 0:
        output.flush()
    if moment == "rows" and count == 10:
        kill()
    if moment == "part" and count == 10:
        os.fsync = kill
if moment == "join":
    os.fsync = kill
if moment == "drop":
    parts.Parts._drop_parts = kill
if moment == "half":
    unlink = Path.unlink
    Path.unlink = lambda self, **how: kill() if "part-000002" in self.name else unlink(self, **how)
output.close()
print(*sorted({"pandas", "pyarrow.compute"} & {*sys.modules}))
"""


def run(path: Path, moment: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(path), moment],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("moment", ["rows", "part", "join", "drop", "half"])
def test_a_process_that_is_killed_loses_and_doubles_nothing(path: Path, moment: str) -> None:
    assert run(path, moment).returncode == -signal.SIGKILL
    finished = run(path, "never")
    assert (finished.returncode, finished.stdout.strip()) == (0, ""), finished.stderr  # and nothing dear was imported
    assert destinations(path) == dict.fromkeys(likely_harvest(1, 20).names, 10)
    assert [entry.name for entry in path.parent.iterdir()] == ["run.parquet"]


@pytest.mark.parametrize("cut", [0, 8, 0.5, -1])
def test_a_part_that_was_cut_is_told(path: Path, cut: float) -> None:
    output = writer(path)
    for harvest in likely_harvest(1, 4).split(2):
        output.harvest(harvest)
        output.flush()
    part = path.with_name("run.parquet.parts") / "part-000002.arrow"
    whole = part.read_bytes()
    part.write_bytes(whole[: int(len(whole) * cut) if isinstance(cut, float) else cut])
    with pytest.raises(OSError, match=r"part-000002\.arrow cannot be read"):
        [*output.finished()]
    with pytest.raises(OSError, match=r"part-000002\.arrow cannot be read"):
        output.close()
    assert not path.exists()
    part.unlink()  # what it held is traced again
    output.close()
    assert len(destinations(path)) == 2


@pytest.mark.parametrize("cut", [0, 8, 100, -1])
def test_what_was_cut_is_not_resumed(path: Path, cut: int) -> None:
    output = writer(path)
    output.harvest(likely_harvest(1, 4))
    output.flush()
    output.abandon()
    part = path.with_name("run.parquet.parts") / "part-000001.arrow"
    part.write_bytes(part.read_bytes()[:cut])
    with pytest.raises(UsageError, match=r"part-000001\.arrow is damaged"):
        writer(path, resume=True)


def test_a_part_that_a_disk_has_changed_is_told_or_read_but_nothing_worse(path: Path) -> None:
    output = writer(path)
    output.harvest(likely_harvest(1, 4))
    output.flush()
    part = path.with_name("run.parquet.parts") / "part-000001.arrow"
    whole, told = part.read_bytes(), []
    for at in random.Random(1).sample(range(len(whole)), 50):
        part.write_bytes(whole[:at] + bytes([whole[at] ^ 0x80]) + whole[at + 1 :])
        try:
            [*output._files.read([part])]
        except OSError as error:
            told.append(str(error))
    assert len(told) > 10
    assert all("part-000001.arrow cannot be read" in error for error in told)
    output.abandon()


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_the_callers_and_nothing_counts_that_is_not_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harvest = likely_harvest(1, 4)
    output = writer(path)
    output.harvest(harvest)
    with monkeypatch.context() as context:
        context.setattr("os.fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            output.flush()
    assert not [*output.finished()]
    assert not [*(path.parent / "run.parquet.parts").iterdir()]
    output.flush()  # the rows are still there
    assert sorted(trace.destination for trace in output.finished()) == sorted(harvest.names)
    with monkeypatch.context() as context:
        context.setattr("os.fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            output.close()
    assert not path.exists()
    output.close()
    assert destinations(path) == dict.fromkeys(harvest.names, 10)


def test_a_part_that_failed_meanwhile_is_told_soon(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROWS_PER_PART", 10)
    first, second, third = likely_harvest(1, 3).split(1)
    output = writer(path)
    with monkeypatch.context() as context:
        context.setattr("os.fsync", full_disk)
        output.harvest(first)
        assert output._writing is not None
        concurrent.futures.wait([output._writing])
        with pytest.raises(OSError, match="No space left"):
            output.harvest(second)
    output.harvest(third)
    output.close()
    assert destinations(path) == dict.fromkeys(first.names, 10)


def test_without_pyarrow_it_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'allhops\[parquet\]'"):
        writer(path)


def test_stop_reasons_are_all_told(path: Path) -> None:
    rows = written(path, *(random_harvest(seed, max_ttl=3) for seed in range(8)))
    assert {row["stop_reason"] for row in rows} == {str(reason) for reason in STOP_REASONS}
