"""Queries over the record files that gateways shipped: requests and answers. For `roadworthy logs` and feedback."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from typing import Any, BinaryIO, NamedTuple

from sqlalchemy import delete, func, insert, select

from roadworthy.foundation.errors import NotFound
from roadworthy.store.connection import Connection
from roadworthy.store.tables import record_files

_MAX_FILES = 500
"""Most files that one query reads, the newest first."""
_TEXTS = ("id", "request_id", "endpoint", "model", "digest", "runtime", "caller", "code", "inputs", "outputs")
_NUMBERS = ("at_us", "generation", "version", "status", "latency_us", "rows", "json_bytes", "output_json_bytes")
_LATEST_US = 253_402_300_799_999_999
"""The end of the year 9999."""
_SLACK_US = 500_000
"""A prediction's id is made a moment before `at_us` is read, and the clock may be set in between."""


class AssignedPrediction(NamedTuple):
    """What a record says about a prediction as evidence; the fields are those of PredictionRecord."""

    rollout: str
    generation: int
    digest: str
    code: str
    source: str
    unit: int


class File(NamedTuple):
    """A record file, with the times of its first and last request."""

    blob: str
    first_us: int
    last_us: int


def expect(connection: Connection, blob: str, size_bytes: int, now_us: int) -> None:
    """Add a received record file. The frame that names it, and says what it contains, is still to come. A known file stays
    unchanged."""
    if connection.execute(select(record_files.c.blob).where(record_files.c.blob == blob)).first() is None:
        unknown = {"endpoint": "", "rows": 0, "first_us": now_us, "last_us": now_us}
        connection.execute(insert(record_files).values(blob=blob, size_bytes=size_bytes, **unknown))


def received(connection: Connection, blobs: Collection[str]) -> set[str]:
    """Those of the record files that were received and are still kept."""
    return set(connection.execute(select(record_files.c.blob).where(record_files.c.blob.in_(blobs))).scalars())


def files_of(connection: Connection, endpoint: str) -> list[tuple[str, int]]:
    """An endpoint's record files, newest first: blob name, and the time of the last request."""
    query = (
        select(record_files.c.blob, record_files.c.last_us)
        .where(record_files.c.endpoint == endpoint)
        .order_by(record_files.c.last_us.desc(), record_files.c.blob.desc())
        .limit(_MAX_FILES)
    )
    return [(row.blob, row.last_us) for row in connection.execute(query)]


def asked_per_s(connection: Connection, endpoint: str, since_us: int, now_us: int) -> float:
    """An endpoint's recent rate of requests per second, from the record files that end after `since_us`; 0.0 without any.

    The time counts from the first request in those files, so that an endpoint with only some minutes of traffic does not look
    idle. Records that gateways have not shipped yet are missing.
    """
    query = select(func.sum(record_files.c.rows), func.min(record_files.c.first_us)).where(
        record_files.c.endpoint == endpoint, record_files.c.last_us > since_us
    )
    count, first_us = connection.execute(query).one()
    return 0.0 if count is None else int(count) / max((now_us - first_us) / 1e6, 1.0)


def files_between(connection: Connection, endpoint: str, ids: Collection[str]) -> list[File]:
    """The endpoint's record files that can contain predictions with ids as old as these."""
    first_us, last_us = min(map(_made_us, ids)), max(map(_made_us, ids))
    query = select(record_files.c.blob, record_files.c.first_us, record_files.c.last_us).where(
        record_files.c.endpoint == endpoint,
        record_files.c.last_us >= first_us - _SLACK_US,
        record_files.c.first_us <= last_us + _SLACK_US,
    )
    return [File(*row) for row in connection.execute(query)]


class Sought(NamedTuple):
    """Records of predictions by id; blobs of damaged or missing record files; ids that may have been in those."""

    drawn: dict[str, AssignedPrediction]
    unreadable: list[str]
    missed: set[str]


def find_drawn(files: Iterable[File], open_blob: Callable[[str], BinaryIO], ids: Iterable[str]) -> Sought:
    """Look for predictions by id; an id that no file contains is missing from the result.

    Ids are time-ordered, so each is looked for only in files of its time, and only the needed columns are read.
    """
    ordered = sorted(ids)
    times = [_made_us(each) for each in ordered]
    found: dict[str, AssignedPrediction] = {}
    unreadable, missed = list[str](), set[str]()
    for blob, first_us, last_us in files:
        sought = ordered[bisect_left(times, first_us - _SLACK_US) : bisect_right(times, last_us + _SLACK_US)]
        if missing := [each for each in sought if each not in found]:
            try:
                found.update(_read_drawn(open_blob(blob), missing))
            except (NotFound, ValueError):
                unreadable.append(blob)
                missed.update(missing)
    return Sought(found, unreadable, missed - found.keys())


def _made_us(prediction_id: str) -> int:
    """When an id was made, in microseconds since 1970 UTC: its first 48 bits are milliseconds."""
    return int(prediction_id[:12], 16) * 1_000


def _read_drawn(handle: BinaryIO, ids: list[str]) -> dict[str, AssignedPrediction]:
    """Those of the predictions that the file contains; none if its records are older than rollouts.

    Raises:
        ValueError: not a complete record file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with handle:
        try:
            if not set(AssignedPrediction._fields) <= set(pq.read_schema(handle).names):
                return {}
            table = pq.read_table(
                handle,
                columns=["id", *AssignedPrediction._fields],
                filters=[("id", "in", ids)],
                page_checksum_verification=True,
            )
        except (pa.ArrowException, OSError, KeyError) as error:
            raise ValueError("not a complete record file") from error
    columns = [table[name].to_pylist() for name in AssignedPrediction._fields]
    return dict(zip(table["id"].to_pylist(), map(AssignedPrediction._make, zip(*columns, strict=True)), strict=True))


def over_limit(connection: Connection, max_bytes: int) -> tuple[list[str], int]:
    """Drop the oldest record files beyond `max_bytes` in total; return their blobs, to be deleted after the commit, and their
    number of predictions."""
    query = select(record_files.c.blob, record_files.c.size_bytes, record_files.c.rows)
    total, excess, predictions = 0, [], 0
    for row in connection.execute(query.order_by(record_files.c.last_us.desc())).all():
        total += row.size_bytes
        if total > max_bytes:
            excess.append(row.blob)
            predictions += row.rows
            connection.execute(delete(record_files).where(record_files.c.blob == row.blob))
    return excess, predictions


class Found(NamedTuple):
    """Predictions, and the blobs of damaged or missing record files."""

    items: list[dict[str, Any]]
    unreadable: list[str]


def last_predictions(
    files: list[tuple[str, int]], open_blob: Callable[[str], BinaryIO], last: int, prediction_id: str | None
) -> Found:
    """The `last` newest predictions in those files, newest last; or the one with the given id.

    Files of several gateways overlap in time, so reading goes on until the next file has nothing newer than the found ones. An
    unreadable file hides no other.
    """
    found: list[dict[str, Any]] = []
    unreadable = []
    for blob, last_us in files:
        if len(found) == last and found[0]["at_us"] >= last_us:
            break
        try:
            found += _read(open_blob(blob), last, prediction_id)
        except (NotFound, ValueError):
            unreadable.append(blob)
            continue
        found = sorted(found, key=lambda row: (row["at_us"], row["id"]))[-last:]
    return Found([_document(row) for row in found], unreadable)


def _read(handle: BinaryIO, last: int, prediction_id: str | None) -> list[dict[str, Any]]:
    """At most the `last` newest rows.

    Raises:
        ValueError: not a complete record file.
    """
    import pyarrow as pa  # heavy; only this query needs it in the control plane
    import pyarrow.parquet as pq
    from pyarrow import compute

    with handle:
        filters = None if prediction_id is None else [("id", "=", prediction_id.partition(":")[0])]
        try:
            table = pq.read_table(handle, columns=[*_TEXTS, *_NUMBERS], filters=filters, page_checksum_verification=True)
            table = table.take(compute.sort_indices(table["at_us"])[-last:])
            table.validate(full=True)
            rows: list[dict[str, Any]] = table.to_pylist()
            if any(not 0 <= row["at_us"] <= _LATEST_US or not isinstance(row["id"], str) for row in rows):
                raise ValueError("impossible times or ids")
        except (pa.ArrowException, OSError, KeyError, TypeError) as error:
            raise ValueError("not a complete record file") from error
    return rows


def kept(connection: Connection, blobs: Collection[str]) -> tuple[int, int]:
    """How many of these record files should still exist, and their number of predictions; the others were trimmed."""
    query = select(func.count(), func.sum(record_files.c.rows)).where(record_files.c.blob.in_(blobs))
    files, predictions = connection.execute(query).one()
    return int(files), int(predictions or 0)


def _document(row: dict[str, Any]) -> dict[str, Any]:
    version = f"{row['model']}:{row['version']}" if row["model"] else None
    moment = datetime.fromtimestamp(row["at_us"] / 1e6, tz=UTC)
    return {
        "id": row["id"],
        "time": moment.isoformat(timespec="microseconds"),
        "endpoint": row["endpoint"],
        "generation": row["generation"],
        "version": version,
        "digest": row["digest"] or None,
        "runtime": row["runtime"] or None,
        "caller": row["caller"] or None,
        "request_id": row["request_id"],
        "status": row["status"],
        "code": row["code"],
        "latency_ms": row["latency_us"] / 1000,
        "rows": row["rows"],
        "inputs": _body(row["inputs"], row["json_bytes"]),
        "outputs": _body(row["outputs"], row["output_json_bytes"]),
    }


def _body(data: bytes | None, json_bytes: int) -> Any:
    """A body as JSON where it is JSON, else its size."""
    if not data:
        return None
    head = data if json_bytes < 0 else data[:json_bytes]
    try:
        value = json.loads(head)
        json.dumps(value, ensure_ascii=False).encode()  # fails for half of a surrogate pair, which no reply can hold
    except (ValueError, RecursionError):
        return {"unreadable_bytes": len(data)}
    return value if json_bytes < 0 else {"json": value, "binary_bytes": len(data) - json_bytes}
