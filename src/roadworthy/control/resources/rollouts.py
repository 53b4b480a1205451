"""Start a rollout, give it a person's command, and show running and past rollouts."""

from __future__ import annotations

import msgspec

from roadworthy.access.principal import Principal
from roadworthy.contract.api import rollouts as api
from roadworthy.contract.api.operation import Page
from roadworthy.contract.api.rollouts import NewRollout
from roadworthy.contract.policy import Policy
from roadworthy.contract.snapshot import FULL_SHARE
from roadworthy.control.context import ControlContext
from roadworthy.control.controllers import rollout_controller
from roadworthy.control.controllers.observation import slow_ms
from roadworthy.control.resources.endpoints import check_bytes, rollout_running
from roadworthy.control.resources.measuring import Measures, measures
from roadworthy.control.resources.pages import page_of
from roadworthy.control.resources.rollout_documents import members
from roadworthy.foundation.errors import Conflict, InvalidRequest, NotFound
from roadworthy.foundation.references import VersionReference, check_name
from roadworthy.monitoring import gateways, predictions
from roadworthy.registry import versions
from roadworthy.registry.versions import Version
from roadworthy.rollout import endpoints, rollouts
from roadworthy.rollout.decide.commands import COMMANDS, NOTHING
from roadworthy.rollout.decide.switch import Switch, decide, kept_out
from roadworthy.rollout.endpoints import Endpoint
from roadworthy.rollout.facts import fact
from roadworthy.rollout.plan.capacity import Machine, Sized, shortages
from roadworthy.rollout.plan.parse import check_plan
from roadworthy.rollout.plan.plan import Plan
from roadworthy.rollout.plan.preflight import Facts, Obstacle, obstacles
from roadworthy.rollout.plan.warnings import PlanWarning, plan_warnings
from roadworthy.rollout.rollouts import Rollout
from roadworthy.schema.signature import Signature
from roadworthy.store.connection import Connection

CURRENT = "current"
"""Used as an id, means the running rollout or else the last one."""
MOST_SHOWN = 200
"""Most rollouts in one reply."""
_MOST_REASON = 500
_LATELY_US = 3_600_000_000
"""The time over which an endpoint's rate of requests is measured; `rollout/plan/warnings.py` calls it the past hour."""


def start(context: ControlContext, name: str, wanted: NewRollout, principal: Principal) -> api.StartedRollout:
    """Start a rollout by a plan. Its document, with "warnings" about what may surprise but does not stop it.

    Raises:
        NotFound: "unknown-endpoint", "unknown-version", "blob-missing".
        Conflict: "rollout-running"; "rollout-refused" with every obstacle in facts["problems"];
            "generation-conflict".
        InvalidRequest: "invalid-plan", "invalid-name", "invalid-reference", "invalid-reason".
    """
    check_name(name, "endpoint name")
    reference, plan = VersionReference.parse(wanted.version), check_plan(dict(wanted.plan))
    actor = principal.who
    _check_reason(wanted.accept_signature_change)
    with context.changing() as connection:
        endpoint = endpoints.get(connection, name)
        if wanted.if_generation is not None and wanted.if_generation != endpoint.generation:
            raise endpoints.generation_conflict(name)
        running = rollouts.find_measured(connection, name)
        if running is not None and (not wanted.supersede or rollouts.find_waiting(connection, name) is not None):
            raise rollout_running(running)
        found = versions.get(connection, reference)
        check_bytes(context, connection, found)
        facts = _facts(context, connection, endpoint, found, plan, actor if wanted.accept_signature_change else None)
        _refuse([*obstacles(plan, facts), *_further(connection, plan, endpoint, facts)], wanted)
        if running is not None:
            rollout_controller.apply_command(context, connection, running, "supersede", actor)
        assert endpoint.current is not None  # noqa: S101  (an obstacle otherwise)
        rollout = rollout_controller.order(
            context,
            connection,
            endpoint,
            found,
            actor,
            stable=versions.get(connection, VersionReference.parse(endpoint.current)),
            plan=plan,
            baseline=facts.baseline,
            accepted_by=None if facts.difference is None else facts.accepted_by,
            acceptance=None if facts.difference is None else wanted.accept_signature_change,
        )
        known = _warnings(context, connection, endpoint, plan)
        started = {
            "rollout": rollout.id,
            "stable": rollout.stable,
            "version": rollout.canary,
            "strategy": plan.strategy,
        }
        started |= {} if rollout.acceptance is None else {"signature_accepted": rollout.acceptance}
        context.audit(connection, actor, "rollout-start", name, **started)
        context.announce(connection, actor, "rollout-started", name, **started)
    context.wake.followed()
    warnings = [api.RolloutWarning(code=each.code, text=each.text) for each in known]
    with context.database.begin() as connection:
        return api.StartedRollout(warnings=warnings, **members(connection, rollouts.get(connection, name, rollout.id)))


def _warnings(context: ControlContext, connection: Connection, endpoint: Endpoint, plan: Plan) -> tuple[PlanWarning, ...]:
    policy, now_us = msgspec.convert(endpoint.policy, Policy), context.clock.now_us()
    rate = predictions.asked_per_s(connection, endpoint.name, now_us - _LATELY_US, now_us) if policy.record else None
    return plan_warnings(plan, cached=policy.cache is not None, requests_per_s=rate)


def _check_reason(reason: str | None) -> None:
    if reason is not None and not (reason.strip() and len(reason) <= _MOST_REASON and reason.isprintable()):
        raise InvalidRequest(
            f"the reason to accept another signature must have 1 to {_MOST_REASON} printable characters",
            code="invalid-reason",
            hint="the audit trail keeps the reason with the id of your key",
        )


def _facts(
    context: ControlContext,
    connection: Connection,
    endpoint: Endpoint,
    found: Version,
    plan: Plan,
    accepted_by: str | None,
) -> Facts:
    live = gateways.list_live(connection, context.clock.now_us())
    workers = gateways.workers_of(live)
    promised = Signature.from_document(endpoint.signature)
    ready, slow, by, short = False, None, Measures((), None, {}), tuple[str, ...]()
    if endpoint.current is not None:
        stable = versions.get(connection, VersionReference.parse(endpoint.current))
        ready, slow = isinstance(decide(stable.digest, workers), Switch), slow_ms(stable.digest, live)
        by = measures(plan, stable, context.blobs, workers, slow)
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


def _further(connection: Connection, plan: Plan, endpoint: Endpoint, facts: Facts) -> list[Obstacle]:
    """Obstacles that only the control plane knows."""
    found = []
    pending = rollouts.last_deployment(connection, endpoint.name)
    if pending is not None and pending.ended_at_us is None:
        found.append(Obstacle("deploy-under-way", f"{pending.canary} is being deployed; wait until that ends"))
    later = [each.signal for each in plan.criteria if each.kind.later]
    later += [metric.name for metric in plan.metrics]
    if later and not msgspec.convert(endpoint.policy, Policy).record:
        text = f"{', '.join(later)} arrive as feedback, which needs records, but the endpoint's policy has record off"
        found.append(Obstacle("records-off", text))
    mixed = any(stage.weight not in (0, FULL_SHARE) or stage.shadow for stage in plan.steps)
    if facts.difference is not None and facts.accepted_by is not None and mixed:
        text = "callers cannot send requests for two signatures at the same time; use blue-green or all-at-once"
        found.append(Obstacle("two-signatures", text))
    return found


def _refuse(found: list[Obstacle], wanted: NewRollout) -> None:
    if not found:
        return
    problems = "; ".join(f"{each.text} ({each.code})" for each in found)
    codes = {each.code for each in found}
    hint = "fix these problems and start the rollout again"
    if codes == {"signature-incompatible"}:
        hint = "deploy it to a new endpoint, or accept the change with --accept-signature-change REASON"
    elif "no-stable" in codes:
        hint = "deploy a first version with `roadworthy deploy`"
    raise Conflict(
        f"the rollout of {wanted.version} cannot begin: {problems}",
        code="rollout-refused",
        hint=hint,
        facts={"problems": [{"code": each.code, "text": each.text} for each in found]},
    )


def tell(
    context: ControlContext, name: str, rollout_id: str, command: str, principal: Principal
) -> api.CommandedRollout | api.NoRollout:
    """Give a rollout a person's command. Its document afterwards; with "done": false and "refused" if there was nothing to do.

    Raises:
        NotFound: "unknown-endpoint", "unknown-rollout", "unknown-command".
        Conflict: "rollout-command-refused": the rollout's state does not allow it; "no-rollout-running".
    """
    if command not in api.COMMANDS or command not in COMMANDS:
        raise NotFound(
            f"unknown rollout command {command}", code="unknown-command", hint=f"commands are {', '.join(api.COMMANDS)}"
        )
    with context.changing() as connection:
        endpoints.get(connection, name)
        rollout = _find(connection, name, rollout_id)
        if rollout is None or rollout.ended_at_us is not None:
            return _nothing(connection, name, rollout, command)
        if rollout.waiting:
            refused = _tell_waiting(context, connection, rollout, command, principal.who)
        else:
            refused = rollout_controller.apply_command(context, connection, rollout, command, principal.who)
        if refused is not None and not _is_so_already(rollout, command):
            raise Conflict(
                f"the rollout of {rollout.canary} on {name}: {refused}",
                code="rollout-command-refused",
                hint="`roadworthy rollout show` shows the rollout's state",
                facts={"rollout": rollout.id, **rollout_controller.standing(rollout)},
            )
    context.wake.followed()
    with context.database.begin() as connection:
        changed = members(connection, rollouts.get(connection, name, rollout.id))
    return api.CommandedRollout(done=refused is None, refused=refused, **changed)


def _tell_waiting(context: ControlContext, connection: Connection, rollout: Rollout, command: str, actor: str) -> str | None:
    if command != "abort":
        return "it waits for the previous rollout to end"
    rollout_controller.cancel(context, connection, rollout, actor, fact("aborted-waiting"))
    return None


def _is_so_already(rollout: Rollout, command: str) -> bool:
    """Whether the command's effect is already in force: repeating a command is not an error."""
    state = rollout.state
    return {
        "abort": True,
        "pause": state.paused,
        "resume": not state.paused and state.withdrawn is None,
        "approve": state.approved,
    }.get(command, False)


def _nothing(connection: Connection, name: str, last: Rollout | None, command: str) -> api.CommandedRollout | api.NoRollout:
    """The reply when no rollout is running: an abort is then not an error and changes nothing."""
    if command != "abort":
        raise Conflict(
            f"{NOTHING} on endpoint {name}",
            code="no-rollout-running",
            hint="start a rollout with `roadworthy rollout start`",
        )
    if last is None:
        return api.NoRollout(endpoint=name, done=False, refused=NOTHING)
    return api.CommandedRollout(done=False, refused=NOTHING, **members(connection, last))


def get(context: ControlContext, name: str, rollout_id: str) -> api.Rollout:
    """One rollout; CURRENT is the running one, or the last.

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
                hint="start a rollout with `roadworthy rollout start`",
            )
        return api.Rollout(**members(connection, rollout))


def _find(connection: Connection, name: str, rollout_id: str) -> Rollout | None:
    if rollout_id != CURRENT:
        return rollouts.get(connection, name, rollout_id)
    running = rollouts.find_measured(connection, name)
    return running or next(iter(rollouts.list_last(connection, name, 1, None)), None)


def history(context: ControlContext, name: str | None, last: int, before: str | None) -> Page[api.Rollout]:
    """The newest rollouts of an endpoint, or of all endpoints, newest first; including deleted endpoints.

    Raises:
        NotFound: "unknown-endpoint": no such endpoint, and none of that name ever had a rollout.
        InvalidRequest: "invalid-last", "invalid-name".
    """
    if name is not None:
        check_name(name, "endpoint name")
    if not 1 <= last <= MOST_SHOWN:
        raise InvalidRequest(f"last must be 1 to {MOST_SHOWN}, got {last}", code="invalid-last")
    with context.database.begin() as connection:
        found = rollouts.list_last(connection, name, last + 1, before)
        if name is not None and not found and not rollouts.list_last(connection, name, 1, None):
            endpoints.get(connection, name)
        items = [api.Rollout(**members(connection, rollout)) for rollout in found[:last]]
    return Page(items=items, next=items[-1].id if len(found) > last else None)


def in_progress(context: ControlContext, cursor: str | None) -> Page[api.Rollout]:
    """A page of running and waiting rollouts, sorted by endpoint. Without a cursor all of them: earlier clients read one page."""
    with context.database.begin() as connection:
        found = [each for each in rollouts.list_open(connection) if not each.deployment]
        return page_of(
            found, lambda each: f"{each.endpoint}/{each.id}", cursor, lambda each: api.Rollout(**members(connection, each))
        )
