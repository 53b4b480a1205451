"""Routes of rollouts: start, follow and decide."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from roadworthy.access.principal import Principal
from roadworthy.contract.api import rollouts as api
from roadworthy.contract.api.operation import Page
from roadworthy.control.context import ControlContext
from roadworthy.control.http.fields import Name, newest
from roadworthy.control.http.routing import Routes
from roadworthy.control.resources import rollouts

Command = Annotated[str, Path(json_schema_extra={"enum": list(api.COMMANDS)})]


def routes(root: ControlContext) -> Routes:
    """The routes."""
    found = Routes("rollouts", root)

    @found.add(api.START)
    def start(context: ControlContext, principal: Principal, name: Name, body: api.NewRollout) -> api.StartedRollout:
        """409 with every obstacle; if another rollout is running, with its step and who started it."""
        return rollouts.start(context, name, body, principal)

    @found.add(api.LIST)
    def history(
        context: ControlContext, name: Name, last: Annotated[int, newest(rollouts.MOST_SHOWN)] = 20, before: str | None = None
    ) -> Page[api.Rollout]:
        """Newest first, with verdict, numbers and who decided; `next` is the value of `before` for the next page."""
        return rollouts.history(context, name, last, before)

    @found.add(api.LIST_OPEN)
    def in_progress(context: ControlContext, cursor: str | None = None) -> Page[api.Rollout]:
        """Running and waiting rollouts of all endpoints: all of them, or pages of 100 from an empty `cursor` on; `next` is then
        the cursor of the next page."""
        return rollouts.in_progress(context, cursor)

    @found.add(api.GET)
    def one(context: ControlContext, name: Name, rollout_id: str) -> api.Rollout:
        """One rollout by its id; `current` is the running one, or the last."""
        return rollouts.get(context, name, rollout_id)

    @found.add(api.COMMAND)
    def tell(
        context: ControlContext, principal: Principal, name: Name, rollout_id: str, command: Command
    ) -> api.CommandedRollout | api.NoRollout:
        """pause, resume, approve, promote or abort. A command without effect is not an error: `done` is then false."""
        return rollouts.tell(context, name, rollout_id, command, principal)

    return found
