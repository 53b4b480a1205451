"""Deploy, roll back and undeploy endpoints, and show them. `controllers/deployments.py` moves the traffic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from roadworthy.access.principal import Principal
from roadworthy.contract.api import endpoints as api
from roadworthy.contract.api.endpoints import Deployment
from roadworthy.contract.api.operation import Page
from roadworthy.control.context import ControlContext
from roadworthy.control.controllers import rollout_controller
from roadworthy.control.controllers.deployments import digest_of, live_gateways, serving_kept_out, switched
from roadworthy.control.resources import policies
from roadworthy.control.resources.pages import page_of
from roadworthy.control.resources.times import iso
from roadworthy.foundation.errors import Conflict, NotFound
from roadworthy.foundation.references import VersionReference, check_name
from roadworthy.monitoring.gateways import Gateway, workers_of
from roadworthy.registry import versions
from roadworthy.rollout import endpoints, rollouts
from roadworthy.rollout.decide.switch import Switch, decide
from roadworthy.rollout.endpoints import FAILED, LOADING, Endpoint, Pending
from roadworthy.rollout.rollouts import Rollout
from roadworthy.schema.signature import Signature
from roadworthy.store.blobs import package_blob
from roadworthy.store.engine import bump_revision, read_revision


def deploy(context: ControlContext, name: str, asked: Deployment, principal: Principal) -> api.Endpoint:
    """Deploy a version to the endpoint `name`; it serves as soon as every live worker has loaded and proved it.

    Raises:
        NotFound: "unknown-version", "blob-missing".
        Conflict: "signature-incompatible", "generation-conflict", "rollout-running", "layer-missing",
            "runner-missing".
        InvalidRequest: "unknown-policy", "invalid-policy", "unknown-layer", "invalid-name", "invalid-reference".
    """
    check_name(name, "endpoint name")
    reference, actor = VersionReference.parse(asked.version), principal.who
    with context.changing() as connection:
        found = versions.get(connection, reference)
        check_bytes(context, connection, found)
        before = endpoints.find(connection, name)
        if asked.if_generation is not None and asked.if_generation != (before.generation if before else 0):
            raise endpoints.generation_conflict(name)
        if before is not None and _make_way(context, connection, before, asked, actor):
            before = endpoints.get(connection, name)
        merged = policies.merged(None if before is None else before.policy, asked.policy)
        after = _with_pending(context, before, name, found, merged, actor)
        policies.check(context, connection, merged, found, after.signature)
        _check_gateways(context, connection, before, merged)
        if after is before and serving_kept_out(connection, before, live_gateways(context, connection)):
            after = before.changed(context.clock.now_us(), actor)  # its version gets another chance on gateways
        if before is None:
            endpoints.create(connection, after)
        elif after != before:
            endpoints.change(connection, before, after)
        if after != before:
            bump_revision(connection)
            context.audit(connection, actor, "deploy", name, version=asked.version, digest=found.digest)
    context.wake.followed()
    return get(context, name)


def _check_gateways(context: ControlContext, connection: Connection, before: Endpoint | None, policy: Mapping[str, Any]) -> None:
    """Refuse a layer or a runner of a plug-in that is new on the endpoint unless every live worker has loaded it.

    Raises:
        Conflict: "layer-missing", "runner-missing".
    """
    for needed in policies.NEEDED:
        had = () if before is None else needed.named(before.policy)
        added = [name for name in needed.named(policy) if name not in had]
        lacking = needed.lacking(added, live_gateways(context, connection)) if added else {}
        if lacking:
            name, ids = next(iter(lacking.items()))
            raise Conflict(
                f"{', '.join(ids[:8])} has not loaded the {needed.noun} {name}",
                code=needed.code,
                hint=needed.hint,
                facts={f"{needed.noun}s": lacking},
            )


def check_bytes(context: ControlContext, connection: Connection, version: versions.Version) -> None:
    """Refuse a version whose bytes are missing from the blob store, unless every live worker has already loaded it.

    Raises:
        NotFound: "blob-missing".
    """
    if context.blobs.exists(package_blob(version.digest)):
        return
    if not isinstance(decide(version.digest, workers_of(live_gateways(context, connection))), Switch):
        raise NotFound(
            f"the package of {version.reference} is missing from the blob store",
            code="blob-missing",
            hint="push the same package again; it keeps its number",
        )


def _make_way(context: ControlContext, connection: Connection, before: Endpoint, asked: Deployment, actor: str) -> bool:
    """Whether the deployment supersedes a running rollout. A change of policy does not disturb it; another version replaces
    it."""
    running = rollouts.find_running(connection, before.name)
    if running is None or asked.version == before.current:
        return False
    if not asked.supersede:
        raise rollout_running(running)
    rollout_controller.apply_command(context, connection, running, "supersede", actor)
    waiting = rollouts.find_waiting(connection, before.name)
    if waiting is not None:
        rollout_controller.cancel(context, connection, waiting, actor, f"{asked.version} is deployed instead")
    return True


def rollout_running(running: Rollout) -> Conflict:
    """The error while another rollout is running: it names its version, its starter and its step."""
    at = rollout_controller.standing(running)
    return Conflict(
        f"a rollout of {running.canary}, started by {running.started_by}, is running on endpoint {running.endpoint}: "
        f"{at['phase']}, step {at['step']} of {at['steps']}, {at['share']:g} % of the traffic",
        code="rollout-running",
        hint="wait until it ends, abort or promote it, or supersede it with --supersede",
        facts={"rollout": running.id, "started_by": running.started_by, **at},
    )


def _with_pending(
    context: ControlContext,
    before: Endpoint | None,
    name: str,
    version: versions.Version,
    policy: dict[str, Any],
    actor: str,
) -> Endpoint:
    now = context.clock.now_us()
    pending: Pending | None = Pending(str(version.reference), LOADING, now, "not loaded yet")
    if before is None:
        return Endpoint(name, 1, None, None, pending, policy, version.signature, now, actor)
    if before.current is None:  # no caller was ever answered by the signature of a version that never served
        before = replace(before, signature=version.signature)
    difference = Signature.from_document(version.signature).accepts(Signature.from_document(before.signature))
    if difference is not None:
        raise Conflict(
            f"{version.reference} does not fit the endpoint's signature: {difference}",
            code="signature-incompatible",
            hint="deploy it to a new endpoint, so that callers can move over",
        )
    if before.current == str(version.reference):
        if before.pending is None and policy == before.policy:
            return before
        pending = None
    return before.changed(now, actor, pending=pending, policy=policy)


def rollback(context: ControlContext, name: str, principal: Principal) -> api.Endpoint:
    """Roll an endpoint back to its previous version: at once if every worker still has it loaded, else like a deployment. If a
    rollout is running, only abort it.

    Raises:
        NotFound: "unknown-endpoint".
        Conflict: "no-previous-version".
    """
    with context.changing() as connection:
        running = rollouts.find_running(connection, name)
        if running is not None:
            rollout_controller.apply_command(context, connection, running, "abort", principal.who)
        else:
            _roll_back(context, connection, endpoints.get(connection, name), principal.who)
    context.wake.followed()
    return get(context, name)


def _roll_back(context: ControlContext, connection: Connection, before: Endpoint, actor: str) -> None:
    if before.previous is None:
        raise Conflict(
            f"endpoint {before.name} has no previous version",
            code="no-previous-version",
            hint="deploy the version that you want by its number",
        )
    verdict = decide(digest_of(connection, before.previous), workers_of(live_gateways(context, connection)))
    now = context.clock.now_us()
    if isinstance(verdict, Switch):
        after = replace(switched(connection, before, before.previous), changed_at_us=now, changed_by=actor)
    else:
        pending = Pending(before.previous, LOADING, now, verdict.reason)
        after = before.changed(now, actor, pending=pending)
    endpoints.change(connection, before, after)
    bump_revision(connection)
    context.audit(connection, actor, "rollback", before.name, version=before.previous, left=before.current)


def undeploy(context: ControlContext, name: str, principal: Principal) -> None:
    """Delete the endpoint; its versions stay in the registry."""
    with context.changing() as connection:
        endpoint = endpoints.get(connection, name)
        for rollout in (rollouts.find_running(connection, name), rollouts.find_waiting(connection, name)):
            if rollout is not None:
                rollout_controller.cancel(context, connection, rollout, principal.who, "the endpoint was deleted")
        endpoints.remove(connection, name)
        bump_revision(connection)
        context.audit(connection, principal.who, "undeploy", name, version=endpoint.current)
    context.wake.ring()


def get(context: ControlContext, name: str) -> api.Endpoint:
    """One endpoint.

    Raises:
        NotFound: "unknown-endpoint".
    """
    with context.database.begin() as connection:
        endpoint = endpoints.get(connection, name)
        return shown(connection, endpoint, reach(connection, live_gateways(context, connection)))


def list_all(context: ControlContext, cursor: str) -> Page[api.Endpoint]:
    """A page of endpoints, sorted by name."""
    with context.database.begin() as connection:
        reached, found = reach(connection, live_gateways(context, connection)), endpoints.list_all(connection)
        return page_of(found, lambda each: each.name, cursor, lambda each: shown(connection, each, reached))


def reach(connection: Connection, live: list[Gateway]) -> Callable[[str], tuple[int, int | None]]:
    """The store's revision, and the newest revision by which every live worker serves an endpoint, by the endpoint's name. None
    without workers; a worker that refuses the endpoint counts as 0."""
    epoch, revision = read_revision(connection)
    workers = workers_of(live)

    def of(name: str) -> tuple[int, int | None]:
        served = (each.revision if each.epoch == epoch and name not in each.refused else 0 for each in workers)
        return revision, min(served, default=None)

    return of


def shown(connection: Connection, endpoint: Endpoint, reached: Callable[[str], tuple[int, int | None]]) -> api.Endpoint:
    """An endpoint as the API shows it; `reached` comes from `reach`."""
    pending = endpoint.pending
    running = rollouts.find_running(connection, endpoint.name)
    revision, reached_revision = reached(endpoint.name)
    return api.Endpoint(
        name=endpoint.name,
        generation=endpoint.generation,
        state=_state(endpoint),
        version=endpoint.current,
        digest=endpoint.current and digest_of(connection, endpoint.current),
        previous=endpoint.previous,
        pending=None
        if pending is None
        else api.PendingChange(
            version=pending.version,
            digest=digest_of(connection, pending.version),
            state=pending.state,
            reason=pending.reason,
            code=pending.code,
            since=iso(pending.since_us),
        ),
        rollout=None
        if running is None
        else api.RolloutProgress(id=running.id, paused=running.state.paused, **rollout_controller.standing(running)),
        policy=endpoint.policy,
        signature=endpoint.signature,
        changed_at=iso(endpoint.changed_at_us),
        changed_by=endpoint.changed_by,
        revision=revision,
        reached_revision=reached_revision,
    )


def _state(endpoint: Endpoint) -> str:
    if endpoint.pending is not None:
        return "failed" if endpoint.pending.state == FAILED else "loading"
    return "serving" if endpoint.current is not None else "empty"
