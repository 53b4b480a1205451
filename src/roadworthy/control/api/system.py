"""Keys, status and audit; and the probes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from roadworthy import __version__
from roadworthy.control.plane import Plane
from roadworthy.control.verbs import keys, telemetry


class NewKey(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    role: str
    """admin, predictor or gateway."""
    endpoints: list[str] | None = None
    """For predictors: the endpoints it may call; all when left out."""
    name: str | None = None
    """For gateways: they report as `<name>/<instance>`. The key's id when left out."""


def routes(plane: Plane) -> APIRouter:
    """The router."""
    router = APIRouter(tags=["system"])

    @router.get("/livez", summary="Whether the process lives")
    def livez() -> dict[str, Any]:
        """Needs no key."""
        return {"live": True}

    @router.get("/readyz", summary="Whether it can work")
    def readyz() -> dict[str, Any]:
        """Needs no key. 503 when the database is out of reach."""
        with plane.database.begin():
            return {"ready": True}

    @router.get("/api/v1/status", summary="The whole at one look")
    def status() -> dict[str, Any]:
        """Control plane, gateways with their workers, endpoints."""
        return telemetry.status(plane, __version__)

    @router.get("/api/v1/audit", summary="What was done, by whom")
    def audit(last: int = 100, before: str | None = None) -> dict[str, Any]:
        """Newest first; `next` is the value of `before` for the next page."""
        return telemetry.audit_trail(plane, last, before)

    @router.get("/api/v1/keys", summary="List keys")
    def list_keys() -> dict[str, Any]:
        """Without their texts."""
        return keys.list_all(plane)

    @router.post("/api/v1/keys", status_code=201, summary="Create a key")
    def create_key(request: Request, body: NewKey) -> dict[str, Any]:
        """Its text is in this reply and nowhere else."""
        return keys.create(plane, body.role, body.endpoints, request.state.actor, body.name)

    @router.delete("/api/v1/keys/{key_id}", status_code=204, summary="Revoke a key")
    def revoke_key(request: Request, key_id: str) -> None:
        """Gateways follow within seconds."""
        keys.revoke(plane, key_id, request.state.actor)

    return router
