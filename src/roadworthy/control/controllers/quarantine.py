"""Moves traffic away from serving versions that gateways have in quarantine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from roadworthy.contract.snapshot import FULL_SHARE
from roadworthy.control.context import ControlContext
from roadworthy.control.controllers import rollout_controller
from roadworthy.control.controllers.rollout_controller import CONTROLLER, switched
from roadworthy.monitoring.gateways import Gateway, workers_of
from roadworthy.registry.versions import digest_of
from roadworthy.rollout import endpoints, rollouts
from roadworthy.rollout.decide.switch import KEPT_OUT, Switch, decide, kept_out
from roadworthy.rollout.endpoints import Endpoint
from roadworthy.rollout.facts import Why, fact
from roadworthy.rollout.rollouts import Rollout
from roadworthy.rollout.words import say
from roadworthy.store.connection import Connection
from roadworthy.store.engine import bump_revision


def retreat(
    context: ControlContext, connection: Connection, before: Endpoint, found: Sequence[Gateway], rollout: Rollout | None
) -> bool:
    """Go back to the previous version when the serving one is in quarantine. Only a deployment brings that version back; one that
    is on its way goes on. A rollout that loses its stable in this way is over, unless its canary has all the traffic."""
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
        changed_at_us=context.clock.now_us(),
        changed_by=CONTROLLER,
    )
    facts = {"version": before.previous, "left": before.current, "reason": say(reason)}
    context.audit(connection, CONTROLLER, "rollback", before.name, **facts)
    endpoints.change(connection, before, after)
    revision = bump_revision(connection)
    pending = rollouts.find_pending(connection, before.name, before.generation)
    if pending is not None and pending.ended_at_us is not None:  # it failed, and is shown until a person changes the endpoint
        state = msgspec.structs.replace(pending.state, generation=after.generation)
        rollouts.change(connection, replace(pending, state=state))
    if rollout is not None and not rollout.deployment:
        why = fact("stable-quarantined", version=before.current, reason=reason)
        rollout_controller.cancel(context, connection, rollout, CONTROLLER, why)
        rollout_controller.begin_waiting(context, connection, after, revision)
    return True


def any_kept_out(found: Sequence[Gateway]) -> bool:
    """Whether a gateway has any version in quarantine."""
    return any(state.code == KEPT_OUT for worker in workers_of(found) for state in worker.versions)


def serving_kept_out(connection: Connection, endpoint: Endpoint, found: Sequence[Gateway]) -> Why | None:
    """Why a live gateway has the serving version in quarantine, if one has. Reports from before the endpoint's last change do not
    count: each change gives the version another chance."""
    if endpoint.current is None:
        return None
    said = workers_of(gateway for gateway in found if gateway.seen_at_us > endpoint.changed_at_us)
    return kept_out(digest_of(connection, endpoint.current), said) if said else None
