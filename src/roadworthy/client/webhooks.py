"""`client.webhooks`: have other systems told of events.

with rw.Client() as client:
    made = client.webhooks.create("https://ci.example/roadworthy", events=["rollout.rolled-back"])
    print(made["secret"])  # shown this once
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, cast
from urllib.parse import quote

from roadworthy.client.connection import Connection

_PATH = "/api/v1/webhooks"


class Webhook(TypedDict):
    """A webhook. `events` and `endpoints` None for all; `state` active, failing or gone; `tries` of the event that comes next;
    `behind`: events it is not done with; `lost`: events that it wanted and will not get."""

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
    """As it was made: `secret` is shown this once."""

    secret: str


class Delivery(TypedDict):
    """An attempt. `id` is what receivers got as webhook-id; `event` the event's number, None for a ping; `outcome` delivered,
    failed or given-up; `status` None when nobody answered."""

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
    """Verbs on webhooks; made by `Client.webhooks`."""

    def __init__(self, control: Connection) -> None:
        self._control = control

    def create(
        self, url: str, *, events: Sequence[str] | None = None, endpoints: Sequence[str] | None = None
    ) -> NewWebhook:
        """Have `url` told of events from now on, of all types and endpoints unless they are named.

        Raises:
            InvalidRequest: "webhook-url-invalid", "webhook-host-unknown", "webhook-address-refused", "unknown-event-type".
            Conflict: "too-many-webhooks".
        """
        body: dict[str, Any] = {"url": url}
        body |= {} if events is None else {"events": list(events)}
        body |= {} if endpoints is None else {"endpoints": list(endpoints)}
        return cast(NewWebhook, self._call("POST", _PATH, json=body))

    def list(self) -> list[Webhook]:
        """Every webhook, oldest first."""
        return cast("list[Webhook]", self._call("GET", _PATH)["items"])

    def get(self, webhook_id: str) -> Webhook:
        """One webhook.

        Raises:
            NotFound: "unknown-webhook".
        """
        return cast(Webhook, self._call("GET", _one(webhook_id)))

    def delete(self, webhook_id: str) -> None:
        """Forget a webhook and its secret.

        Raises:
            NotFound: "unknown-webhook".
        """
        self._control.call("DELETE", _one(webhook_id))

    def test(self, webhook_id: str) -> Delivery:
        """Send a ping now; what came of it.

        Raises:
            NotFound: "unknown-webhook".
        """
        return cast(Delivery, self._call("POST", f"{_one(webhook_id)}:test"))

    def deliveries(self, webhook_id: str, last: int = 20) -> Sequence[Delivery]:
        """The newest attempts, newest first; 100 are kept.

        Raises:
            NotFound: "unknown-webhook".
        """
        answer = self._control.call("GET", f"{_one(webhook_id)}/deliveries", params={"last": str(last)})
        return cast("Sequence[Delivery]", self._control.document(answer)["items"])

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        return self._control.document(self._control.call(method, path, **options))


def _one(webhook_id: str) -> str:
    return f"{_PATH}/{quote(webhook_id, safe='')}"
