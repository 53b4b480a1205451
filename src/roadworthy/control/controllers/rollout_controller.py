"""Drives rollouts and deployments: passes each running one to the state machine and carries out the resulting actions, one
transaction a look.

State, endpoint generation, audit entry and event are written together or not at all, and only if no other process wrote them
meanwhile. So a controller that is killed at any point resumes with the same step, time and counts, and of two controllers that
look at the same time one wins. `resources/` orders deployments and applies people's commands through the same functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import structlog
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from roadworthy.contract.api.rollouts import Finding, StepEvidence
from roadworthy.contract.snapshot import FULL_SHARE
from roadworthy.control.context import ControlContext
from roadworthy.control.controllers.observation import decide_since, observe
from roadworthy.foundation.errors import Conflict, Unavailable
from roadworthy.foundation.references import VersionReference
from roadworthy.monitoring import gateways
from roadworthy.registry import versions
from roadworthy.registry.versions import Version
from roadworthy.rollout import endpoints, rollouts
from roadworthy.rollout.decide import machine
from roadworthy.rollout.decide.commands import command
from roadworthy.rollout.decide.machine import Baseline
from roadworthy.rollout.decide.passing import Shown
from roadworthy.rollout.decide.state import (
    ABORTED,
    FINISHED,
    LOADING,
    NOT_STARTED,
    PROMOTED,
    READY,
    RETREAT,
    RETURNING,
    SUPERSEDED,
    Advance,
    Alert,
    Finish,
    Moment,
    Observation,
    Retry,
    SetSplit,
)
from roadworthy.rollout.decide.switch import Switch, all_kept_out, kept_out
from roadworthy.rollout.endpoints import Endpoint
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.facts import Why, fact
from roadworthy.rollout.plan.plan import DEPLOYMENT, Plan
from roadworthy.rollout.rollouts import CONTROLLER, Rollout
from roadworthy.rollout.words import say
from roadworthy.schema.signature import Signature
from roadworthy.store.connection import Connection
from roadworthy.store.engine import bump_revision, read_revision

LOOK_FAILED = "look-failed"
"""The code of a rollout whose last look raised an error."""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Look:
    """A rollout, its endpoint, and the observation of both, in one transaction."""

    rollout: Rollout
    endpoint: Endpoint
    seen: Observation


def drive(context: ControlContext) -> bool:
    """Look once at every running rollout and deployment, and at every endpoint whose serving version gateways have in quarantine;
    whether gateways need a new snapshot. The caller holds the write lock.

    Of several control planes on one database only the leader looks at rollouts: the time of a step is measured on one process's
    clock. A deployment has no clock."""
    leads = context.database.lead.held
    with context.database.begin() as connection:
        suspects = _suspects(context, connection)
        running = [each for each in rollouts.list_open(connection) if each.running and (leads or each.deployment)]
    moved = [_look(context, name, None) for name in suspects]
    moved += [_look(context, each.endpoint, each) for each in running]
    return any(moved)


def _suspects(context: ControlContext, connection: Connection) -> list[str]:
    """The endpoints that may have to go back to their previous version: few, because each costs a transaction."""
    digests = all_kept_out(gateways.workers_of(gateways.list_live(connection, context.clock.now_us())))
    if not digests:
        return []
    kept = versions.find_names(connection, digests)
    return [each.name for each in endpoints.list_all(connection) if each.previous is not None and each.current in kept]


def _look(context: ControlContext, name: str, rollout: Rollout | None) -> bool:
    """Look at an endpoint's rollout, or, with None, at its serving version; whether gateways need a new snapshot."""
    try:
        with context.database.begin() as connection:
            return _retreat(context, connection, name) if rollout is None else _drive_one(context, connection, name)
    except (Conflict, IntegrityError) as error:  # another process wrote first; the next look reads what it wrote
        _log.info("rollout-look-was-late", endpoint=name, code=getattr(error, "code", ""))
    except (Unavailable, SQLAlchemyError):  # of the store, which all rollouts share
        raise
    except Exception as error:  # noqa: BLE001 - a fault of one rollout must stop neither the others nor telemetry
        _log.error("rollout-look-failed", endpoint=name, rollout=rollout and rollout.id, exc_info=error)
        return rollout is not None and _unjudged(context, rollout, error)
    return False


def _retreat(context: ControlContext, connection: Connection, name: str) -> bool:
    """Deploy the previous version if the serving one is in quarantine; whether gateways need a new snapshot.

    It is ordered only if it can end at once: the reports of this epoch, by which a deployment is judged, have the version ready.
    A deployment that is on its way waits meanwhile and then goes on; one that failed is still shown. A rollout that loses its
    stable in this way is over."""
    endpoint = endpoints.get(connection, name)
    reason, version = serving_kept_out(context, connection, endpoint), endpoint.previous
    if reason is None or version is None or endpoint.current is None:
        return False
    previous = versions.get(connection, VersionReference.parse(version))
    running = rollouts.find_running(connection, name)
    workers = gateways.workers_of(gateways.list_live(connection, context.clock.now_us()))
    epoch, _ = read_revision(connection)
    ready = READY if isinstance(decide_since(previous.digest, workers, epoch), Switch) else LOADING
    if not machine.retreats(None if running is None else running.state, ready):
        return False
    failed = rollouts.find_pending(connection, name, endpoint.generation)
    if running is not None and running.deployment:
        rollouts.change(connection, replace(running, waiting=True))
    elif running is not None:
        why = fact("stable-quarantined", version=endpoint.current, reason=reason)
        cancel(context, connection, running, CONTROLLER, why)
    context.audit(connection, CONTROLLER, "rollback", name, version=version, left=endpoint.current, reason=say(reason))
    ordered = order(context, connection, endpoint, previous, CONTROLLER)
    rollouts.change(connection, replace(ordered, state=machine.retreating(ordered.state, endpoint.current, reason)))
    if failed is not None and failed.ended_at_us is not None:
        state = msgspec.structs.replace(failed.state, generation=endpoint.generation + 1)
        rollouts.change(connection, replace(failed, state=state))
    return _drive_one(context, connection, name)


def serving_kept_out(context: ControlContext, connection: Connection, endpoint: Endpoint) -> Why | None:
    """Why a live gateway has the serving version in quarantine, if one has. Reports from before the endpoint's last change do not
    count: each change gives the version another chance."""
    if endpoint.current is None:
        return None
    found = gateways.list_live(connection, context.clock.now_us())
    lately = gateways.workers_of(gateway for gateway in found if gateway.seen_at_us > endpoint.changed_at_us)
    return kept_out(versions.digest_of(connection, endpoint.current), lately)


def _unjudged(context: ControlContext, rollout: Rollout, error: Exception) -> bool:
    """Go on without signals and verdict: traffic that goes back does so, and everything else holds and says why, once."""
    state = rollout.state
    why = fact("look-failed", error=type(error).__name__, message=str(error)[:500])
    try:
        with context.database.begin() as connection:
            if state.phase == RETURNING:
                return _drive_one(context, connection, rollout.endpoint, judged=False)
            if state.code != LOOK_FAILED:
                held = replace(rollout, state=msgspec.structs.replace(state, code=LOOK_FAILED, why=why))
                rollouts.change(connection, held)
                facts = {"rollout": rollout.id, "code": LOOK_FAILED, "text": say(why), **standing(rollout)}
                context.announce(connection, CONTROLLER, "rollout-alert", rollout.endpoint, **facts)
    except Conflict as late:
        _log.info("rollout-look-was-late", endpoint=rollout.endpoint, code=late.code)
    return False


def look_at(context: ControlContext, connection: Connection, rollout: Rollout, evidence: Evidence | None = None) -> Look:
    """The current look at a running rollout; see `observe`."""
    endpoint = endpoints.get(connection, rollout.endpoint)
    epoch, revision = read_revision(connection)
    rollout = rollout if rollout.deployment else rollout.noted(endpoint.generation, revision)
    now_us = context.clock.now_us()
    found = gateways.list_live(connection, now_us)
    moment = Moment(context.boot, context.clock.monotonic())
    seen = observe(rollout, endpoint, found, evidence, epoch=epoch, moment=moment, now_us=now_us)
    return Look(rollout, endpoint, seen)


def order(
    context: ControlContext,
    connection: Connection,
    endpoint: Endpoint,
    found: Version,
    actor: str,
    *,
    stable: Version | None = None,
    plan: Plan = DEPLOYMENT,
    baseline: Baseline = machine.UNKNOWN,
    **more: Any,
) -> Rollout:
    """Store a rollout of a version on the endpoint, by default a deployment. If a rollout is running there, it waits for its end.
    `more` are further fields."""
    rollout_id, revision = rollouts.new_id(), bump_revision(connection)
    ordered = Rollout(
        id=rollout_id,
        endpoint=endpoint.name,
        stable="" if stable is None else str(stable.reference),
        stable_digest="" if stable is None else stable.digest,
        canary=str(found.reference),
        canary_digest=found.digest,
        plan=plan,
        state=machine.begin(rollout_id, endpoint.generation, baseline),
        started_at_us=context.clock.now_us(),
        started_by=actor,
        revisions=((endpoint.generation, revision),),
        waiting=rollouts.find_running(connection, endpoint.name) is not None,
        **more,
    )
    ordered = replace(ordered, asked_revision=_asked(ordered, endpoint, revision))
    rollouts.create(connection, ordered)
    return ordered


def _asked(rollout: Rollout, endpoint: Endpoint, revision: int) -> int:
    """The revision from which on reports count; any if gateways already hold the version that is deployed. A fallback may be as
    new as the deployment."""
    return 0 if rollout.deployment and rollout.canary in (endpoint.current, endpoint.previous) else revision


def apply_command(context: ControlContext, connection: Connection, rollout: Rollout, name: str, actor: str) -> str | None:
    """Apply a person's command to a running rollout; the reason if it was refused, else None."""
    look = look_at(context, connection, rollout)
    advance = command(rollout.plan, rollout.state, name, look.seen)
    if advance.refused is not None:
        return advance.refused
    decides = name in ("abort", "promote", "supersede")
    asked = replace(look.rollout, decided_by=actor if decides else rollout.decided_by)
    context.audit(connection, actor, f"rollout-{name}", rollout.endpoint, rollout=rollout.id, **standing(rollout))
    _carry_out(context, connection, replace(look, rollout=asked), advance, actor)
    return None


def cancel(context: ControlContext, connection: Connection, rollout: Rollout, actor: str, why: Why) -> None:
    """End a rollout because its endpoint or its stable is gone. The caller moves the traffic, if there is any."""
    state = msgspec.structs.replace(rollout.state, phase=FINISHED, ends_as=ABORTED, code=ABORTED, why=why, weight=0, shadow=0)
    ended = replace(rollout, state=state, waiting=False, ended_at_us=context.clock.now_us(), decided_by=actor)
    rollouts.change(connection, ended)
    _tell_end(context, connection, ended, actor)


def standing(rollout: Rollout) -> dict[str, Any]:
    """The step and the share for people: steps count from 1, shares are in percent."""
    state = rollout.state
    return {
        "version": rollout.canary,
        "phase": state.phase.lower(),
        "step": state.step + 1,
        "steps": len(rollout.plan.steps),
        "share": state.weight / (FULL_SHARE / 100),
    }


def findings(rollout: Rollout) -> list[Finding]:
    """The numbers behind each criterion's verdict."""
    found = () if rollout.verdict is None else rollout.verdict.findings
    return [
        Finding(
            signal=each.signal,
            outcome=each.outcome,
            code=each.code,
            samples=each.samples,
            bad=each.bad,
            stable_samples=each.other_samples,
            stable_bad=each.other_bad,
            log_e=round(each.log_e, 6),
            log_e_bound=round(each.threshold, 6),
            p=each.p,
            step=None if each.shown is None else _of_step(each.shown),
            text=say(each.why),
        )
        for each in found
    ]


def _of_step(shown: Shown) -> StepEvidence:
    """What the present step has shown for a criterion, and what it must show."""
    return StepEvidence(
        samples=shown.samples,
        bad=shown.bad,
        needed=shown.needed,
        upper=None if shown.exempt else shown.upper,
        allowed=None if shown.exempt else shown.allowed,
        log_e=shown.log_e,
        log_e_bound=shown.threshold,
    )


def begin_waiting(context: ControlContext, connection: Connection, endpoint: Endpoint, revision: int) -> None:
    """Begin the rollout that waits for the previous one to end, if there is one."""
    waiting = rollouts.find_waiting(connection, endpoint.name)
    if waiting is None:
        return
    if not waiting.deployment and waiting.stable != endpoint.current:
        cancel(context, connection, waiting, CONTROLLER, fact("serves-instead", version=endpoint.current, stable=waiting.stable))
        return
    begun = replace(
        waiting,
        waiting=False,
        state=machine.begin(waiting.id, endpoint.generation, machine.baseline_of(waiting.state)),
        revisions=((endpoint.generation, revision),),
        asked_revision=_asked(waiting, endpoint, revision),
    )
    rollouts.change(connection, begun)
    if not waiting.deployment:
        facts = {"rollout": waiting.id, "version": waiting.canary}
        context.announce(connection, CONTROLLER, "rollout-began", endpoint.name, **facts)


def _drive_one(context: ControlContext, connection: Connection, name: str, *, judged: bool = True) -> bool:
    rollout = rollouts.find_running(connection, name)
    if rollout is None:
        return False
    evidence = rollouts.evidence_of(connection, rollout.id) if judged else None
    look = look_at(context, connection, rollout, evidence)
    advance = machine.advance(rollout.plan, rollout.state, look.seen, evidence or Evidence())
    return _carry_out(context, connection, look, advance, CONTROLLER)


def _carry_out(context: ControlContext, connection: Connection, look: Look, advance: Advance, actor: str) -> bool:
    """Write the state and carry out the actions; whether gateways need a new snapshot."""
    before, endpoint = look.rollout, look.endpoint
    rollout = replace(before, state=advance.state)
    if advance.verdict is not None and before.state.phase != RETURNING:  # keep the verdict that caused the rollback
        rollout = replace(rollout, verdict=advance.verdict)
    moved = rollout.held != before.held
    revision = bump_revision(connection) if moved else 0
    for action in advance.actions:
        if isinstance(action, SetSplit):
            rollout, endpoint = _set_split(context, connection, rollout, endpoint, actor)
            moved = True
        elif isinstance(action, Retry):
            rollout = replace(rollout, asked_revision=revision)
            context.audit(connection, actor, "rollout-retry", endpoint.name, rollout=rollout.id, attempt=action.attempt)
        elif isinstance(action, Alert):
            facts = {"rollout": rollout.id, "code": action.code, "text": say(action.why), **standing(rollout)}
            context.announce(connection, actor, "rollout-alert", endpoint.name, **facts)
        elif isinstance(action, Finish):
            _finish(context, connection, rollout, endpoint)
            return True
    if not rollout.deployment:  # while a deployment waits, there is nothing to remember
        rollouts.change(connection, rollout)
    return moved


def _set_split(
    context: ControlContext, connection: Connection, rollout: Rollout, before: Endpoint, actor: str
) -> tuple[Rollout, Endpoint]:
    """Write the generation that the state asks for, if the endpoint still has the observed one."""
    after = replace(before, generation=rollout.state.generation, changed_at_us=context.clock.now_us(), changed_by=actor)
    endpoints.change(connection, before, after)
    rollout = rollout.noted(after.generation, bump_revision(connection))
    facts = {"rollout": rollout.id, **standing(rollout), "code": rollout.state.code, "text": say(rollout.state.why)}
    context.audit(connection, actor, "rollout-split", before.name, generation=after.generation, **facts)
    context.announce(connection, actor, "rollout-split", before.name, generation=after.generation, **facts)
    return rollout, after


def _finish(context: ControlContext, connection: Connection, rollout: Rollout, before: Endpoint) -> None:
    """On promotion the canary becomes the endpoint's version; otherwise the stable keeps the endpoint."""
    outcome, now = rollout.state.ends_as, context.clock.now_us()
    by_person = outcome in (PROMOTED, ABORTED, SUPERSEDED) and rollout.decided_by is not None
    actor = rollout.decided_by if by_person and rollout.decided_by is not None else CONTROLLER
    if outcome == PROMOTED:
        after = _switched(connection, before, rollout.canary, retreat=rollout.state.code == RETREAT)
    else:
        after = replace(before, generation=before.generation + 1)
    after = replace(after, changed_at_us=now, changed_by=rollout.started_by if rollout.deployment else actor)
    endpoints.change(connection, before, after)
    revision = bump_revision(connection)
    state = msgspec.structs.replace(rollout.state, generation=after.generation)
    ended = replace(rollout, state=state, ended_at_us=now, decided_by=actor).noted(after.generation, revision)
    rollouts.change(connection, ended)
    _tell_end(context, connection, ended, actor, before.current)
    begin_waiting(context, connection, after, revision)


def _switched(connection: Connection, before: Endpoint, version: str, *, retreat: bool) -> Endpoint:
    """The endpoint after the switch to `version`. It keeps its signature, except when the version does not fit it, because a
    person accepted that or it goes back behind such a change: then it takes the version's."""
    found = versions.get(connection, VersionReference.parse(version))
    fits = Signature.from_document(found.signature).accepts(Signature.from_document(before.signature)) is None
    after = before.switched(version, retreat=retreat)
    return after if fits else replace(after, signature=found.signature)


def _tell_end(context: ControlContext, connection: Connection, rollout: Rollout, actor: str, left: str | None = None) -> None:
    state = rollout.state
    if rollout.deployment:
        if state.ends_as == PROMOTED:
            context.audit(connection, actor, "switch", rollout.endpoint, version=rollout.canary, left=left)
        elif state.ends_as == NOT_STARTED:
            context.audit(connection, actor, "deploy-failed", rollout.endpoint, version=rollout.canary, code=state.code)
        else:
            context.audit(connection, actor, "deploy-cancelled", rollout.endpoint, version=rollout.canary, reason=say(state.why))
        return
    facts: Mapping[str, Any] = {
        "rollout": rollout.id,
        "outcome": state.ends_as,
        "code": state.code,
        "text": say(state.why),
        "version": rollout.canary,
        "stable": rollout.stable,
        "step": state.step + 1,
        "findings": msgspec.to_builtins(findings(rollout)),
    }
    context.audit(connection, actor, f"rollout-{state.ends_as}", rollout.endpoint, **facts)
    context.announce(connection, actor, "rollout-finished", rollout.endpoint, **facts)
