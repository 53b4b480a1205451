"""Routes of endpoints: deploy, roll back, undeploy, and list predictions."""

from __future__ import annotations

from typing import Annotated

from roadworthy.access.principal import Principal
from roadworthy.contract.api import endpoints as api
from roadworthy.contract.api.operation import Page
from roadworthy.control.context import ControlContext
from roadworthy.control.http.fields import Name, newest
from roadworthy.control.http.routing import Replied, Routes
from roadworthy.control.resources import endpoints, telemetry
from roadworthy.control.resources.telemetry import MOST_SHOWN


def routes(root: ControlContext) -> Routes:
    """The routes."""
    found = Routes("endpoints", root)

    @found.add(api.LIST)
    def everything(context: ControlContext, cursor: str = "") -> Page[api.Endpoint]:
        """Endpoints sorted by name; `next` is the cursor of the next page."""
        return endpoints.list_all(context, cursor)

    @found.add(api.GET)
    def one(context: ControlContext, name: Name) -> api.Endpoint:
        """The current, previous and pending version, with the progress of the pending one."""
        return endpoints.get(context, name)

    @found.add(api.DEPLOY)
    def deploy(context: ControlContext, principal: Principal, name: Name, body: api.Deployment) -> Replied[api.Endpoint]:
        """202 while the version is loading: traffic moves once every live worker has proved it. 200 when it already serves."""
        return _with_status(endpoints.deploy(context, name, body, principal))

    @found.add(api.ROLL_BACK)
    def rollback(context: ControlContext, principal: Principal, name: Name) -> Replied[api.Endpoint]:
        """Roll the endpoint back to its previous version. 200 when the traffic has moved, 202 while that version is loading
        again. If a rollout is running, abort it instead."""
        return _with_status(endpoints.rollback(context, name, principal))

    @found.add(api.UNDEPLOY)
    def undeploy(context: ControlContext, principal: Principal, name: Name) -> None:
        """Delete the endpoint; its versions stay in the registry."""
        endpoints.undeploy(context, name, principal)

    @found.add(api.LIST_PREDICTIONS)
    def predictions(
        context: ControlContext,
        name: Name,
        last: Annotated[int, newest(MOST_SHOWN)] = 20,
        id: str | None = None,  # noqa: A002  (its public name)
    ) -> api.Predictions:
        """The newest predictions with inputs and outputs, newest last; or one prediction by its id."""
        return telemetry.last_predictions(context, name, last, id)

    return found


def _with_status(endpoint: api.Endpoint) -> Replied[api.Endpoint]:
    return Replied(endpoint, 200 if endpoint.state == "serving" else 202)
