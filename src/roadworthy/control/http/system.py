"""Routes for keys, status and the audit trail."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from roadworthy.access.keys import ROLES
from roadworthy.control.context import ControlContext
from roadworthy.control.http.fields import Named, Names, newest
from roadworthy.control.resources import keys, telemetry
from roadworthy.version import __version__


class NewKey(BaseModel):
    """A key to create."""

    model_config = ConfigDict(extra="forbid")

    role: Annotated[str, Field(json_schema_extra={"enum": list(ROLES)})]
    """admin, predictor or gateway."""
    endpoints: Names | None = None
    """For predictors: the endpoints that the key may call; all when left out."""
    name: Named | None = None
    """For gateways, which report as `<name>/<instance>`; the key's id when left out."""


def routes(context: ControlContext) -> APIRouter:
    """The router."""
    router = APIRouter(tags=["system"])

    @router.get("/api/v1/status", summary="Get the status of the installation")
    def status() -> dict[str, Any]:
        """Control plane, gateways with their workers, and endpoints."""
        return telemetry.status(context, __version__)

    @router.get("/api/v1/audit", summary="List audit entries")
    def audit(
        last: Annotated[int, newest(telemetry.MOST_SHOWN)] = 100, before: str | None = None, subject: str | None = None
    ) -> dict[str, Any]:
        """Newest first, of one `subject` or all; `next` is the value of `before` for the next page."""
        return telemetry.audit_trail(context, last, before, subject)

    @router.get("/api/v1/keys", summary="List keys")
    def list_keys() -> dict[str, Any]:
        """Every key, without its text."""
        return keys.list_all(context)

    @router.post("/api/v1/keys", status_code=201, summary="Create a key")
    def create_key(request: Request, body: NewKey) -> dict[str, Any]:
        """The reply contains the key's text; it is shown only once."""
        return keys.create(context, body.role, body.endpoints, request.state.actor, body.name)

    @router.delete("/api/v1/keys/{key_id}", status_code=204, summary="Revoke a key")
    def revoke_key(request: Request, key_id: str) -> None:
        """Gateways apply it within seconds."""
        keys.revoke(context, key_id, request.state.actor)

    return router
