"""Routes of endpoints: deploy, roll back, undeploy, and list predictions."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from roadworthy.control.context import ControlContext
from roadworthy.control.http.fields import Generation, Name, Reference, newest
from roadworthy.control.resources import endpoints, telemetry
from roadworthy.control.resources.telemetry import MOST_SHOWN

_DONE: dict[int | str, dict[str, Any]] = {200: {"description": "The version serves"}}
_MAY_WAIT: dict[int | str, dict[str, Any]] = {202: {"description": "The version is loading"}}


class Deployment(BaseModel):
    """A deployment to an endpoint."""

    model_config = ConfigDict(extra="forbid")

    version: Reference
    """The version to serve, such as flights:3."""
    policy: dict[str, Any] | None = None
    """Policy settings to change; the others stay."""
    if_generation: Generation | None = None
    """Refuse with 409 unless the endpoint has this generation; 0 if the endpoint must not exist yet."""
    supersede: bool = False
    """End a running rollout and deploy once its traffic has moved back; without it a running rollout is a 409."""


def routes(context: ControlContext) -> APIRouter:
    """The router."""
    router = APIRouter(tags=["endpoints"])

    @router.get("/api/v1/endpoints", summary="List endpoints")
    def everything() -> dict[str, Any]:
        """Every endpoint, sorted by name."""
        return endpoints.list_all(context)

    @router.get("/api/v1/endpoints/{name}", summary="Get an endpoint")
    def one(name: Name) -> dict[str, Any]:
        """The current, previous and pending version, with the progress of the pending one."""
        return endpoints.get(context, name)

    @router.put("/api/v1/endpoints/{name}", status_code=202, responses=_DONE, summary="Deploy a version")
    def deploy(request: Request, response: Response, name: Name, body: Deployment) -> dict[str, Any]:
        """202 while the version is loading: traffic moves once every live worker has proved it. 200 when it already serves."""
        asked = endpoints.Asked(body.version, body.policy, body.if_generation, body.supersede)
        document = endpoints.deploy(context, name, asked, request.state.actor)
        response.status_code = 200 if document["state"] == "serving" else 202
        return document

    @router.post("/api/v1/endpoints/{name}:rollback", responses=_MAY_WAIT, summary="Roll back")
    def rollback(request: Request, response: Response, name: Name) -> dict[str, Any]:
        """Roll the endpoint back to its previous version. 200 when the traffic has moved, 202 while that version is loading
        again. If a rollout is running, abort it instead."""
        document = endpoints.rollback(context, name, request.state.actor)
        response.status_code = 200 if document["state"] == "serving" else 202
        return document

    @router.delete("/api/v1/endpoints/{name}", status_code=204, summary="Undeploy an endpoint")
    def undeploy(request: Request, name: Name) -> None:
        """Delete the endpoint; its versions stay in the registry."""
        endpoints.undeploy(context, name, request.state.actor)

    @router.get("/api/v1/endpoints/{name}/predictions", summary="List predictions")
    def predictions(name: Name, last: Annotated[int, newest(MOST_SHOWN)] = 20, id: str | None = None) -> dict[str, Any]:  # noqa: A002  (its public name)
        """The newest predictions with inputs and outputs, newest last; or one prediction by its id."""
        return telemetry.last_predictions(context, name, last, id)

    return router
