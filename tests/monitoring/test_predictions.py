"""Record files: which are kept, which are deleted first, and queries by id."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from roadworthy.contract.telemetry import RecordFile, Telemetry
from roadworthy.foundation.errors import NotFound
from roadworthy.monitoring import gateways, predictions
from roadworthy.store.engine import open_database
from tests.agent.records import record, write_files
from tests.records import pack


def test_the_oldest_files_go_when_all_are_too_many_bytes(tmp_path: Path) -> None:
    """Newest first they fit until the limit; the rest is dropped, and its number of predictions is returned."""
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    files = tuple(RecordFile(f"records/gw-1/{n}.parquet", "line", 10 + n, 100, n, n) for n in (3, 1, 2))
    with database.begin() as connection:
        gateways.apply(connection, Telemetry("gw-1", "b", 1, 1, record_files=files), 1)
        assert predictions.files_of(connection, "line") == [(f"records/gw-1/{n}.parquet", n) for n in (3, 2, 1)]
        assert predictions.over_limit(connection, 300) == ([], 0)
        assert predictions.over_limit(connection, 150) == (["records/gw-1/2.parquet", "records/gw-1/1.parquet"], 23)
        assert predictions.files_of(connection, "line") == [("records/gw-1/3.parquet", 3)]
        assert predictions.files_of(connection, "other") == []
    database.close()


def test_how_often_an_endpoint_is_asked(tmp_path: Path) -> None:
    """From the first request in files that end within the time: no lower because traffic began only a minute ago."""
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    spans = ((0, 10_000_000), (40_000_000, 60_000_000), (50_000_000, 80_000_000))
    files = tuple(RecordFile(f"records/gw-1/{n}.parquet", "line", 300, 1, *span) for n, span in enumerate(spans))
    with database.begin() as connection:
        gateways.apply(connection, Telemetry("gw-1", "b", 1, 1, record_files=files), 1)
        assert predictions.asked_per_s(connection, "line", 20_000_000, 100_000_000) == 600 / 60
        assert predictions.asked_per_s(connection, "line", 0, 100_000_000) == 900 / 100
        assert predictions.asked_per_s(connection, "line", 90_000_000, 100_000_000) == 0.0
        assert predictions.asked_per_s(connection, "other", 0, 100_000_000) == 0.0
    database.close()


AT_US = 1_700_000_000_000_000


def made(ms: int, number: int = 0) -> str:
    """An id as workers make them, so many milliseconds after AT_US."""
    return f"{AT_US // 1_000 + ms:012x}{number:020x}"


def record_file(path: Path, ids: list[str], **changes: object) -> Path:
    """A file with these predictions, assigned by rollout r."""
    drawn = {"rollout": "r", "generation": 7, "digest": "d", "code": "ok", "source": "", "unit": 5, **changes}
    pq.write_table(pa.Table.from_pylist([{"id": each, "inputs": b"never read", **drawn} for each in ids]), path)
    return path


def test_predictions_are_found_by_id_in_the_files_of_their_time(tmp_path: Path) -> None:
    """Only files that can contain one of them are opened, and only while something is missing."""
    paths = {
        "a": record_file(tmp_path / "a", [made(0), made(10)]),
        "b": record_file(tmp_path / "b", [made(60_000, 1), made(60_001, 2)], code="model-failed"),
        "c": record_file(tmp_path / "c", [made(120_000)]),
    }
    files = [predictions.File("a", AT_US, AT_US + 10_000), predictions.File("gone", AT_US, AT_US + 10_000)]
    files += [predictions.File(n, AT_US + ms * 1_000, AT_US + ms * 1_000) for n, ms in (("b", 60_000), ("c", 120_000))]
    opened = []

    def open_blob(name: str) -> BinaryIO:
        opened.append(name)
        if name not in paths:
            raise NotFound("it is gone")
        return paths[name].open("rb")

    wanted = [made(10), made(60_001, 2), made(60_000, 9), made(10, 3)]
    found = predictions.find_drawn(files, open_blob, wanted)
    assert found.drawn == {
        made(10): predictions.AssignedPrediction("r", 7, "d", "ok", "", 5),
        made(60_001, 2): predictions.AssignedPrediction("r", 7, "d", "model-failed", "", 5),
    }
    assert opened == ["a", "gone", "b"]
    assert (found.unreadable, found.missed) == (["gone"], {made(10, 3)})


def test_files_that_cannot_be_read_hide_no_other(tmp_path: Path) -> None:
    """Junk, and a file from before records had rollouts."""
    (tmp_path / "junk").write_bytes(b"junk")
    pq.write_table(pa.table({"id": [made(0)], "generation": [1]}), tmp_path / "old")
    record_file(tmp_path / "good", [made(0)])
    files = [predictions.File(name, AT_US, AT_US) for name in ("junk", "old", "good")]
    wanted = [made(0), made(0, 9)]
    found = predictions.find_drawn(files, lambda name: (tmp_path / name).open("rb"), wanted)
    assert list(found.drawn) == [made(0)]
    assert (found.unreadable, found.missed) == (["junk"], {made(0, 9)})


def shown(path: Path, *numbers: int) -> Path:
    """A complete record file, as gateways write it."""
    group = [record(id=f"{number:032x}", at_us=AT_US + number) for number in numbers]
    (file,) = write_files(path.parent, [pack(group)], {})
    return (path.parent / file.name).rename(path)


def last_byte(path: Path, column: str) -> int:
    """The position of the last byte of a column's values."""
    about = pq.read_metadata(path)
    chunk = about.row_group(0).column(about.schema.names.index(column))
    return int((chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 1)


def test_g10_record_files_that_are_damaged_empty_or_gone_are_told(tmp_path: Path) -> None:
    """Whatever is wrong with a file, it hides no other and is named; even a single wrong bit among its values is found."""
    good = shown(tmp_path / "good", 1, 2)
    whole = shown(tmp_path / "whole", 3).read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-7])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "junk").write_bytes(b"junk" * 100)
    for name in ("id", "at_us", "status", "outputs"):
        at = last_byte(tmp_path / "whole", name)
        (tmp_path / f"flipped {name}").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    pq.write_table(pa.table({"at_us": [AT_US + 9], "id": ["x"]}), tmp_path / "foreign")
    late = pq.read_table(good).set_column(1, "at_us", pa.array([2**62, 2**62]))
    pq.write_table(late, tmp_path / "late")
    flipped = [f"flipped {name}" for name in ("id", "at_us", "status", "outputs")]
    bad = ["late", "gone", "cut", "empty", "junk", *flipped, "foreign"]

    def open_blob(name: str) -> BinaryIO:
        try:
            return (tmp_path / name).open("rb")
        except FileNotFoundError:
            raise NotFound("it is gone") from None

    found = predictions.last_predictions([(name, AT_US + 9) for name in [*bad, "good"]], open_blob, 10, None)
    assert [item["id"] for item in found.items] == [f"{number:032x}" for number in (1, 2)]
    assert found.unreadable == bad


def test_g10_what_retention_took_meanwhile_is_not_missing(tmp_path: Path) -> None:
    """Of the files that were not found, only those that are still named count."""
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    files = tuple(RecordFile(f"records/gw-1/{n}.parquet", "line", 10 + n, 100, n, n) for n in (1, 2))
    with database.begin() as connection:
        gateways.apply(connection, Telemetry("gw-1", "b", 1, 1, record_files=files), 1)
        assert predictions.kept(connection, [f"records/gw-1/{n}.parquet" for n in (1, 2, 3)]) == (2, 23)
        assert predictions.kept(connection, ["records/gw-1/3.parquet"]) == (0, 0)
    database.close()


def test_files_are_chosen_by_their_times(tmp_path: Path) -> None:
    """Of this endpoint, from a little before the first id to a little after the last; the clock may have been set in between."""
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    times = {"before": (-9_000, -3_000), "touching": (-9_000, -500), "within": (0, 10), "after": (511, 511)}
    files = tuple(
        RecordFile(f"records/gw-1/{name}.parquet", "line", 1, 1, AT_US + first * 1_000, AT_US + last * 1_000)
        for name, (first, last) in times.items()
    )
    other = RecordFile("records/gw-1/other.parquet", "other", 1, 1, AT_US, AT_US)
    with database.begin() as connection:
        gateways.apply(connection, Telemetry("gw-1", "b", 1, 1, record_files=(*files, other)), 1)
        found = predictions.files_between(connection, "line", {made(0), made(10)})
    assert sorted(file.blob for file in found) == [f"records/gw-1/{name}.parquet" for name in ("touching", "within")]
    database.close()
