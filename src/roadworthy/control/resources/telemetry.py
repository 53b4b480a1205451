"""What gateways bring: telemetry frames and files of prediction records; and what people ask of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection

from roadworthy.access.keys import Key
from roadworthy.audit import events
from roadworthy.audit.entries import list_last
from roadworthy.contract.telemetry import Telemetry
from roadworthy.control.context import ControlContext
from roadworthy.control.controllers.rollout_controller import CONTROLLER
from roadworthy.control.http.instances import instance_of
from roadworthy.control.logs import lines_dropped
from roadworthy.control.resources import webhooks
from roadworthy.control.resources.endpoints import endpoint_document, reach, step
from roadworthy.control.resources.times import iso
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.foundation.references import check_name
from roadworthy.monitoring import gateways, predictions
from roadworthy.rollout import endpoints, rollouts
from roadworthy.store.blobs import package_blob
from roadworthy.store.engine import read_revision

FILE = re.compile(r"[a-z0-9][A-Za-z0-9._-]{0,180}\.parquet", re.ASCII)
"""How a record file is named."""
MOST_SHOWN = 1_000
"""Items of one reply."""
STORE_BEHIND = "store-behind"
_RESTORE = "if the database was restored from a backup, run `roadworthy restore` on the control plane's machine"
_log = structlog.get_logger()


def receive(context: ControlContext, key: Key, frame: Telemetry) -> int:
    """Take a frame under the name of the gateway that speaks with this key; return its sequence. Record files that were never
    received, or are deleted again, are left out.

    Raises:
        InvalidRequest: "invalid-name", "malformed-telemetry".
        Forbidden: "gateway-not-yours".
    """
    gateway = instance_of(context, key, frame.gateway)
    files = []
    for file in frame.record_files:
        folder, _, name = file.blob.rpartition("/")
        blob = record_blob(context, key, folder.removeprefix("records/"), name)
        if blob != f"records/{gateway}/{name}":
            raise InvalidRequest("a gateway names the record files that it sent itself", code="malformed-telemetry")
        files.append(msgspec.structs.replace(file, blob=blob))
    if files:
        with context.database.begin() as connection:
            known = predictions.received(connection, [file.blob for file in files])
        files = [file for file in files if file.blob in known]
    return take_frame(context, msgspec.structs.replace(frame, gateway=gateway, record_files=tuple(files)))


def take_frame(context: ControlContext, frame: Telemetry) -> int:
    """Apply a frame once, then decide about whatever waits for it; return its sequence."""
    with context.database.begin() as connection:
        if gateways.apply(connection, frame, context.clock.now_us()):
            _count(connection, frame)
        _notice(context, connection, frame)
    step(context)
    return frame.sequence


def _notice(context: ControlContext, connection: Connection, frame: Telemetry) -> None:
    """Tell once of a gateway that is ahead of the database. It is not believed further: one key could set every gateway back."""
    epoch, revision = read_revision(connection)
    ahead = gateways.ahead(frame.workers, epoch, revision)
    if ahead is not None and context.reported.first((STORE_BEHIND, frame.gateway, epoch)):
        _log.warning(STORE_BEHIND, gateway=frame.gateway, reported=ahead, revision=revision, hint=_RESTORE)
        context.audit(connection, frame.gateway, STORE_BEHIND, epoch, reported=ahead, revision=revision)


def _count(connection: Connection, frame: Telemetry) -> None:
    """Add what the gateway counted to the rollouts, in the transaction that takes the frame."""
    for counts in frame.rollouts:
        try:
            rollouts.merge(connection, f"{frame.gateway}/{frame.boot}", counts)
        except ValueError as error:
            raise InvalidRequest(f"counts that cannot be: {error}", code="malformed-telemetry") from error


def record_blob(context: ControlContext, key: Key, gateway: str, file: str) -> str:
    """The name under which a record file is kept of the gateway that speaks with this key and says that it is `gateway`.

    Raises:
        InvalidRequest: "invalid-name".
        Forbidden: "gateway-not-yours".
    """
    if not FILE.fullmatch(file):
        raise InvalidRequest("that cannot name a record file", code="invalid-name")
    return f"records/{instance_of(context, key, gateway)}/{file}"


def keep_records(context: ControlContext, blob: str, source: Path) -> None:
    """Keep a finished record file; the same one again changes nothing. From now on it counts for the bound on all of them, also
    if no frame ever names it."""
    with context.database.begin() as connection:  # first of all: what is not known here would never be deleted
        predictions.expect(connection, blob, source.stat().st_size, context.clock.now_us())
    context.blobs.put(blob, source)


def trim_records(context: ControlContext) -> int:
    """Delete the oldest record files beyond the limit; return how many."""
    with context.database.begin() as connection:
        excess, rows = predictions.over_limit(connection, context.settings.record_max_bytes)
        if excess:
            context.audit(connection, CONTROLLER, "records-trimmed", "records", files=len(excess), rows=rows)
    for blob in excess:
        context.blobs.delete(blob)
    return len(excess)


def last_predictions(context: ControlContext, endpoint: str, last: int, prediction_id: str | None) -> dict[str, Any]:
    """The newest predictions of an endpoint, newest last; how many records gateways had to drop; and how many record files, with
    how many predictions, were looked for and are damaged or gone.

    Raises:
        InvalidRequest: "invalid-name", "invalid-last".
    """
    check_name(endpoint, "endpoint name")
    if not 1 <= last <= MOST_SHOWN:
        raise InvalidRequest(f"last is between 1 and {MOST_SHOWN}", code="invalid-last")
    with context.database.begin() as connection:
        files = predictions.files_of(connection, endpoint)
        lost = sum(gateway.lost_records for gateway in gateways.list_all(connection))
    found = predictions.last_predictions(files, context.blobs.open, last, prediction_id)
    damaged, rows = count_unreadable(context, found.unreadable) if found.unreadable else (0, 0)
    return {"items": found.items, "lost": lost, "unreadable": {"files": damaged, "predictions": rows}}


def count_unreadable(context: ControlContext, blobs: Sequence[str]) -> tuple[int, int]:
    """How many of these record files are to be there, and how many predictions they hold; it is told in the log."""
    with context.database.begin() as connection:
        damaged, rows = predictions.kept(connection, blobs)
    if damaged:
        _log.warning("record-files-damaged-or-gone", files=damaged, predictions=rows, first=blobs[0])
    return damaged, rows


def status(context: ControlContext, version: str) -> dict[str, Any]:
    """The whole at one look."""
    with context.database.begin() as connection:
        found = gateways.list_all(connection)
        reached = reach(connection, gateways.live(found, context.clock.now_us()))
        documents = [endpoint_document(connection, each, reached) for each in endpoints.list_all(connection)]
        epoch, revision = read_revision(connection)
    snapshot, hooks = context.publisher.edition.snapshot, webhooks.list_all(context)["items"]
    now = context.clock.now_us()
    return {
        "control": {"version": version, "epoch": epoch, "revision": revision, "log_lines_dropped": lines_dropped()},
        "alerts": _alerts(gateways.live(found, now), epoch, revision),
        "packages_gone": [
            f"{entry.model}:{entry.version}"
            for entry in snapshot.packages
            if not context.blobs.exists(package_blob(entry.digest))
        ],
        "webhooks": {name: sum(each[name] for each in hooks) for name in ("behind", "lost")},
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


def _alerts(live: Sequence[gateways.Gateway], epoch: str, revision: int) -> list[dict[str, Any]]:
    """What somebody should look at."""
    told = {gateway.id: gateways.ahead(gateway.workers, epoch, revision) for gateway in live}
    return [
        {
            "code": STORE_BEHIND,
            "gateway": gateway,
            "text": f"{gateway} reports revision {ahead}, and the database has reached {revision} only",
            "hint": _RESTORE,
        }
        for gateway, ahead in told.items()
        if ahead is not None
    ]


def audit_trail(context: ControlContext, last: int, before: str | None) -> dict[str, Any]:
    """The newest audit entries, newest first.

    Raises:
        InvalidRequest: "invalid-last".
    """
    if not 1 <= last <= MOST_SHOWN:
        raise InvalidRequest(f"last is between 1 and {MOST_SHOWN}", code="invalid-last")
    with context.database.begin() as connection:
        entries = list_last(connection, last, before)
    items = [{**entry, "at": iso(entry.pop("at_us"))} for entry in entries]
    return {"items": items, "next": items[-1]["id"] if len(items) == last else None}


def events_after(context: ControlContext, after: int, last: int) -> dict[str, Any]:
    """The `last` oldest events with greater numbers than `after`; `next` is where to go on, and `lost` how many of them were
    deleted before they were asked for.

    Raises:
        InvalidRequest: "invalid-last".
    """
    if not 1 <= last <= MOST_SHOWN:
        raise InvalidRequest(f"last is between 1 and {MOST_SHOWN}", code="invalid-last")
    with context.database.begin() as connection:
        found = events.list_after(connection, max(after, 0), last)
        lost = max(events.kept(connection).first - 1 - max(after, 0), 0)
    items = [{**event, "at": iso(event.pop("at_us"))} for event in found]
    return {"items": items, "next": items[-1]["number"] if items else max(after, 0), "lost": lost}
