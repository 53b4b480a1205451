"""Records become Parquet files with the contract's columns, within bounds; every dropped record is counted."""

from __future__ import annotations

import asyncio
import errno
import signal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.agent.records import files, records, spool
from roadworthy.agent.records.files import FinishedFile, RecordFolder
from roadworthy.agent.records.pacing import Pace
from roadworthy.agent.records.privacy import Scrubber
from roadworthy.agent.records.records import RecordSink
from roadworthy.contract.record import PredictionRecord, count_records
from roadworthy.schema.signature import Container, Field, Privacy, Signature
from tests.agent.conftest import eventually
from tests.agent.records import files_of, record, write_files
from tests.records import pack
from tests.waiting import DEADLINE_S, soon

OPEN = Scrubber(Signature((), (), Container.ARRAY), b"k")
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
RECORDS = st.builds(
    record, endpoint=st.sampled_from(["flights", "other"]), inputs=st.binary(max_size=9), outputs=st.binary(max_size=9),
    at_us=st.integers(0, 2**62), request_id=TEXT, caller=TEXT, latency_us=st.integers(-(2**63), 2**63 - 1),
)  # fmt: skip


def open_sink(folder: Path, lost: list[int], max_bytes: int = 1 << 30, **more: Any) -> RecordSink:
    """A sink that knows the endpoint "flights"."""
    sink = RecordSink(RecordFolder(folder, max_bytes), lost.append, **more)
    sink.add_scrubbers({"flights": OPEN})
    return sink


def described(sink: RecordSink) -> list[FinishedFile]:
    """The finished files."""
    return [sink.folder.describe(name) for name in sink.folder.names()]


def refuse(*_: object) -> None:
    """As a full disk does."""
    raise OSError(errno.ENOSPC, "full")


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """A file's rows."""
    return pq.read_table(folder / name).to_pylist()


@given(st.lists(st.lists(RECORDS, max_size=4), max_size=4))
@settings(max_examples=25, deadline=None)
def test_files_hold_exactly_what_came(tmp_path_factory: pytest.TempPathFactory, frames: list[list[PredictionRecord]]) -> None:
    """One file per endpoint; all fields survive in the contract's order; the file's description is right."""
    folder = tmp_path_factory.mktemp("records")
    payloads = [pack(frame) for frame in frames]
    written = write_files(folder, payloads, {"flights": OPEN, "other": OPEN})
    sent = [item for frame in frames for item in frame]
    assert sorted(file.endpoint for file in written) == sorted({item.endpoint for item in sent})
    for file in written:
        expected = [item for item in sent if item.endpoint == file.endpoint]
        rows = sorted(read(folder, file.name), key=lambda row: row["id"])
        assert rows == [msgspec.structs.asdict(item) for item in expected]
        assert list(pq.read_schema(folder / file.name).names) == list(PredictionRecord.__struct_fields__)
        times = [item.at_us for item in expected]
        assert (file.rows, file.first_us, file.last_us) == (len(expected), min(times), max(times))
        assert RecordFolder(folder, 1 << 30).describe(file.name) == file
    assert sorted(path.name for path in folder.iterdir()) == sorted(file.name for file in written)


@pytest.mark.parametrize("count", [0, 1, 256, 65_536])
def test_records_are_counted_without_reading_them(count: int) -> None:
    """The first bytes of a payload hold the number."""
    one = record(inputs=b"", outputs=b"")
    assert count_records(pack([one] * count)) == count


def test_a_payload_that_cannot_be_read_costs_itself_only(tmp_path: Path) -> None:
    """Its records are counted by its head; the records of other payloads are written."""
    lost: list[int] = []

    async def work() -> RecordSink:
        sink = open_sink(tmp_path, lost)
        for payload in (pack([record(), record()])[:-5], pack([record()]), b"", b"\xc1"):
            sink.offer(payload)
        await sink.flush(DEADLINE_S)
        return sink

    assert [file.rows for file in described(asyncio.run(work()))] == [1]
    assert lost == [2]


@pytest.mark.parametrize("endpoint", ["", "../x", "a/b", "x" * 65])
def test_names_that_are_no_endpoint_never_reach_the_disk(tmp_path: Path, endpoint: str) -> None:
    """They share one neutral file, and their bodies are not kept."""
    (file,) = write_files(tmp_path, [pack([record(endpoint)])], {})
    assert file.name[0] == "_"
    assert read(tmp_path, file.name)[0]["inputs"] == b""
    assert [path.parent for path in tmp_path.rglob("*")] == [tmp_path]


def test_many_rows_go_out_in_groups(tmp_path: Path) -> None:
    """40,000 records are one file of several row groups."""
    (file,) = write_files(tmp_path, [pack([record()] * 1_000)] * 40, {"flights": OPEN})
    assert file.rows == 40_000
    assert pq.read_metadata(tmp_path / file.name).num_row_groups == 5


def test_the_oldest_files_go_first_and_are_counted(tmp_path: Path) -> None:
    """The bound on the disk holds after every file, including files of earlier runs."""
    payload = [pack([record()] * 3)]
    old = [write_files(tmp_path, payload, {"flights": OPEN})[0] for _ in range(4)]
    size = max(file.size_bytes for file in old)
    folder = RecordFolder(tmp_path, 5 * size)
    assert folder.names() == [file.name for file in old]
    lost = []
    for _ in range(3):
        folder.add(write_files(tmp_path, payload, {"flights": OPEN})[0])
        lost.append(folder.trim(0))
    assert sum(lost) == 6
    assert old[2].name in folder.names()
    assert old[1].name not in folder.names()
    assert sorted(folder.names()) == sorted(path.name for path in tmp_path.iterdir())
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 5 * size
    assert folder.trim(4 * size) == 12


def test_unfinished_files_of_an_earlier_run_are_deleted(tmp_path: Path) -> None:
    """A kill while writing leaves nothing that counts as a record file."""
    (tmp_path / ".tmp-abc-flights-1.parquet").write_bytes(b"half")
    assert RecordFolder(tmp_path, 1 << 30).names() == []
    assert list(tmp_path.iterdir()) == []


def test_g21_what_finds_no_room_in_memory_is_counted_and_the_next_is_kept(tmp_path: Path) -> None:
    """At the bound of waiting bytes the second payload is dropped, and counted by its records."""
    lost: list[int] = []

    async def work() -> list[str]:
        payload = pack([record()] * 7)
        sink = open_sink(tmp_path, lost, max_waiting_bytes=len(payload) + 1)
        sink.offer(payload)
        sink.offer(payload)
        await sink.flush(DEADLINE_S)
        sink.offer(payload)
        await sink.flush(DEADLINE_S)
        return sink.folder.names()

    assert len(asyncio.run(work())) == 2
    assert lost == [7]


def test_g21_embedded_endpoints_leave_room_for_the_workers(tmp_path: Path) -> None:
    """A flood of theirs fills half of the memory for waiting records."""
    lost: list[int] = []
    payload = pack([record()] * 2)

    async def work() -> list[FinishedFile]:
        sink = open_sink(tmp_path, lost, max_waiting_bytes=4 * len(payload))
        for _ in range(5):
            sink.offer(payload, True)
        sink.offer(payload)
        await sink.flush(DEADLINE_S)
        return described(sink)

    assert [file.rows for file in asyncio.run(work())] == [6]
    assert lost == [2, 2, 2]


def test_d7_a_disk_that_refuses_costs_records_and_says_so(tmp_path: Path) -> None:
    """The folder cannot exist: every record counts as lost. Once it can, writing continues without help (G10)."""
    lost: list[int] = []

    async def work() -> None:
        sink = open_sink(tmp_path / "records", lost)
        (tmp_path / "records").rmdir()
        (tmp_path / "records").touch()
        sink.offer(pack([record()] * 5))
        await sink.flush(DEADLINE_S)
        (tmp_path / "records").unlink()
        sink.offer(pack([record()]))
        await sink.flush(DEADLINE_S)
        assert len(sink.folder.names()) == 1

    asyncio.run(work())
    assert lost == [5]


def test_d7_records_wait_while_the_disk_refuses_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are in the spool, so a file that cannot be written is only late."""
    lost: list[int] = []

    async def work() -> list[FinishedFile]:
        sink = open_sink(tmp_path, lost)
        with monkeypatch.context() as patch:
            patch.setattr(files, "_open_parquet", refuse)
            sink.offer(pack([record()] * 5))
            await sink.flush(DEADLINE_S)
        assert (sink.folder.names(), len(sink.spool.segments)) == ([], 1)
        await sink.flush(DEADLINE_S)
        return described(sink)

    assert [file.rows for file in asyncio.run(work())] == [5]
    assert (lost, [path.suffix for path in tmp_path.iterdir()]) == ([], [".parquet"])


def test_records_that_cannot_become_a_file_hold_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in making the file, other than of the disk, costs one segment, and is counted."""
    lost: list[int] = []

    def fail(*_: object) -> None:
        raise ArithmeticError

    async def work() -> list[FinishedFile]:
        sink = open_sink(tmp_path, lost)
        with monkeypatch.context() as patch:
            patch.setattr(files, "to_table", fail)
            sink.offer(pack([record()] * 5))
            await sink.flush(DEADLINE_S)
        sink.offer(pack([record()]))
        await sink.flush(DEADLINE_S)
        return described(sink)

    assert [file.rows for file in asyncio.run(work())] == [1]
    assert lost == [5]


def test_a_record_that_fits_into_no_file_costs_itself_only(tmp_path: Path) -> None:
    """A number beyond 64 bits, among the records of others."""
    good, bad = pack([record()] * 3), pack([record(version=2**63)])
    lost: list[int] = []

    async def work() -> list[FinishedFile]:
        sink = open_sink(tmp_path, lost)
        sink.add_scrubbers({"other": OPEN})
        for payload in (good, bad, pack([record("other", version=2**63)] * 2), good):
            sink.offer(payload)
        await sink.flush(DEADLINE_S)
        return described(sink)

    assert [(file.endpoint, file.rows) for file in asyncio.run(work())] == [("flights", 6)]
    assert lost == [3]


@pytest.mark.parametrize(("fault", "expected"), [(OSError(errno.EIO, "broken"), 0), (ArithmeticError(), 2)])
def test_a_file_that_is_finished_counts_whatever_happens_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, expected: int
) -> None:
    """It is known and shipped, and not counted as lost; a disk that refuses the next one is asked again."""
    lost: list[int] = []
    finish = files._OpenFile.finish

    def fail(file: files._OpenFile) -> FinishedFile:
        done = finish(file) if file._endpoint == "flights" else None
        if done is None:
            raise fault
        return done

    async def work() -> list[FinishedFile]:
        sink = open_sink(tmp_path, lost)
        sink.offer(pack([record()] * 3 + [record("other")] * 2))
        with monkeypatch.context() as patch:
            patch.setattr(files._OpenFile, "finish", fail)
            await sink.flush(DEADLINE_S)
        assert [file.rows for file in described(sink)] == [3]
        await sink.flush(DEADLINE_S)
        return described(sink)

    made = asyncio.run(work())
    assert sum(file.rows for file in made) + sum(lost) == 5
    assert sum(lost) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(file.name for file in made)


def test_endpoints_of_a_segment_do_not_use_up_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with a single row group, as most are, is open only while it is written."""
    opened: list[Any] = []
    open_parquet = files._open_parquet

    def watch(*arguments: Any) -> Any:
        assert not any(writer.is_open for writer in opened)
        opened.append(open_parquet(*arguments))
        return opened[-1]

    monkeypatch.setattr(files, "_open_parquet", watch)
    made = write_files(tmp_path, [pack([record(f"e{number}")]) for number in range(9)], {})
    assert (len(made), len(opened)) == (9, 9)


def test_g10_a_segment_that_cannot_be_read_holds_up_no_other(tmp_path: Path) -> None:
    """A folder of that name, found at the start: it is logged, and the next segment becomes a file."""
    (tmp_path / "0.spool").mkdir()

    async def work() -> list[FinishedFile]:
        sink = open_sink(tmp_path, [])
        assert len(sink.spool.segments) == 1
        sink.offer(pack([record()]))
        await sink.flush(DEADLINE_S)
        return described(sink)

    assert [file.rows for file in asyncio.run(work())] == [1]


def test_frames_are_synced_while_no_file_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load that begins while files are made stops the writing, not the syncing."""
    monkeypatch.setattr(records, "SYNC_EVERY_S", 0.01)

    def is_synced(sink: RecordSink, count: int) -> bool:
        return len(sink.spool.segments) == count and sink.spool.segments[-1].size_bytes > 0 and sink.spool.synced

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    async def work() -> None:
        sink = open_sink(tmp_path, [])
        monkeypatch.setattr(sink, "_write", never)
        monkeypatch.setattr(sink, "_pace", lambda: Pace.NOW)
        running = asyncio.create_task(sink.run())
        for count in (1, 2):
            sink.offer(pack([record()]))
            await soon(partial(is_synced, sink, count), "the frame is synced")
        running.cancel()
        for task in list(sink._tasks):
            task.cancel()

    asyncio.run(work())


def test_the_oldest_segments_go_first_and_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on the disk holds for records that are not yet in files."""
    lost: list[int] = []
    monkeypatch.setattr(spool, "SEGMENT_ROWS", 1)

    async def work() -> int:
        payloads = [pack([record(at_us=number)]) for number in range(5)]
        sink = open_sink(tmp_path, lost, max_bytes=3 * len(payloads[0]) + 100)
        for payload in payloads:
            sink.offer(payload)
            await sink.flush(0)
        return sink.spool.size_bytes

    kept = asyncio.run(work())
    assert sum(lost) == 2
    assert kept == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert [path for path in list(tmp_path.glob("*.spool")) if files_of(path)[0][0].first_us < 2] == [], "the first two are gone"


def test_nothing_private_reaches_the_spool(tmp_path: Path) -> None:
    """Frames of an endpoint with private fields are cleared first; unknown endpoints keep no bodies; others pass as they came."""
    secret, plain = {"instances": [["secret-value"]]}, {"instances": [["plain-value"]]}
    dropped = Field("name", "string", privacy=Privacy.DROP)
    scrubbers = {"private": Scrubber(Signature((dropped,), (), Container.ARRAY), b"k"), "flights": OPEN}

    async def work() -> None:
        sink = RecordSink(RecordFolder(tmp_path, 1 << 30), pytest.fail)
        sink.add_scrubbers(scrubbers)
        sink.offer(pack([record("private", secret), record("unknown", secret), record("flights", plain)]))
        sink.offer(pack([record("flights", plain)]))
        await sink.flush(0)

    asyncio.run(work())
    (segment,) = tmp_path.iterdir()
    assert segment.stat().st_mode & 0o777 == 0o600
    data = segment.read_bytes()
    assert b"secret-value" not in data
    assert data.count(b"plain-value") == 2
    made, lost = files_of(segment)
    assert (sorted((file.endpoint, file.rows) for file in made), lost) == ([("flights", 2), ("private", 1), ("unknown", 1)], 0)


def test_records_survive_a_killed_agent(start_agent: Any, fake_control: Any, tmp_path: Path) -> None:
    """SIGKILL while records wait: the next agent ships them; a frame that was cut off is counted."""
    agent = start_agent(fake_control, constants={"records.pacing.SOON_S": 3_600.0, "records.pacing.OLD_S": 3_600.0})
    agent.worker().send_records([record("unknown")] * 3)
    records = tmp_path / "records"
    (segment,) = eventually(lambda: [path for path in records.glob("*.spool") if path.stat().st_size], "the frame is on disk")
    agent.stop(signal.SIGKILL)
    with segment.open("ab") as file:
        file.write(segment.read_bytes()[:-10])
    again = start_agent(fake_control)
    eventually(lambda: [m for frame in fake_control.frames for m in frame.record_files], "the manifest arrives")
    assert {(m.endpoint, m.rows) for frame in fake_control.frames for m in frame.record_files} == {("unknown", 3)}
    assert again.metrics()["roadworthy_records_lost_total"] == 3
    eventually(lambda: not list(records.iterdir()), "nothing is left behind")


def test_without_a_control_plane_files_stay(start_agent: Any, tmp_path: Path) -> None:
    """As with `roadworthy serve`: records stay in records/, without the bodies of endpoints that the snapshot does not name."""
    agent = start_agent()
    agent.worker().send_records([record("unknown")] * 3)
    (file,) = eventually(agent.files, "a file")
    rows = read(tmp_path / "records", file.name)
    assert [(row["inputs"], row["input_format"], row["code"]) for row in rows] == [(b"", "withheld", "ok")] * 3
    assert agent.metrics()["roadworthy_record_files"] == 1


def test_lost_records_show_in_metrics(start_agent: Any) -> None:
    """With a bound of zero bytes on disk, every record is written, deleted and counted."""
    agent = start_agent(record_max_bytes=0)
    agent.worker().send_records([record()] * 4)
    eventually(lambda: agent.metrics()["roadworthy_records_lost_total"] == 4, "the loss is counted")
    assert agent.files() == []
