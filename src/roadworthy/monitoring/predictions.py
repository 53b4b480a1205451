"""What was asked and answered: queries over the record files that gateways shipped. Behind `roadworthy logs`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, BinaryIO

from sqlalchemy import Connection, delete, func, select

from roadworthy.foundation.errors import NotFound
from roadworthy.store.tables import record_files

_MAX_FILES = 500
"""Files that one query looks into; newer ones first."""


def files_of(connection: Connection, endpoint: str) -> list[tuple[str, int]]:
    """An endpoint's record files, newest first: blob name, and when its last prediction was asked."""
    query = (
        select(record_files.c.blob, record_files.c.last_us)
        .where(record_files.c.endpoint == endpoint)
        .order_by(record_files.c.last_us.desc(), record_files.c.blob.desc())
        .limit(_MAX_FILES)
    )
    return [(row.blob, row.last_us) for row in connection.execute(query)]


def asked_per_s(connection: Connection, endpoint: str, since_us: int, now_us: int) -> float:
    """How often an endpoint was asked lately, by the record files that end after `since_us`: 0.0 when there is none.

    The time is counted from the first request in those files, so that an endpoint which is asked for some minutes only is not
    taken for an idle one. What gateways have not shipped yet is missing.
    """
    query = select(func.sum(record_files.c.rows), func.min(record_files.c.first_us)).where(
        record_files.c.endpoint == endpoint, record_files.c.last_us > since_us
    )
    count, first_us = connection.execute(query).one()
    return 0.0 if count is None else int(count) / max((now_us - first_us) / 1e6, 1.0)


def over_limit(connection: Connection, max_bytes: int) -> tuple[list[str], int]:
    """Forget the oldest record files beyond `max_bytes` in all; return their blobs, to be deleted after the commit, and how
    many predictions were in them."""
    query = select(record_files.c.blob, record_files.c.size_bytes, record_files.c.rows)
    total, excess, predictions = 0, [], 0
    for row in connection.execute(query.order_by(record_files.c.last_us.desc())).all():
        total += row.size_bytes
        if total > max_bytes:
            excess.append(row.blob)
            predictions += row.rows
            connection.execute(delete(record_files).where(record_files.c.blob == row.blob))
    return excess, predictions


def last_predictions(
    files: list[tuple[str, int]], open_blob: Callable[[str], BinaryIO], last: int, prediction_id: str | None
) -> list[dict[str, Any]]:
    """The `last` newest predictions in those files, newest last; of one id when that is given.

    Files of several gateways overlap in time, so it reads on until the next file has nothing newer than what was found.
    """
    found: list[dict[str, Any]] = []
    for blob, last_us in files:
        if len(found) == last and found[0]["at_us"] >= last_us:
            break
        try:
            found += _read(open_blob(blob), last, prediction_id)
        except NotFound:
            continue  # retention came first
        found = sorted(found, key=lambda row: (row["at_us"], row["id"]))[-last:]
    return [_document(row) for row in found]


def _read(handle: BinaryIO, last: int, prediction_id: str | None) -> list[dict[str, Any]]:
    """At most the `last` newest rows; none of a file that is no record file: one such file must not hide all others."""
    import pyarrow as pa  # heavy; only this query needs it in the control plane
    import pyarrow.parquet as pq
    from pyarrow import compute

    with handle:
        filters = None if prediction_id is None else [("id", "=", prediction_id.partition(":")[0])]
        try:
            table = pq.read_table(handle, filters=filters)
            order = compute.sort_indices(table["at_us"])
        except (pa.ArrowException, OSError, KeyError):
            return []
    rows: list[dict[str, Any]] = table.take(order[-last:]).to_pylist()
    return rows


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
    """A body as JSON where it is JSON, else a note of what it is."""
    if not data:
        return None
    head = data if json_bytes < 0 else data[:json_bytes]
    try:
        value = json.loads(head)
    except (ValueError, RecursionError):
        return {"unreadable_bytes": len(data)}
    return value if json_bytes < 0 else {"json": value, "binary_bytes": len(data) - json_bytes}
