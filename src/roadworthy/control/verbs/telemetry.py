"""What gateways bring: telemetry frames and files of prediction records; and what people ask of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection

from roadworthy.audit import events
from roadworthy.audit.entries import list_last
from roadworthy.contract.telemetry import Telemetry
from roadworthy.control.driving import CONTROLLER
from roadworthy.control.plane import Plane
from roadworthy.control.times import iso
from roadworthy.control.verbs.endpoints import endpoint_document, reach, step
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.foundation.references import check_name
from roadworthy.monitoring import gateways, predictions
from roadworthy.rollout import endpoints, rollouts
from roadworthy.store.engine import begin_life, read_revision

FILE = re.compile(r"[a-z0-9][A-Za-z0-9._-]{0,180}\.parquet", re.ASCII)
"""How a record file is named."""
MOST_SHOWN = 1_000
"""Items of one reply."""
_log = structlog.get_logger()


def take_frame(plane: Plane, frame: Telemetry) -> int:
    """Apply a frame once, then decide about whatever waits for it; return its sequence."""
    check_name(frame.gateway, "gateway name")
    for file in frame.record_files:
        if file.blob != record_blob(frame.gateway, file.blob.rpartition("/")[2]):
            raise InvalidRequest("a gateway names the record files that it sent itself", code="malformed-telemetry")
    with plane.database.begin() as connection:
        if gateways.apply(connection, frame, plane.clock.now_us()):
            _count(connection, frame)
        epoch, revision = read_revision(connection)
        restored = gateways.follows_later(frame, epoch, revision)
        if restored:
            plane.audit(connection, frame.gateway, "restored", epoch, revision=revision, epoch=begin_life(connection))
    if restored:
        _log.warning("the database is an older copy of itself; gateways follow it from here", revision=revision)
        plane.bulletin.refresh()
    step(plane)
    return frame.sequence


def _count(connection: Connection, frame: Telemetry) -> None:
    """Add what the gateway counted to the rollouts, in the transaction that takes the frame."""
    for counts in frame.rollouts:
        try:
            rollouts.merge(connection, f"{frame.gateway}/{frame.boot}", counts)
        except ValueError as error:
            raise InvalidRequest(f"counts that cannot be: {error}", code="malformed-telemetry") from error


def record_blob(gateway: str, file: str) -> str:
    """The name under which a gateway's record file is kept.

    Raises:
        InvalidRequest: "invalid-name".
    """
    check_name(gateway, "gateway name")
    if not FILE.fullmatch(file):
        raise InvalidRequest("that cannot name a record file", code="invalid-name")
    return f"records/{gateway}/{file}"


def keep_records(plane: Plane, gateway: str, file: str, source: Path) -> None:
    """Keep a finished record file; the same one again changes nothing."""
    plane.blobs.put(record_blob(gateway, file), source)


def trim_records(plane: Plane) -> int:
    """Delete the oldest record files beyond the limit; return how many."""
    with plane.database.begin() as connection:
        excess, rows = predictions.over_limit(connection, plane.settings.record_max_bytes)
        if excess:
            plane.audit(connection, CONTROLLER, "records-trimmed", "records", files=len(excess), rows=rows)
    for blob in excess:
        plane.blobs.delete(blob)
    return len(excess)


def last_predictions(plane: Plane, endpoint: str, last: int, prediction_id: str | None) -> dict[str, Any]:
    """The newest predictions of an endpoint, newest last; and how many records gateways had to drop.

    Raises:
        InvalidRequest: "invalid-name", "invalid-last".
    """
    check_name(endpoint, "endpoint name")
    if not 1 <= last <= MOST_SHOWN:
        raise InvalidRequest(f"last is between 1 and {MOST_SHOWN}", code="invalid-last")
    with plane.database.begin() as connection:
        files = predictions.files_of(connection, endpoint)
        lost = sum(gateway.lost_records for gateway in gateways.list_all(connection))
    return {"items": predictions.last_predictions(files, plane.blobs.open, last, prediction_id), "lost": lost}


def status(plane: Plane, version: str) -> dict[str, Any]:
    """The whole at one look."""
    with plane.database.begin() as connection:
        found = gateways.list_all(connection)
        reached = reach(connection, gateways.live(found, plane.clock.now_us()))
        documents = [endpoint_document(connection, each, reached) for each in endpoints.list_all(connection)]
    snapshot = plane.bulletin.edition.snapshot
    now = plane.clock.now_us()
    return {
        "control": {"version": version, "epoch": snapshot.epoch, "revision": snapshot.revision},
        "gateways": [
            {
                "id": gateway.id,
                "boot": gateway.boot,
                "seen_at": iso(gateway.seen_at_us),
                "alive": now - gateway.seen_at_us <= gateways.ALIVE_US,
                "revision": min((worker.revision for worker in gateway.workers), default=0),
                "workers": msgspec.to_builtins(gateway.workers),
                "lost_records": gateway.lost_records,
            }
            for gateway in found
        ],
        "endpoints": documents,
    }


def audit_trail(plane: Plane, last: int, before: str | None) -> dict[str, Any]:
    """The newest audit entries, newest first.

    Raises:
        InvalidRequest: "invalid-last".
    """
    if not 1 <= last <= MOST_SHOWN:
        raise InvalidRequest(f"last is between 1 and {MOST_SHOWN}", code="invalid-last")
    with plane.database.begin() as connection:
        entries = list_last(connection, last, before)
    items = [{**entry, "at": iso(entry.pop("at_us"))} for entry in entries]
    return {"items": items, "next": items[-1]["id"] if len(items) == last else None}


def events_after(plane: Plane, after: int, last: int) -> dict[str, Any]:
    """The `last` oldest events with greater numbers than `after`; `next` is where to go on.

    Raises:
        InvalidRequest: "invalid-last".
    """
    if not 1 <= last <= MOST_SHOWN:
        raise InvalidRequest(f"last is between 1 and {MOST_SHOWN}", code="invalid-last")
    with plane.database.begin() as connection:
        found = events.list_after(connection, max(after, 0), last)
    items = [{**event, "at": iso(event.pop("at_us"))} for event in found]
    return {"items": items, "next": items[-1]["number"] if items else max(after, 0)}
