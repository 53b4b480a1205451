"""Routes of rollouts: start, follow and decide; and the events for other systems."""

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
    """A rollout to start."""

    model_config = ConfigDict(extra="forbid")

    version: Reference
    """The version to roll out, such as flights:3."""
    plan: dict[str, Any] = {"strategy": "canary"}
    """The plan; docs/rollouts.md explains every key."""
    accept_signature_change: str | None = None
    """Why a different signature is acceptable; the audit trail keeps the reason and the id of the key."""
    supersede: bool = False
    """End a running rollout, and begin once its traffic has moved back; without it a running rollout is a 409."""
    if_generation: Generation | None = None
    """Refuse with 409 unless the endpoint has this generation."""


def routes(context: ControlContext, stopping: Callable[[], bool]) -> APIRouter:
    """The router. `stopping` ends long polls early."""
    router = APIRouter(tags=["rollouts"])

    @router.post("/api/v1/endpoints/{name}/rollouts", status_code=201, summary="Start a rollout")
    def start(request: Request, name: Name, body: NewRollout) -> dict[str, Any]:
        """409 with every obstacle; if another rollout is running, with its step and who started it."""
        wanted = rollouts.Wanted(body.version, body.plan, body.accept_signature_change, body.supersede, body.if_generation)
        return rollouts.start(context, name, wanted, request.state.actor)

    @router.get("/api/v1/endpoints/{name}/rollouts", summary="List rollouts of an endpoint")
    def history(name: Name, last: Annotated[int, newest(rollouts.MOST_SHOWN)] = 20, before: str | None = None) -> dict[str, Any]:
        """Newest first, with verdict, numbers and who decided; `next` is the value of `before` for the next page."""
        return rollouts.history(context, name, last, before)

    @router.get("/api/v1/rollouts", summary="List running rollouts")
    def in_progress() -> dict[str, Any]:
        """Running and waiting rollouts of all endpoints."""
        return rollouts.in_progress(context)

    @router.get("/api/v1/endpoints/{name}/rollouts/{rollout_id}", summary="Get a rollout")
    def one(name: Name, rollout_id: str) -> dict[str, Any]:
        """One rollout by its id; `current` is the running one, or the last."""
        return rollouts.get(context, name, rollout_id)

    @router.post("/api/v1/endpoints/{name}/rollouts/{rollout_id}:{command}", summary="Give a command to a rollout")
    def tell(request: Request, name: Name, rollout_id: str, command: Command) -> dict[str, Any]:
        """pause, resume, approve, promote or abort. A command without effect is not an error: `done` is then false."""
        return rollouts.tell(context, name, rollout_id, command, request.state.actor)

    @router.get("/api/v1/events", tags=["system"], summary="Follow events")
    async def events(
        after: Number = 0, last: Annotated[int, newest(telemetry.MOST_SHOWN)] = 100, wait_s: Seconds = 0.0
    ) -> dict[str, Any]:
        """Events with greater numbers than `after`, oldest first; without one, wait up to `wait_s` seconds (60 at most) for the
        next. `next` is the value of `after` for the next call."""
        await context.stream.wait(after, wait_s, stopping)
        return await run_in_threadpool(telemetry.events_after, context, after, last)

    return router
