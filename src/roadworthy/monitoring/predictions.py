"""What was asked and answered: queries over the record files that gateways shipped. Behind `roadworthy logs`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, BinaryIO

from sqlalchemy import Connection, delete, select

from roadworthy.store.tables import record_files

_MAX_FILES = 500
"""Files that one query looks into; newer ones first."""


def files_of(connection: Connection, endpoint: str) -> list[str]:
    """Blob names of an endpoint's record files, newest first."""
    query = (
        select(record_files.c.blob)
        .where(record_files.c.endpoint == endpoint)
        .order_by(record_files.c.last_us.desc(), record_files.c.blob.desc())
        .limit(_MAX_FILES)
    )
    return list(connection.execute(query).scalars())


def over_limit(connection: Connection, max_bytes: int) -> list[str]:
    """Forget the oldest record files beyond `max_bytes` in all; return their blobs, to be deleted after the commit."""
    rows = connection.execute(
        select(record_files.c.blob, record_files.c.size_bytes).order_by(record_files.c.last_us.desc())
    ).all()
    total, excess = 0, []
    for row in rows:
        total += row.size_bytes
        if total > max_bytes:
            excess.append(row.blob)
    for blob in excess:
        connection.execute(delete(record_files).where(record_files.c.blob == blob))
    return excess


def last_predictions(
    blobs: list[str], open_blob: Callable[[str], BinaryIO], last: int, prediction_id: str | None
) -> list[dict[str, Any]]:
    """The `last` newest predictions in those files, newest last; of one id when that is given."""
    found: list[dict[str, Any]] = []
    for blob in blobs:
        if len(found) >= last:
            break
        rows = _read(open_blob(blob), prediction_id)
        found = [*rows, *found]
    found.sort(key=lambda row: (row["at_us"], row["id"]))
    return [_document(row) for row in found[-last:]]


def _read(handle: BinaryIO, prediction_id: str | None) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq  # heavy; only this query needs it in the control plane

    with handle:
        filters = None if prediction_id is None else [("id", "=", prediction_id.partition(":")[0])]
        rows: list[dict[str, Any]] = pq.read_table(handle, filters=filters).to_pylist()
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
