"""Receives telemetry frames and prediction records from gateways, and answers people's questions about them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from roadworthy.access.principal import Principal
from roadworthy.audit import events
from roadworthy.audit.entries import list_last
from roadworthy.contract.api import system as api
from roadworthy.contract.api.endpoints import Endpoint, PredictionRecord, Predictions, Unreadable
from roadworthy.contract.api.operation import Page
from roadworthy.contract.telemetry import Telemetry
from roadworthy.control.context import ControlContext
from roadworthy.control.http.instances import instance_of
from roadworthy.control.logs import lines_dropped
from roadworthy.control.resources import webhooks
from roadworthy.control.resources.endpoints import read_reports, shown
from roadworthy.control.resources.policies import NEEDED
from roadworthy.control.resources.times import iso
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.foundation.keys import hash_key
from roadworthy.foundation.references import check_name
from roadworthy.monitoring import gateways, predictions
from roadworthy.rollout import endpoints, rollouts
from roadworthy.rollout.rollouts import CONTROLLER
from roadworthy.store.blobs import package_blob
from roadworthy.store.connection import Connection
from roadworthy.store.engine import read_revision
from roadworthy.store.tables import PROJECT

FILE = re.compile(r"[a-z0-9][A-Za-z0-9._-]{0,180}\.parquet", re.ASCII)
"""Form of a record file's name."""
MOST_SHOWN = 1_000
"""Most items in one reply."""
STORE_BEHIND = "store-behind"
_RESTORE = "if the database was restored from a backup, run `roadworthy restore` on the control plane's machine"
_log = structlog.get_logger()


def receive(context: ControlContext, principal: Principal, frame: Telemetry) -> int:
    """Accept a frame under the name of the gateway that uses this key; return its sequence. Record files that never arrived, or
    are already deleted, are left out.

    Raises:
        InvalidRequest: "invalid-name", "malformed-telemetry".
        Forbidden: "gateway-not-yours".
    """
    gateway = instance_of(context, principal, frame.gateway)
    files = []
    for file in frame.record_files:
        folder, _, name = file.blob.rpartition("/")
        blob = record_blob(context, principal, folder.removeprefix("records/"), name)
        if blob != _blob(context, gateway, name):
            raise InvalidRequest("a frame may name only record files of its own gateway", code="malformed-telemetry")
        files.append(msgspec.structs.replace(file, blob=blob))
    if files:
        with context.database.begin() as connection:
            known = predictions.received(connection, [file.blob for file in files])
        files = [file for file in files if file.blob in known]
    return take_frame(context, msgspec.structs.replace(frame, gateway=gateway, record_files=tuple(files)))


def take_frame(context: ControlContext, frame: Telemetry) -> int:
    """Apply a frame once and wake the controllers; return its sequence."""
    with context.database.begin() as connection:
        if gateways.apply(connection, frame, context.clock.now_us()):
            _count(connection, frame)
        _notice(context, connection, frame)
    context.wake.ring()
    return frame.sequence


def _notice(context: ControlContext, connection: Connection, frame: Telemetry) -> None:
    """Report once that a gateway is ahead of the database. The report has no further effect: one key could reset every
    gateway."""
    epoch, revision = read_revision(connection)
    ahead = gateways.ahead(frame.workers, epoch, revision)
    if ahead is not None and context.reported.first((STORE_BEHIND, frame.gateway, epoch)):
        _log.warning(STORE_BEHIND, gateway=frame.gateway, reported=ahead, revision=revision, hint=_RESTORE)
        context.audit(connection, frame.gateway, STORE_BEHIND, epoch, reported=ahead, revision=revision)


def _count(connection: Connection, frame: Telemetry) -> None:
    """Add the gateway's counts to the rollouts, in the transaction that accepts the frame."""
    for counts in frame.rollouts:
        try:
            rollouts.merge(connection, f"{frame.gateway}/{frame.boot}", counts)
        except ValueError as error:
            raise InvalidRequest(f"impossible counts: {error}", code="malformed-telemetry") from error


def record_blob(context: ControlContext, principal: Principal, gateway: str, file: str) -> str:
    """The blob name of a record file from the gateway that uses this key and claims to be `gateway`.

    Raises:
        InvalidRequest: "invalid-name".
        Forbidden: "gateway-not-yours".
    """
    if not FILE.fullmatch(file):
        raise InvalidRequest("not a valid name of a record file", code="invalid-name")
    return _blob(context, instance_of(context, principal, gateway), file)


def _blob(context: ControlContext, gateway: str, file: str) -> str:
    """Gateways of two projects may have the same name, and all projects share the blobs."""
    project = context.database.project
    return f"records{'' if project == PROJECT else hash_key(project)[:16]}/{gateway}/{file}"


def keep_records(context: ControlContext, blob: str, source: Path) -> None:
    """Store a finished record file; storing the same file again changes nothing. From now on it counts towards the bound on all
    record files, even if no frame ever names it."""
    with context.database.begin() as connection:  # first, because a file that is not in the database would never be deleted
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


def last_predictions(context: ControlContext, endpoint: str, last: int, prediction_id: str | None) -> Predictions:
    """The newest predictions of an endpoint, newest last; the number of records that gateways dropped; and the number of damaged
    or missing record files among those read, with their number of predictions.

    Raises:
        InvalidRequest: "invalid-name", "invalid-last".
    """
    check_name(endpoint, "endpoint name")
    if not 1 <= last <= MOST_SHOWN:
        raise InvalidRequest(f"last must be 1 to {MOST_SHOWN}, got {last}", code="invalid-last")
    with context.database.begin() as connection:
        files = predictions.files_of(connection, endpoint)
        lost = sum(gateway.lost_records for gateway in gateways.list_all(connection))
    found = predictions.last_predictions(files, context.blobs.open, last, prediction_id)
    damaged, rows = count_unreadable(context, found.unreadable) if found.unreadable else (0, 0)
    items = [PredictionRecord(**each) for each in found.items]
    return Predictions(items=items, lost=lost, unreadable=Unreadable(files=damaged, predictions=rows))


def count_unreadable(context: ControlContext, blobs: Sequence[str]) -> tuple[int, int]:
    """How many of these record files should still exist, and how many predictions they hold; logs them."""
    with context.database.begin() as connection:
        damaged, rows = predictions.kept(connection, blobs)
    if damaged:
        _log.warning("record-files-damaged-or-gone", files=damaged, predictions=rows, first=blobs[0])
    return damaged, rows


def status(context: ControlContext, version: str) -> api.Status:
    """The status of the whole installation."""
    with context.database.begin() as connection:
        found = gateways.list_all(connection)
        reports = read_reports(connection, gateways.live(found, context.clock.now_us()))
        opened = rollouts.list_open(connection)
        listed = [shown(connection, each, reports, opened) for each in endpoints.list_all(connection)]
        epoch, revision, _ = reports
    snapshot, now = context.publisher.edition.snapshot, context.clock.now_us()
    live = gateways.live(found, now)
    return api.Status(
        control=api.ControlStatus(version=version, epoch=epoch, revision=revision, log_lines_dropped=lines_dropped()),
        alerts=[*_alerts(live, epoch, revision), *_plugin_alerts(live, listed)],
        packages_gone=[
            f"{entry.model}:{entry.version}"
            for entry in snapshot.packages
            if not context.blobs.exists(package_blob(entry.digest))
        ],
        webhooks=webhooks.backlog(context),
        gateways=[
            api.GatewayStatus(
                id=gateway.id,
                boot=gateway.boot,
                seen_at=iso(gateway.seen_at_us),
                alive=now - gateway.seen_at_us <= gateways.ALIVE_US,
                revision=min((worker.revision for worker in gateway.workers), default=0),
                workers=tuple(gateway.workers),
                lost_records=gateway.lost_records,
            )
            for gateway in found
        ],
        endpoints=listed,
    )


def _alerts(live: Sequence[gateways.Gateway], epoch: str, revision: int) -> list[api.Alert]:
    """Conditions that an operator should look at."""
    reported = {gateway.id: gateways.ahead(gateway.workers, epoch, revision) for gateway in live}
    return [
        api.Alert(
            code=STORE_BEHIND,
            gateway=gateway,
            text=f"{gateway} reports revision {ahead}, but the database has only reached {revision}",
            hint=_RESTORE,
        )
        for gateway, ahead in reported.items()
        if ahead is not None
    ]


def _plugin_alerts(live: Sequence[gateways.Gateway], listed: Sequence[Endpoint]) -> list[api.Alert]:
    """A gateway without a layer or a runner that an endpoint asks for. It holds the endpoint back, unless its release has none of
    plug-ins."""
    return [
        api.Alert(
            code=needed.code,
            gateway=gateway,
            text=f"{gateway} has not loaded the {needed.noun} {name} of endpoint {endpoint.name}",
            hint=needed.hint,
        )
        for endpoint in listed
        for needed in NEEDED
        for name, lacking in needed.lacking(needed.named(endpoint.policy), live).items()
        for gateway in lacking
    ]


def audit_trail(context: ControlContext, last: int, before: str | None, subject: str | None = None) -> Page[api.AuditEntry]:
    """The newest audit entries, newest first; those of one subject, or all.

    Raises:
        InvalidRequest: "invalid-last".
    """
    if not 1 <= last <= MOST_SHOWN:
        raise InvalidRequest(f"last must be 1 to {MOST_SHOWN}, got {last}", code="invalid-last")
    with context.database.begin() as connection:
        found = list_last(connection, last + 1, before, subject)
    items = [api.AuditEntry(at=iso(entry.pop("at_us")), **entry) for entry in found[:last]]
    return Page(items=items, next=items[-1].id if len(found) > last else None)


def events_after(context: ControlContext, after: int, last: int) -> api.Events:
    """The `last` oldest events with numbers greater than `after`; `next` is where to continue, and `lost` is the number of such
    events that were deleted before they were read.

    Raises:
        InvalidRequest: "invalid-last".
    """
    if not 1 <= last <= MOST_SHOWN:
        raise InvalidRequest(f"last must be 1 to {MOST_SHOWN}, got {last}", code="invalid-last")
    with context.database.begin() as connection:
        found = events.list_after(connection, max(after, 0), last)
        lost = max(events.kept(connection).first - 1 - max(after, 0), 0)
    items = [api.Event(at=iso(event.pop("at_us")), **event) for event in found]
    return api.Events(items=items, next=items[-1].number if items else max(after, 0), lost=lost)
