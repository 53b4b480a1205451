"""Rollouts: start, follow, decide; and the events that tell other systems of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict

from roadworthy.control.context import ControlContext
from roadworthy.control.http.fields import Generation, Name, Number, Reference, Seconds, newest
from roadworthy.control.resources import rollouts, telemetry

Command = Annotated[str, Path(json_schema_extra={"enum": list(rollouts.ASKED)})]


class NewRollout(BaseModel):
    """A rollout to begin."""

    model_config = ConfigDict(extra="forbid")

    version: Reference
    """What is to take over, like flights:3."""
    plan: dict[str, Any] = {"strategy": "canary"}
    """How; docs/rollouts.md explains every key."""
    accept_signature_change: str | None = None
    """Why another signature is accepted; it is kept in the audit trail together with the id of the key."""
    supersede: bool = False
    """End a rollout that is in progress, and begin when its traffic has moved back; else that is refused with 409."""
    if_generation: Generation | None = None
    """Refuse with 409 unless the endpoint is at this generation."""


def routes(context: ControlContext, stopping: Callable[[], bool]) -> APIRouter:
    """The router. `stopping` ends long polls early."""
    router = APIRouter(tags=["rollouts"])

    @router.post("/api/v1/endpoints/{name}/rollouts", status_code=201, summary="Start a rollout")
    def start(request: Request, name: Name, body: NewRollout) -> dict[str, Any]:
        """409 with everything that is in its way; while another one is in progress it says which, and at what step that is."""
        wanted = rollouts.Wanted(
            body.version, body.plan, body.accept_signature_change, body.supersede, body.if_generation
        )
        return rollouts.start(context, name, wanted, request.state.actor)

    @router.get("/api/v1/endpoints/{name}/rollouts", summary="Rollouts of an endpoint")
    def history(
        name: Name, last: Annotated[int, newest(rollouts.MOST_SHOWN)] = 20, before: str | None = None
    ) -> dict[str, Any]:
        """Newest first, with verdict, numbers and who decided; `next` is the value of `before` for the next page."""
        return rollouts.history(context, name, last, before)

    @router.get("/api/v1/rollouts", summary="Rollouts in progress")
    def in_progress() -> dict[str, Any]:
        """Of all endpoints."""
        return rollouts.in_progress(context)

    @router.get("/api/v1/endpoints/{name}/rollouts/{rollout_id}", summary="One rollout")
    def one(name: Name, rollout_id: str) -> dict[str, Any]:
        """By its id; `current` is the one in progress, or the last."""
        return rollouts.get(context, name, rollout_id)

    @router.post("/api/v1/endpoints/{name}/rollouts/{rollout_id}:{command}", summary="Decide about a rollout")
    def tell(request: Request, name: Name, rollout_id: str, command: Command) -> dict[str, Any]:
        """pause, resume, approve, promote or abort. What is so already is no error: `done` is false then."""
        return rollouts.tell(context, name, rollout_id, command, request.state.actor)

    @router.get("/api/v1/events", tags=["system"], summary="What happened, to follow")
    async def events(
        after: Number = 0, last: Annotated[int, newest(telemetry.MOST_SHOWN)] = 100, wait_s: Seconds = 0.0
    ) -> dict[str, Any]:
        """Events with greater numbers than `after`, oldest first; waits for one up to `wait_s` (60 at most) when there is none.
        `next` is the value of `after` for the next call."""
        await context.stream.wait(after, wait_s, stopping)
        return await run_in_threadpool(telemetry.events_after, context, after, last)

    return router
