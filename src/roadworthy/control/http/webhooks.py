"""Routes of webhooks."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from roadworthy.control.context import ControlContext
from roadworthy.control.http.fields import Names, newest
from roadworthy.control.resources import webhooks
from roadworthy.webhooks.deliveries import KEPT
from roadworthy.webhooks.messages import TYPES

EventType = Annotated[str, Field(json_schema_extra={"enum": list(TYPES)})]


class NewWebhook(BaseModel):
    """A webhook to create."""

    model_config = ConfigDict(extra="forbid")

    url: str
    """The receiver's URL; https, or http in a network that the setting control.webhook_networks names."""
    events: Annotated[list[EventType], Field(json_schema_extra={"minItems": 1})] | None = None
    """Types of events, such as rollout.rolled-back; all when left out."""
    endpoints: Annotated[Names, Field(json_schema_extra={"minItems": 1, "maxItems": webhooks.MOST_ENDPOINTS})] | None = None
    """Endpoints whose events are sent; all when left out."""


def routes(context: ControlContext) -> APIRouter:
    """The router."""
    router = APIRouter(prefix="/api/v1/webhooks", tags=["webhooks"])

    @router.get("", summary="List webhooks")
    def everything() -> dict[str, Any]:
        """Oldest first, without their secrets."""
        return webhooks.list_all(context)

    @router.post("", status_code=201, summary="Create a webhook")
    async def create(request: Request, body: NewWebhook) -> dict[str, Any]:
        """The reply contains the signing secret; it is shown only once. Messages are signed by the Standard Webhooks
        specification."""
        return await webhooks.create(context, body.url, body.events, body.endpoints, request.state.actor)

    @router.get("/{webhook_id}", summary="Get a webhook")
    def one(webhook_id: str) -> dict[str, Any]:
        """Its state, its position, and the number of events that it is behind."""
        return webhooks.get(context, webhook_id)

    @router.delete("/{webhook_id}", status_code=204, summary="Delete a webhook")
    def delete(request: Request, webhook_id: str) -> None:
        """Delete the webhook; events that are not delivered yet are dropped."""
        webhooks.delete(context, webhook_id, request.state.actor)

    @router.post("/{webhook_id}:test", summary="Send a ping")
    async def test(request: Request, webhook_id: str) -> dict[str, Any]:
        """The delivery, with its outcome. If the ping arrives, a failing webhook is tried again at once."""
        return await webhooks.test(context, webhook_id, request.state.actor)

    @router.get("/{webhook_id}/deliveries", summary="List deliveries of a webhook")
    def last_deliveries(webhook_id: str, last: Annotated[int, newest(KEPT)] = 20) -> dict[str, Any]:
        """Newest first, with status and reason; 100 are kept."""
        return webhooks.last_deliveries(context, webhook_id, last)

    return router
