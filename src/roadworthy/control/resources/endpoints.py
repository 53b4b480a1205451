"""Deploy, roll back and undeploy endpoints, and show them. `controllers/` move the traffic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from roadworthy.access.principal import Principal
from roadworthy.contract.api import endpoints as api
from roadworthy.contract.api.endpoints import Deployment
from roadworthy.contract.api.operation import Page
from roadworthy.contract.telemetry import WorkerReport
from roadworthy.control.context import ControlContext
from roadworthy.control.controllers import rollout_controller
from roadworthy.control.controllers.observation import canary_of
from roadworthy.control.resources import policies
from roadworthy.control.resources.pages import page_of
from roadworthy.control.resources.times import iso
from roadworthy.foundation.errors import Conflict, NotFound
from roadworthy.foundation.references import VersionReference, check_name
from roadworthy.monitoring import gateways
from roadworthy.monitoring.gateways import Gateway, workers_of
from roadworthy.registry import versions
from roadworthy.registry.versions import Version
from roadworthy.rollout import endpoints, rollouts
from roadworthy.rollout.decide.state import FAILED, LOADING
from roadworthy.rollout.decide.switch import Switch, decide
from roadworthy.rollout.endpoints import Endpoint
from roadworthy.rollout.facts import fact
from roadworthy.rollout.rollouts import Rollout
from roadworthy.rollout.words import say
from roadworthy.schema.signature import Signature
from roadworthy.store.blobs import package_blob
from roadworthy.store.connection import Connection
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
        merged = policies.merged(None if before is None else before.policy, asked.policy)
        empty = Endpoint(name, 0, None, None, {}, found.signature, 0, actor)
        after = _asked_for(context, connection, before or empty, found, merged, actor)
        policies.check(context, connection, merged, found, after.signature)
        _check_gateways(context, connection, before, merged)
        if after != before:
            if before is None:
                endpoints.create(connection, after)
            else:
                _make_way(context, connection, before, str(reference), actor, supersede=asked.supersede)
                endpoints.change(connection, before, after)
            if after.current == str(reference):
                bump_revision(connection)
            else:
                rollout_controller.order(context, connection, after, found, actor)
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
        lacking = needed.lacking(added, _live(context, connection)) if added else {}
        if lacking:
            name, ids = next(iter(lacking.items()))
            raise Conflict(
                f"{', '.join(ids[:8])} has not loaded the {needed.noun} {name}",
                code=needed.code,
                hint=needed.hint,
                facts={f"{needed.noun}s": lacking},
            )


def check_bytes(context: ControlContext, connection: Connection, version: Version) -> None:
    """Refuse a version whose bytes are missing from the blob store, unless every live worker has already loaded it.

    Raises:
        NotFound: "blob-missing".
    """
    if context.blobs.exists(package_blob(version.digest)):
        return
    if not isinstance(decide(version.digest, workers_of(_live(context, connection))), Switch):
        raise NotFound(
            f"the package of {version.reference} is missing from the blob store",
            code="blob-missing",
            hint="push the same package again; it keeps its number",
        )


def _make_way(
    context: ControlContext, connection: Connection, before: Endpoint, version: str, actor: str, *, supersede: bool
) -> None:
    """End what is on its way to the endpoint. A change of policy alone does not disturb a running rollout.

    Raises:
        Conflict: "rollout-running".
    """
    running = rollouts.find_measured(connection, before.name)
    if running is not None and version != before.current:
        if not supersede:
            raise rollout_running(running)
        rollout_controller.apply_command(context, connection, running, "supersede", actor)
        _cancel(context, connection, rollouts.find_waiting(connection, before.name), actor, version)
    _cancel(context, connection, _open_deployment(connection, before.name), actor, version)


def _cancel(context: ControlContext, connection: Connection, ended: Rollout | None, actor: str, version: str) -> None:
    if ended is not None:
        rollout_controller.cancel(context, connection, ended, actor, fact("deployed-instead", version=version))


def _open_deployment(connection: Connection, name: str) -> Rollout | None:
    last = rollouts.last_deployment(connection, name)
    return last if last is not None and last.ended_at_us is None else None


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


def _asked_for(
    context: ControlContext, connection: Connection, before: Endpoint, version: Version, policy: dict[str, Any], actor: str
) -> Endpoint:
    """The endpoint as it is asked for, with the next generation; `before` itself if it is so already."""
    now = context.clock.now_us()
    if before.current is None:  # no caller was ever answered by the signature of a version that never served
        return before.changed(now, actor, policy=policy, signature=version.signature)
    difference = Signature.from_document(version.signature).accepts(Signature.from_document(before.signature))
    if difference is not None:
        raise Conflict(
            f"{version.reference} does not fit the endpoint's signature: {difference}",
            code="signature-incompatible",
            hint="deploy it to a new endpoint, so that callers can move over",
        )
    if before.current != str(version.reference) or policy != before.policy:
        return before.changed(now, actor, policy=policy)
    kept_out = rollout_controller.serving_kept_out(context, connection, before)  # then it gets another chance on gateways
    as_it_is = rollouts.find_pending(connection, before.name, before.generation) is None and kept_out is None
    return before if as_it_is else before.changed(now, actor)


def rollback(context: ControlContext, name: str, principal: Principal) -> api.Endpoint:
    """Deploy an endpoint's previous version: it takes over at once if every worker still has it loaded. If a rollout is running,
    only abort it, and cancel what waits for its end.

    Raises:
        NotFound: "unknown-endpoint".
        Conflict: "no-previous-version".
    """
    with context.changing() as connection:
        running = rollouts.find_measured(connection, name)
        if running is not None:
            waiting = rollouts.find_waiting(connection, name)
            if waiting is not None:
                rollout_controller.cancel(context, connection, waiting, principal.who, fact("endpoint-rolled-back"))
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
    _cancel(context, connection, _open_deployment(connection, before.name), actor, before.previous)
    found = versions.get(connection, VersionReference.parse(before.previous))
    after = before.changed(context.clock.now_us(), actor)  # at once: a deploy that was decided before it must not replace it
    endpoints.change(connection, before, after)
    rollout_controller.order(context, connection, after, found, actor)
    context.audit(connection, actor, "rollback", before.name, version=before.previous, left=before.current)


def undeploy(context: ControlContext, name: str, principal: Principal) -> None:
    """Delete the endpoint; its versions stay in the registry."""
    with context.changing() as connection:
        endpoint = endpoints.get(connection, name)
        for rollout in (rollouts.find_running(connection, name), rollouts.find_waiting(connection, name)):
            if rollout is not None:
                rollout_controller.cancel(context, connection, rollout, principal.who, fact("endpoint-deleted"))
        endpoints.remove(connection, name)
        bump_revision(connection)
        context.audit(connection, principal.who, "undeploy", name, version=endpoint.current)
    context.wake.ring()


def _live(context: ControlContext, connection: Connection) -> list[Gateway]:
    return gateways.list_live(connection, context.clock.now_us())


class Reports(NamedTuple):
    """The store's epoch and revision, and the reports of all live workers."""

    epoch: str
    revision: int
    workers: list[WorkerReport]

    def reached(self, name: str) -> int | None:
        """The newest revision by which every live worker serves an endpoint. None without workers; a worker that refuses the
        endpoint counts as 0."""
        served = (each.revision if each.epoch == self.epoch and name not in each.refused else 0 for each in self.workers)
        return min(served, default=None)


def read_reports(connection: Connection, live: Iterable[Gateway]) -> Reports:
    """Reports of these gateways."""
    return Reports(*read_revision(connection), workers_of(live))


def get(context: ControlContext, name: str) -> api.Endpoint:
    """One endpoint.

    Raises:
        NotFound: "unknown-endpoint".
    """
    with context.database.begin() as connection:
        endpoint = endpoints.get(connection, name)
        opened = rollouts.list_open(connection, name)
        return shown(connection, endpoint, read_reports(connection, _live(context, connection)), opened)


def list_all(context: ControlContext, cursor: str) -> Page[api.Endpoint]:
    """A page of endpoints, sorted by name."""
    with context.database.begin() as connection:
        reports, found = read_reports(connection, _live(context, connection)), endpoints.list_all(connection)
        opened = rollouts.list_open(connection)
        return page_of(found, lambda each: each.name, cursor, lambda each: shown(connection, each, reports, opened))


def shown(connection: Connection, endpoint: Endpoint, reports: Reports, opened: Sequence[Rollout]) -> api.Endpoint:
    """An endpoint as the API shows it, with what is open there of `opened`."""
    measured = (each for each in opened if each.endpoint == endpoint.name and each.running and not each.deployment)
    running = next(measured, None)
    pending = rollouts.find_pending(connection, endpoint.name, endpoint.generation, opened)
    state = "empty" if endpoint.current is None else "serving"
    if pending is not None:
        state = "loading" if pending.ended_at_us is None else "failed"
    return api.Endpoint(
        name=endpoint.name,
        generation=endpoint.generation,
        state=state,
        version=endpoint.current,
        digest=endpoint.current and versions.digest_of(connection, endpoint.current),
        previous=endpoint.previous,
        pending=None if pending is None else _change(pending, running, reports),
        rollout=None
        if running is None
        else api.RolloutProgress(id=running.id, paused=running.state.paused, **rollout_controller.standing(running)),
        policy=endpoint.policy,
        signature=endpoint.signature,
        changed_at=iso(endpoint.changed_at_us),
        changed_by=endpoint.changed_by,
        revision=reports.revision,
        reached_revision=reports.reached(endpoint.name),
    )


def _change(pending: Rollout, running: Rollout | None, reports: Reports) -> api.PendingChange:
    """A deployment as the API shows it, and why it waits according to the last reports, or why it failed."""
    code = None
    if pending.ended_at_us is not None:
        state, code, reason = FAILED, pending.state.code, say(pending.state.why)
    elif pending.waiting and running is not None:
        state, reason = LOADING, f"the rollout of {running.canary} must end first"
    else:
        state, reason = LOADING, say(getattr(canary_of(pending, reports.workers, reports.epoch), "reason", "ready"))
    since = iso(pending.started_at_us)
    return api.PendingChange(
        version=pending.canary, digest=pending.canary_digest, state=state, reason=reason, code=code, since=since
    )
