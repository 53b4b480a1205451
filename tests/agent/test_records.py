"""Records become Parquet files with the contract's columns, within bounds; every dropped record is counted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.agent.records.files import RecordFolder, RecordWriter
from roadworthy.agent.records.privacy import Scrubber
from roadworthy.agent.records.records import RecordSink
from roadworthy.contract.record import PredictionRecord, count_records
from roadworthy.schema.signature import Container, Signature
from tests.agent.conftest import eventually
from tests.agent.records import record
from tests.records import pack

OPEN = Scrubber(Signature((), (), Container.ARRAY), b"k")
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
RECORDS = st.builds(
    record, endpoint=st.sampled_from(["flights", "other"]), inputs=st.binary(max_size=9), outputs=st.binary(max_size=9),
    at_us=st.integers(0, 2**62), request_id=TEXT, caller=TEXT, latency_us=st.integers(-(2**63), 2**63 - 1),
)  # fmt: skip


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """A file's rows."""
    return pq.read_table(folder / name).to_pylist()


@given(st.lists(st.lists(RECORDS, max_size=4), max_size=4))
@settings(max_examples=25, deadline=None)
def test_files_hold_exactly_what_came(tmp_path_factory: pytest.TempPathFactory, frames: list[list[PredictionRecord]]) -> None:
    """One file per endpoint; all fields survive in the contract's order; the file's description is right."""
    folder = tmp_path_factory.mktemp("records")
    payloads = [pack(frame) for frame in frames]
    files, lost = RecordWriter(folder).write(payloads, {"flights": OPEN, "other": OPEN})
    assert lost == 0
    sent = [item for frame in frames for item in frame]
    assert sorted(file.endpoint for file in files) == sorted({item.endpoint for item in sent})
    for file in files:
        expected = [item for item in sent if item.endpoint == file.endpoint]
        rows = sorted(read(folder, file.name), key=lambda row: row["id"])
        assert rows == [msgspec.structs.asdict(item) for item in expected]
        assert list(pq.read_schema(folder / file.name).names) == list(PredictionRecord.__struct_fields__)
        times = [item.at_us for item in expected]
        assert (file.rows, file.first_us, file.last_us) == (len(expected), min(times), max(times))
        assert RecordFolder(folder, 1 << 30).describe(file.name) == file
    assert sorted(path.name for path in folder.iterdir()) == sorted(file.name for file in files)


@pytest.mark.parametrize("count", [0, 1, 256, 65_536])
def test_records_are_counted_without_reading_them(count: int) -> None:
    """The first bytes of a payload hold the number."""
    one = record(inputs=b"", outputs=b"")
    assert count_records(pack([one] * count)) == count


def test_a_payload_that_cannot_be_read_costs_itself_only(tmp_path: Path) -> None:
    """Its records are counted by its head; the records of other payloads are written."""
    good, bad = pack([record()]), pack([record(), record()])[:-5]
    files, lost = RecordWriter(tmp_path).write([bad, good, b"", b"\xc1"], {"flights": OPEN})
    assert (lost, [file.rows for file in files]) == (2, [1])


@pytest.mark.parametrize("endpoint", ["", "../x", "a/b", "x" * 65])
def test_names_that_are_no_endpoint_never_reach_the_disk(tmp_path: Path, endpoint: str) -> None:
    """They share one neutral file, and their bodies are not kept."""
    files, _ = RecordWriter(tmp_path).write([pack([record(endpoint)])], {})
    assert [file.name[0] for file in files] == ["_"]
    assert read(tmp_path, files[0].name)[0]["inputs"] == b""
    assert [path.parent for path in tmp_path.rglob("*")] == [tmp_path]


def test_many_rows_go_out_in_groups(tmp_path: Path) -> None:
    """40,000 records are one file of several row groups."""
    files, _ = RecordWriter(tmp_path).write([pack([record()] * 1_000)] * 40, {"flights": OPEN})
    assert [file.rows for file in files] == [40_000]
    assert pq.read_metadata(tmp_path / files[0].name).num_row_groups == 2


def test_the_oldest_files_go_first_and_are_counted(tmp_path: Path) -> None:
    """The bound on the disk holds after every file, including files of earlier runs."""
    writer = RecordWriter(tmp_path)
    payload = [pack([record()] * 3)]
    old = [writer.write(payload, {"flights": OPEN})[0][0] for _ in range(4)]
    size = max(file.size_bytes for file in old)
    folder = RecordFolder(tmp_path, 5 * size)
    assert folder.names() == [file.name for file in old]
    lost = [folder.add(writer.write(payload, {"flights": OPEN})[0][0]) for _ in range(3)]
    assert sum(lost) == 6
    assert old[2].name in folder.names()
    assert old[1].name not in folder.names()
    assert sorted(folder.names()) == sorted(path.name for path in tmp_path.iterdir())
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 5 * size


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
        sink = RecordSink(RecordFolder(tmp_path, 1 << 30), lost.append, max_waiting_bytes=len(payload) + 1)
        sink.add_scrubbers({"flights": OPEN})
        sink.offer(payload)
        sink.offer(payload)
        await sink.flush()
        sink.offer(payload)
        await sink.flush()
        return sink.folder.names()

    assert len(asyncio.run(work())) == 2
    assert lost == [7]


def test_d7_a_disk_that_refuses_costs_records_and_says_so(tmp_path: Path) -> None:
    """The folder cannot exist: every record counts as lost. Once it can, writing continues without help (G10)."""
    lost: list[int] = []

    async def work() -> None:
        sink = RecordSink(RecordFolder(tmp_path / "records", 1 << 30), lost.append)
        sink.add_scrubbers({"flights": OPEN})
        (tmp_path / "records").rmdir()
        (tmp_path / "records").touch()
        sink.offer(pack([record()] * 5))
        await sink.flush()
        (tmp_path / "records").unlink()
        sink.offer(pack([record()]))
        await sink.flush()
        assert len(sink.folder.names()) == 1

    asyncio.run(work())
    assert lost == [5]


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
