"""Start a rollout, tell it what a person decides, and show what is in progress and what was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection

from roadworthy.contract.policy import Policy
from roadworthy.contract.snapshot import FULL_SHARE
from roadworthy.control.context import ControlContext
from roadworthy.control.controllers import rollout_controller
from roadworthy.control.controllers.observation import slow_ms
from roadworthy.control.resources.endpoints import check_bytes, rollout_running, step
from roadworthy.control.resources.measuring import Measures, measures
from roadworthy.control.resources.rollout_documents import document
from roadworthy.foundation.errors import Conflict, InvalidRequest, NotFound
from roadworthy.foundation.ids import PredictionIds
from roadworthy.foundation.references import VersionReference, check_name
from roadworthy.monitoring import gateways, predictions
from roadworthy.registry import versions
from roadworthy.registry.versions import Version
from roadworthy.rollout import endpoints, rollouts
from roadworthy.rollout.decide import machine
from roadworthy.rollout.decide.commands import COMMANDS, NOTHING
from roadworthy.rollout.decide.switch import Switch, decide, kept_out
from roadworthy.rollout.endpoints import Endpoint, Pending
from roadworthy.rollout.evidence.feedback import FEEDBACK
from roadworthy.rollout.plan.capacity import Machine, Sized, shortages
from roadworthy.rollout.plan.parse import check_plan
from roadworthy.rollout.plan.plan import Plan
from roadworthy.rollout.plan.preflight import Facts, Obstacle, obstacles
from roadworthy.rollout.plan.signals import CUSTOM
from roadworthy.rollout.plan.warnings import PlanWarning, plan_warnings
from roadworthy.rollout.rollouts import Rollout
from roadworthy.schema.signature import Signature
from roadworthy.store.engine import bump_revision

CURRENT = "current"
"""Stands for the id of the rollout in progress, or of the last one."""
ASKED = ("pause", "resume", "approve", "promote", "abort")
"""What people ask by name; the other commands are parts of other verbs."""
MOST_SHOWN = 200
"""Rollouts of one reply."""
_MOST_REASON = 500
_LATELY_US = 3_600_000_000
"""So far back is looked for how often an endpoint is asked; `rollout/plan/warnings.py` calls it the past hour."""
_ids = PredictionIds()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A rollout that somebody wants.

    Attributes:
        version: what is to take over, like "flights:3".
        plan: as plans are written; see docs/rollouts.md.
        accept_signature_change: why callers will not be harmed by another signature; None for "there is none".
        supersede: end the rollout in progress and begin when its traffic has moved back, instead of refusing.
        if_generation: refuse unless the endpoint has it; None for whatever it has.
    """

    version: str
    plan: Mapping[str, Any]
    accept_signature_change: str | None = None
    supersede: bool = False
    if_generation: int | None = None


def start(context: ControlContext, name: str, wanted: Wanted, actor: str) -> dict[str, Any]:
    """Begin to move an endpoint's traffic to a version by a plan. Its document, and in "warnings" what does not stop it.

    Raises:
        NotFound: "unknown-endpoint", "unknown-version", "blob-missing".
        Conflict: "rollout-running", "rollout-refused" with everything that is in its way in facts["problems"],
            "generation-conflict".
        InvalidRequest: "invalid-plan", "invalid-name", "invalid-reference", "invalid-reason".
    """
    check_name(name, "endpoint name")
    reference, plan = VersionReference.parse(wanted.version), check_plan(dict(wanted.plan))
    _check_reason(wanted.accept_signature_change)
    with context.lock:
        with context.database.begin() as connection:
            endpoint = endpoints.get(connection, name)
            if wanted.if_generation is not None and wanted.if_generation != endpoint.generation:
                raise endpoints.generation_conflict(name)
            running = rollouts.find_running(connection, name)
            if running is not None and (not wanted.supersede or rollouts.find_waiting(connection, name) is not None):
                raise rollout_running(running)
            found = versions.get(connection, reference)
            check_bytes(context, connection, found)
            facts = _facts(
                context, connection, endpoint, found, plan, actor if wanted.accept_signature_change else None
            )
            _refuse([*obstacles(plan, facts), *_further(plan, endpoint, facts)], wanted)
            if running is not None:
                rollout_controller.apply_command(context, connection, running, "supersede", actor)
            rollout = _new(context, connection, (endpoint, found, plan, facts), wanted, actor)
            rollouts.create(connection, rollout)
            known = _warnings(context, connection, endpoint, plan)
            told = {
                "rollout": rollout.id,
                "stable": rollout.stable,
                "version": rollout.canary,
                "strategy": plan.strategy,
            }
            told |= {} if rollout.acceptance is None else {"signature_accepted": rollout.acceptance}
            context.audit(connection, actor, "rollout-start", name, **told)
            context.announce(connection, actor, "rollout-started", name, **told)
        context.publisher.refresh()
    step(context)
    warnings = [{"code": each.code, "text": each.text} for each in known]
    return {**get(context, name, rollout.id), "warnings": warnings}


def _warnings(
    context: ControlContext, connection: Connection, endpoint: Endpoint, plan: Plan
) -> tuple[PlanWarning, ...]:
    policy, now_us = msgspec.convert(endpoint.policy, Policy), context.clock.now_us()
    rate = predictions.asked_per_s(connection, endpoint.name, now_us - _LATELY_US, now_us) if policy.record else None
    return plan_warnings(plan, cached=policy.cache is not None, requests_per_s=rate)


def _check_reason(reason: str | None) -> None:
    if reason is not None and not (reason.strip() and len(reason) <= _MOST_REASON and reason.isprintable()):
        raise InvalidRequest(
            f"say in 1 to {_MOST_REASON} characters why the other signature is accepted",
            code="invalid-reason",
            hint="the audit trail keeps it together with your key's id",
        )


def _facts(
    context: ControlContext,
    connection: Connection,
    endpoint: Endpoint,
    found: Version,
    plan: Plan,
    accepted_by: str | None,
) -> Facts:
    live = gateways.live(gateways.list_all(connection), context.clock.now_us())
    workers = [worker for gateway in live for worker in gateway.workers]
    promised = Signature.from_document(endpoint.signature)
    ready, slow, by, short = False, None, Measures((), None, {}), tuple[str, ...]()
    if endpoint.current is not None:
        stable = versions.get(connection, VersionReference.parse(endpoint.current))
        ready, slow = isinstance(decide(stable.digest, workers), Switch), slow_ms(stable.digest, live)
        by = measures(plan, stable, context.blobs, workers)
        short = shortages(_sized(found), _sized(stable), [Machine(gateway.id, gateway.workers) for gateway in live])
    return Facts(
        stable=endpoint.current,
        canary=str(found.reference),
        stable_ready=ready,
        difference=Signature.from_document(found.signature).accepts(promised),
        accepted_by=accepted_by,
        kept_out=kept_out(found.digest, workers),
        fields=tuple(each.name for each in promised.inputs),
        slow_ms=slow,
        outputs=by.outputs,
        probabilities=by.probabilities,
        short=short,
        unmeasurable=by.missing,
    )


def _sized(version: Version) -> Sized:
    return Sized(str(version.reference), version.digest, version.size_bytes)


def _further(plan: Plan, endpoint: Endpoint, facts: Facts) -> list[Obstacle]:
    """What only the control plane knows to be in the way."""
    found = []
    pending: Pending | None = endpoint.pending
    if pending is not None and pending.state == endpoints.LOADING:
        found.append(Obstacle("deploy-under-way", f"{pending.version} is being deployed; let that end first"))
    later = [each.signal for each in plan.guards if each.signal == FEEDBACK or each.signal.startswith(CUSTOM)]
    later += [metric.name for metric in plan.metrics]
    if later and not msgspec.convert(endpoint.policy, Policy).record:
        text = f"{', '.join(later)} become known by feedback, which needs records, and the endpoint's policy keeps none"
        found.append(Obstacle("records-off", text))
    mixed = any(stage.weight not in (0, FULL_SHARE) or stage.shadow for stage in plan.steps)
    if facts.difference is not None and facts.accepted_by is not None and mixed:
        text = "callers cannot send requests for two signatures at once; use blue-green or all-at-once"
        found.append(Obstacle("two-signatures", text))
    return found


def _refuse(found: list[Obstacle], wanted: Wanted) -> None:
    if not found:
        return
    told = "; ".join(f"{each.text} ({each.code})" for each in found)
    codes = {each.code for each in found}
    hint = "mend what is named and start it again"
    if codes == {"signature-incompatible"}:
        hint = "deploy it to an endpoint of its own, or accept the change by name with --accept-signature-change REASON"
    elif "no-stable" in codes:
        hint = "deploy a first version with `roadworthy deploy`"
    raise Conflict(
        f"the rollout of {wanted.version} cannot begin: {told}",
        code="rollout-refused",
        hint=hint,
        facts={"problems": [{"code": each.code, "text": each.text} for each in found]},
    )


def _new(
    context: ControlContext,
    connection: Connection,
    what: tuple[Endpoint, Version, Plan, Facts],
    wanted: Wanted,
    actor: str,
) -> Rollout:
    endpoint, found, plan, facts = what
    assert endpoint.current is not None  # noqa: S101  (an obstacle otherwise)
    waiting = rollouts.find_running(connection, endpoint.name) is not None
    rollout_id, revision = f"rollout-{_ids.next()}", bump_revision(connection)
    accepted = wanted.accept_signature_change if facts.difference is not None else None
    return Rollout(
        id=rollout_id,
        endpoint=endpoint.name,
        stable=endpoint.current,
        stable_digest=versions.get(connection, VersionReference.parse(endpoint.current)).digest,
        canary=facts.canary,
        canary_digest=found.digest,
        plan=plan,
        state=machine.begin(rollout_id, endpoint.generation, facts.baseline),
        started_at_us=context.clock.now_us(),
        started_by=actor,
        revisions=((endpoint.generation, revision),),
        asked_revision=revision,
        accepted_by=None if accepted is None else actor,
        acceptance=accepted,
        waiting=waiting,
    )


def tell(context: ControlContext, name: str, rollout_id: str, command: str, actor: str) -> dict[str, Any]:
    """Do what a person asks of a rollout. Its document afterwards, with "done": false and "refused" when there was nothing to do.

    Raises:
        NotFound: "unknown-endpoint", "unknown-rollout", "unknown-command".
        Conflict: "rollout-command-refused": it cannot be done as things stand; "no-rollout-running".
    """
    if command not in ASKED or command not in COMMANDS:
        raise NotFound(f"a rollout knows no {command}", code="unknown-command", hint=f"it knows {', '.join(ASKED)}")
    with context.lock:
        with context.database.begin() as connection:
            endpoints.get(connection, name)
            rollout = _find(connection, name, rollout_id)
            if rollout is None or rollout.ended_at_us is not None:
                return _nothing(connection, name, rollout, command)
            if rollout.waiting:
                refused = _tell_waiting(context, connection, rollout, command, actor)
            else:
                refused = rollout_controller.apply_command(context, connection, rollout, command, actor)
            if refused is not None and not _is_so_already(rollout, command):
                raise Conflict(
                    f"the rollout of {rollout.canary} on {name}: {refused}",
                    code="rollout-command-refused",
                    hint="`roadworthy rollout show` tells where it stands",
                    facts={"rollout": rollout.id, **rollout_controller.standing(rollout)},
                )
        context.publisher.refresh()
    step(context)
    return {**get(context, name, rollout.id), "done": refused is None, "refused": refused}


def _tell_waiting(
    context: ControlContext, connection: Connection, rollout: Rollout, command: str, actor: str
) -> str | None:
    if command != "abort":
        return "it waits for the rollout before it to end"
    rollout_controller.cancel(context, connection, rollout, actor, "aborted by a person before it began")
    return None


def _is_so_already(rollout: Rollout, command: str) -> bool:
    """Whether what is asked for is so: to ask again is no error."""
    state = rollout.state
    return {
        "abort": True,
        "pause": state.paused,
        "resume": not state.paused and state.withdrawn is None,
        "approve": state.approved,
    }.get(command, False)


def _nothing(connection: Connection, name: str, last: Rollout | None, command: str) -> dict[str, Any]:
    """Nothing is in progress: to abort that is no error, and changes nothing."""
    if command != "abort":
        raise Conflict(
            f"{NOTHING} on endpoint {name}",
            code="no-rollout-running",
            hint="`roadworthy rollout start` begins one",
        )
    shown = {"endpoint": name} if last is None else document(connection, last)
    return {**shown, "done": False, "refused": NOTHING}


def get(context: ControlContext, name: str, rollout_id: str) -> dict[str, Any]:
    """One rollout; CURRENT is the one in progress, or the last.

    Raises:
        NotFound: "unknown-endpoint", "unknown-rollout".
    """
    with context.database.begin() as connection:
        if rollout_id == CURRENT:
            endpoints.get(connection, name)
        rollout = _find(connection, name, rollout_id)
        if rollout is None:
            raise NotFound(
                f"endpoint {name} never had a rollout",
                code="unknown-rollout",
                hint="`roadworthy rollout start` begins one",
            )
        return document(connection, rollout)


def _find(connection: Connection, name: str, rollout_id: str) -> Rollout | None:
    if rollout_id != CURRENT:
        return rollouts.get(connection, name, rollout_id)
    running = rollouts.find_running(connection, name)
    return running or next(iter(rollouts.list_last(connection, name, 1, None)), None)


def history(context: ControlContext, name: str | None, last: int, before: str | None) -> dict[str, Any]:
    """The newest rollouts of an endpoint, or of all, newest first; those of a deleted endpoint too.

    Raises:
        NotFound: "unknown-endpoint": there is none, and never was one with a rollout.
        InvalidRequest: "invalid-last", "invalid-name".
    """
    if name is not None:
        check_name(name, "endpoint name")
    if not 1 <= last <= MOST_SHOWN:
        raise InvalidRequest(f"last is between 1 and {MOST_SHOWN}", code="invalid-last")
    with context.database.begin() as connection:
        found = rollouts.list_last(connection, name, last, before)
        if name is not None and not found:
            endpoints.get(connection, name)
        items = [document(connection, rollout) for rollout in found]
    return {"items": items, "next": items[-1]["id"] if len(items) == last else None}


def in_progress(context: ControlContext) -> dict[str, Any]:
    """Every rollout that runs or waits, by endpoint."""
    with context.database.begin() as connection:
        items = [document(connection, rollout) for rollout in rollouts.list_open(connection)]
    return {"items": items, "next": None}
