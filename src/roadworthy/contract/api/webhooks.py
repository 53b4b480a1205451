"""Webhooks and their deliveries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from roadworthy.contract.api.operation import MANAGE, READ, Count, Name, Operation, Page, RequestBody, Resource, Time

MOST_ENDPOINTS = 100
"""Most endpoints of one webhook."""
EVENT_TYPES: Mapping[str, str] = {
    "rollout.started": "a rollout was started",
    "rollout.began": "a rollout that waited for the previous one began",
    "rollout.moved": "a rollout changed its version's share of the traffic",
    "rollout.alert": "a rollout needs a person's attention",
    "rollout.promoted": "the new version has taken over",
    "rollout.completed": "a rollout without promotion is done",
    "rollout.rolled-back": "evidence against the new version, a crash or a limit took the traffic back to the previous version",
    "rollout.inconclusive": "there was no decision before the deadline, and the traffic went back to the previous version",
    "rollout.not-started": "the new version never got traffic",
    "rollout.aborted": "a person ended a rollout, or its endpoint is gone",
    "rollout.superseded": "another rollout or deployment replaced this rollout",
}
"""Types of events that webhooks receive, and the meaning of each."""
EventType = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(EVENT_TYPES)})]
_Events = Annotated[tuple[EventType, ...], msgspec.Meta(extra_json_schema={"minItems": 1})]
_Endpoints = Annotated[tuple[Name, ...], msgspec.Meta(extra_json_schema={"minItems": 1, "maxItems": MOST_ENDPOINTS})]


class NewWebhook(RequestBody, frozen=True, kw_only=True):
    """A webhook to create.

    Attributes:
        url: the receiver's URL; https, or http in a network that the setting control.webhook_networks names.
        events: types of events, such as rollout.rolled-back; all when left out.
        endpoints: endpoints whose events are sent; all when left out.
    """

    url: str
    events: _Events | None = None
    endpoints: _Endpoints | None = None


class Webhook(Resource, frozen=True, kw_only=True):
    """A webhook.

    Attributes:
        events, endpoints: that it receives; None for all.
        state: active, failing or gone.
        tries: attempts for the next event.
        behind: number of events still to deliver.
        lost: number of events that it will never receive.
    """

    id: str
    url: str
    events: list[str] | None
    endpoints: list[Name] | None
    state: str
    tries: Count
    next_try_at: Time | None
    position: Count
    behind: Count
    lost: Count
    created_at: Time
    created_by: str


class CreatedWebhook(Webhook, frozen=True, kw_only=True):
    """A webhook that was just created.

    Attributes:
        secret: signs its messages; shown only once.
    """

    secret: str


class Delivery(Resource, frozen=True, kw_only=True):
    """A delivery attempt.

    Attributes:
        id: the receiver's webhook-id.
        event: the event's number; None for a ping.
        outcome: delivered, failed or given-up.
        status: of the receiver's answer; None without one.
    """

    at: Time
    id: str
    event: Count | None
    type: str
    tries: Count
    outcome: str
    status: Count | None
    took_ms: Count
    reason: str


_WEBHOOKS = "/api/v1/webhooks"
_WEBHOOK = f"{_WEBHOOKS}/{{webhook_id}}"
LIST = Operation("list_webhooks", "GET", _WEBHOOKS, "List webhooks", READ, Page[Webhook])
CREATE = Operation(
    "create_webhook", "POST", _WEBHOOKS, "Create a webhook", MANAGE, CreatedWebhook, NewWebhook, 201, shown_once=True
)
GET = Operation("get_webhook", "GET", _WEBHOOK, "Get a webhook", READ, Webhook)
DELETE = Operation("delete_webhook", "DELETE", _WEBHOOK, "Delete a webhook", MANAGE, type(None), status=204)
TEST = Operation("test_webhook", "POST", f"{_WEBHOOK}:test", "Send a ping", MANAGE, Delivery)
LIST_DELIVERIES = Operation(
    "list_deliveries", "GET", f"{_WEBHOOK}/deliveries", "List deliveries of a webhook", READ, Page[Delivery]
)
