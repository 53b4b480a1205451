"""`client.webhooks`: notify other systems of events.

with rw.Client() as client:
    made = client.webhooks.create("https://ci.example/roadworthy", events=["rollout.rolled-back"])
    print(made.secret)  # shown only once
"""

from __future__ import annotations

from collections.abc import Sequence

from roadworthy.client.calls import Asynchronous, Awaiting, Blocking, Call, Synchronous, ask, call, every
from roadworthy.contract.api import webhooks as api


class WebhookCalls:
    """Webhooks of one control plane."""

    @call
    def create(
        self,
        url: str,
        *,
        events: Sequence[str] | None = None,
        endpoints: Sequence[str] | None = None,
        idempotency_key: str | None = None,
    ) -> Call[api.CreatedWebhook]:
        """Create a webhook that sends events to `url` from now on. `events` and `endpoints`: None for all.

        Raises:
            InvalidRequest: "webhook-url-invalid", "webhook-host-unknown", "webhook-address-refused", "unknown-event-type".
            Conflict: "too-many-webhooks".
        """
        new = api.NewWebhook(
            url=url,
            events=None if events is None else tuple(events),
            endpoints=None if endpoints is None else tuple(endpoints),
        )
        return ask(api.CREATE, body=new, idempotency_key=idempotency_key)

    @call
    def list(self) -> Call[list[api.Webhook]]:
        """Every webhook, oldest first."""
        return every(api.LIST)

    @call
    def get(self, webhook_id: str) -> Call[api.Webhook]:
        """One webhook.

        Raises:
            NotFound: "unknown-webhook".
        """
        return ask(api.GET, {"webhook_id": webhook_id})

    @call
    def delete(self, webhook_id: str) -> Call[None]:
        """Delete a webhook and its secret.

        Raises:
            NotFound: "unknown-webhook".
        """
        return ask(api.DELETE, {"webhook_id": webhook_id})

    @call
    def test(self, webhook_id: str) -> Call[api.Delivery]:
        """Send a ping now and return the attempt.

        Raises:
            NotFound: "unknown-webhook".
        """
        return ask(api.TEST, {"webhook_id": webhook_id})

    @call
    def deliveries(self, webhook_id: str, last: int = 20) -> Call[Sequence[api.Delivery]]:
        """The latest attempts, newest first; 100 are kept.

        Raises:
            NotFound: "unknown-webhook".
        """
        page = yield from ask(api.LIST_DELIVERIES, {"webhook_id": webhook_id}, params={"last": last})
        return page.items


class Webhooks(Synchronous, WebhookCalls):
    """`client.webhooks`."""

    def __init__(self, transport: Blocking) -> None:
        self.transport = transport


class AsyncWebhooks(Asynchronous, WebhookCalls):
    """`client.webhooks` of a client that awaits."""

    def __init__(self, transport: Awaiting) -> None:
        self.transport = transport
