"""Looks once: moves traffic to pending versions that are ready everywhere and away from serving ones that crash, and drives
rollouts. `loop.py` calls `look`."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from sqlalchemy import Connection

from roadworthy.contract.snapshot import FULL_SHARE
from roadworthy.contract.telemetry import WorkerReport
from roadworthy.control.context import ControlContext
from roadworthy.control.controllers import rollout_controller
from roadworthy.control.controllers.rollout_controller import CONTROLLER
from roadworthy.foundation.references import VersionReference
from roadworthy.monitoring import gateways
from roadworthy.monitoring.gateways import Gateway, workers_of
from roadworthy.registry import versions
from roadworthy.rollout import endpoints, rollouts
from roadworthy.rollout.decide.switch import Refuse, Switch, Wait, decide, kept_out
from roadworthy.rollout.endpoints import FAILED, LOADING, Endpoint, Pending
from roadworthy.rollout.rollouts import Rollout
from roadworthy.schema.signature import Signature
from roadworthy.store.engine import bump_revision


def look(context: ControlContext) -> None:
    """One tick of the controller: pending versions, serving versions that crash, and rollouts."""
    with context.lock:
        moved = False
        with context.database.begin() as connection:
            known = endpoints.list_all(connection)
            found = live_gateways(context, connection) if known else []
            running = {each.endpoint: each for each in rollouts.list_open(connection) if each.running}
            for endpoint in known:
                rollout = running.get(endpoint.name)
                retreated = _retreat(context, connection, endpoint, found, rollout)
                waits = endpoint.pending is not None and endpoint.pending.state == LOADING and rollout is None
                moved |= retreated or (waits and _step_one(context, connection, endpoint, found))
        moved |= bool(running) and rollout_controller.drive(context)
        if moved:
            context.publisher.refresh()
    context.stream.catch_up()


def _step_one(context: ControlContext, connection: Connection, before: Endpoint, found: list[Gateway]) -> bool:
    pending = before.pending
    if pending is None:
        return False
    verdict = decide(digest_of(connection, pending.version), _reports(before, pending, found))
    now = context.clock.now_us()
    if isinstance(verdict, Wait):
        if verdict.reason != pending.reason:
            endpoints.change(connection, before, replace(before, pending=replace(pending, reason=verdict.reason)))
        return False
    if isinstance(verdict, Refuse):
        failed = replace(pending, state=FAILED, reason=verdict.reason, code=verdict.code)
        after = replace(before, pending=failed, generation=before.generation + 1, changed_at_us=now)
        context.audit(connection, CONTROLLER, "deploy-failed", before.name, version=pending.version, code=verdict.code)
    else:
        after = replace(switched(connection, before, pending.version), changed_at_us=now)
        context.audit(connection, CONTROLLER, "switch", before.name, version=pending.version, left=before.current)
    endpoints.change(connection, before, after)
    bump_revision(connection)
    return True


def _retreat(
    context: ControlContext, connection: Connection, before: Endpoint, found: list[Gateway], rollout: Rollout | None
) -> bool:
    """Go back to the previous version when the serving one is in quarantine. Only a deployment brings that version back; a
    pending version stays pending. A rollout that loses its stable in this way is over, unless its canary has all the traffic."""
    reason = serving_kept_out(connection, before, found)
    if reason is None or before.previous is None:
        return False
    if rollout is not None and rollout.state.weight == FULL_SHARE:
        return False
    if not isinstance(decide(digest_of(connection, before.previous), workers_of(found)), Switch):
        return False
    after = replace(
        switched(connection, before, before.previous),
        previous=None,
        pending=before.pending,
        changed_at_us=context.clock.now_us(),
        changed_by=CONTROLLER,
    )
    facts = {"version": before.previous, "left": before.current, "reason": reason}
    context.audit(connection, CONTROLLER, "rollback", before.name, **facts)
    endpoints.change(connection, before, after)
    revision = bump_revision(connection)
    if rollout is not None:
        text = f"its stable {before.current} is in quarantine: {reason}"
        rollout_controller.cancel(context, connection, rollout, CONTROLLER, text)
        rollout_controller.begin_waiting(context, connection, after, revision)
    return True


def serving_kept_out(connection: Connection, endpoint: Endpoint, found: list[Gateway]) -> str | None:
    """Why a live gateway has the serving version in quarantine, if one has. Reports from before the endpoint's last change do not
    count: each change gives the version another chance."""
    if endpoint.current is None:
        return None
    said = workers_of(gateway for gateway in found if gateway.seen_at_us > endpoint.changed_at_us)
    return kept_out(digest_of(connection, endpoint.current), said) if said else None


def _reports(endpoint: Endpoint, pending: Pending, found: list[Gateway]) -> list[WorkerReport]:
    """Reports of live workers on the pending version. Reports from before the gateway was asked to hold it concern an earlier
    life of the version there, ready or failed, and count as nothing yet."""
    warm = pending.version in (endpoint.current, endpoint.previous)
    return [
        worker if warm or gateway.seen_at_us > pending.since_us else msgspec.structs.replace(worker, versions=())
        for gateway in found
        for worker in gateway.workers
    ]


def switched(connection: Connection, before: Endpoint, version: str) -> Endpoint:
    """The endpoint after the switch to `version`. It keeps its signature, except when it goes back behind an accepted change of
    signature: then it takes that version's."""
    found = versions.get(connection, VersionReference.parse(version))
    fits = Signature.from_document(found.signature).accepts(Signature.from_document(before.signature)) is None
    after = before.switched(version)
    return after if fits else replace(after, signature=found.signature)


def live_gateways(context: ControlContext, connection: Connection) -> list[Gateway]:
    """Gateways that reported lately."""
    return gateways.live(gateways.list_all(connection), context.clock.now_us())


def digest_of(connection: Connection, version: str) -> str:
    """The digest of a version's package."""
    return versions.get(connection, VersionReference.parse(version)).digest
