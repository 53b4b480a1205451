"""Endpoints: deploy, roll back, undeploy, and what was asked of them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from roadworthy.control.context import ControlContext
from roadworthy.control.http.fields import Generation, Name, Reference, newest
from roadworthy.control.resources import endpoints, telemetry
from roadworthy.control.resources.telemetry import MOST_SHOWN

_DONE: dict[int | str, dict[str, Any]] = {200: {"description": "It answers"}}
_MAY_WAIT: dict[int | str, dict[str, Any]] = {202: {"description": "Its version is loading"}}


class Deployment(BaseModel):
    """What shall answer at an endpoint."""

    model_config = ConfigDict(extra="forbid")

    version: Reference
    """A version, like flights:3."""
    policy: dict[str, Any] | None = None
    """Policies to change; the others stay."""
    if_generation: Generation | None = None
    """Refuse with 409 unless the endpoint is at this generation; 0 when it must not exist."""
    supersede: bool = False
    """End a rollout that is in progress and deploy when its traffic has moved back; else that is refused with 409."""


def routes(context: ControlContext) -> APIRouter:
    """The router."""
    router = APIRouter(tags=["endpoints"])

    @router.get("/api/v1/endpoints", summary="List endpoints")
    def everything() -> dict[str, Any]:
        """By name."""
        return endpoints.list_all(context)

    @router.get("/api/v1/endpoints/{name}", summary="One endpoint")
    def one(name: Name) -> dict[str, Any]:
        """What answers, what answered before, what is on its way and how far."""
        return endpoints.get(context, name)

    @router.put("/api/v1/endpoints/{name}", status_code=202, responses=_DONE, summary="Deploy a version")
    def deploy(request: Request, response: Response, name: Name, body: Deployment) -> dict[str, Any]:
        """202 while it is loading: traffic moves when every live worker has it proved. 200 when nothing is left to do."""
        asked = endpoints.Asked(body.version, body.policy, body.if_generation, body.supersede)
        document = endpoints.deploy(context, name, asked, request.state.actor)
        response.status_code = 200 if document["state"] == "serving" else 202
        return document

    @router.post("/api/v1/endpoints/{name}:rollback", responses=_MAY_WAIT, summary="Roll back")
    def rollback(request: Request, response: Response, name: Name) -> dict[str, Any]:
        """Back to the version before: 200 when traffic has moved, 202 while that version is loading again. A rollout that is in
        progress is aborted."""
        document = endpoints.rollback(context, name, request.state.actor)
        response.status_code = 200 if document["state"] == "serving" else 202
        return document

    @router.delete("/api/v1/endpoints/{name}", status_code=204, summary="Undeploy")
    def undeploy(request: Request, name: Name) -> None:
        """Its versions stay in the registry."""
        endpoints.undeploy(context, name, request.state.actor)

    @router.get("/api/v1/endpoints/{name}/predictions", summary="What was asked and answered")
    def predictions(name: Name, last: Annotated[int, newest(MOST_SHOWN)] = 20, id: str | None = None) -> dict[str, Any]:  # noqa: A002  (its public name)
        """The newest predictions, newest last; one of them by its id."""
        return telemetry.last_predictions(context, name, last, id)

    return router
