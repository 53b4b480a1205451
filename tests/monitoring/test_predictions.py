"""Which record files there are, and which go first."""

from __future__ import annotations

from pathlib import Path

from roadworthy.contract.telemetry import RecordFile, Telemetry
from roadworthy.monitoring import gateways, predictions
from roadworthy.store.engine import open_database


def test_the_oldest_files_go_when_all_are_too_many_bytes(tmp_path: Path) -> None:
    """Newest first they fit until the limit; the rest is forgotten, and how many predictions went is told."""
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
    """From the first request in files that end within the time: not less because it is asked since a minute only."""
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
