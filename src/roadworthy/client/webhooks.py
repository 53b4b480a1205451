"""`client.webhooks`: notify other systems of events.

with rw.Client() as client:
    made = client.webhooks.create("https://ci.example/roadworthy", events=["rollout.rolled-back"])
    print(made["secret"])  # shown only once
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, cast
from urllib.parse import quote

from roadworthy.client.connection import Connection

_PATH = "/api/v1/webhooks"


class Webhook(TypedDict):
    """A webhook. `events` and `endpoints`: None for all. `state`: active, failing or gone. `tries`: attempts for the next event.
    `behind`: number of events still to deliver. `lost`: number of events that it will never receive."""

    id: str
    url: str
    events: list[str] | None
    endpoints: list[str] | None
    state: str
    tries: int
    next_try_at: str | None
    position: int
    behind: int
    lost: int
    created_at: str
    created_by: str


class NewWebhook(Webhook):
    """A webhook that was just created; `secret` is shown only once."""

    secret: str


class Delivery(TypedDict):
    """A delivery attempt. `id`: the receiver's webhook-id. `event`: the event's number, None for a ping. `outcome`: delivered,
    failed or given-up. `status`: None without an answer."""

    at: str
    id: str
    event: int | None
    type: str
    tries: int
    outcome: str
    status: int | None
    took_ms: int
    reason: str


class Webhooks:
    """Webhooks of one control plane."""

    def __init__(self, control: Connection) -> None:
        self._control = control

    def create(self, url: str, *, events: Sequence[str] | None = None, endpoints: Sequence[str] | None = None) -> NewWebhook:
        """Create a webhook that sends events to `url` from now on. `events` and `endpoints`: None for all.

        Raises:
            InvalidRequest: "webhook-url-invalid", "webhook-host-unknown", "webhook-address-refused", "unknown-event-type".
            Conflict: "too-many-webhooks".
        """
        body: dict[str, Any] = {"url": url}
        body |= {} if events is None else {"events": list(events)}
        body |= {} if endpoints is None else {"endpoints": list(endpoints)}
        return cast(NewWebhook, self._control.ask("POST", _PATH, json=body))

    def list(self) -> list[Webhook]:
        """Every webhook, oldest first."""
        return cast("list[Webhook]", self._control.ask("GET", _PATH)["items"])

    def get(self, webhook_id: str) -> Webhook:
        """One webhook.

        Raises:
            NotFound: "unknown-webhook".
        """
        return cast(Webhook, self._control.ask("GET", _one(webhook_id)))

    def delete(self, webhook_id: str) -> None:
        """Delete a webhook and its secret.

        Raises:
            NotFound: "unknown-webhook".
        """
        self._control.call("DELETE", _one(webhook_id))

    def test(self, webhook_id: str) -> Delivery:
        """Send a ping now and return the attempt.

        Raises:
            NotFound: "unknown-webhook".
        """
        return cast(Delivery, self._control.ask("POST", f"{_one(webhook_id)}:test"))

    def deliveries(self, webhook_id: str, last: int = 20) -> Sequence[Delivery]:
        """The latest attempts, newest first; 100 are kept.

        Raises:
            NotFound: "unknown-webhook".
        """
        answer = self._control.ask("GET", f"{_one(webhook_id)}/deliveries", params={"last": str(last)})
        return cast("Sequence[Delivery]", answer["items"])


def _one(webhook_id: str) -> str:
    return f"{_PATH}/{quote(webhook_id, safe='')}"
