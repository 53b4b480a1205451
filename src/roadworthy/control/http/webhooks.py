"""Routes of webhooks."""

from __future__ import annotations

from typing import Annotated

from roadworthy.access.principal import Principal
from roadworthy.contract.api import webhooks as api
from roadworthy.contract.api.operation import Page
from roadworthy.control.context import ControlContext
from roadworthy.control.http.fields import newest
from roadworthy.control.http.routing import Routes
from roadworthy.control.resources import webhooks
from roadworthy.webhooks.deliveries import KEPT


def routes(root: ControlContext) -> Routes:
    """The routes."""
    found = Routes("webhooks", root)

    @found.add(api.LIST)
    def everything(context: ControlContext, cursor: str = "") -> Page[api.Webhook]:
        """Oldest first, without their secrets; `next` is the cursor of the next page."""
        return webhooks.list_all(context, cursor)

    @found.add(api.CREATE)
    async def create(context: ControlContext, principal: Principal, body: api.NewWebhook) -> api.CreatedWebhook:
        """The reply contains the signing secret; it is shown only once. Messages are signed by the Standard Webhooks
        specification."""
        return await webhooks.create(context, body, principal)

    @found.add(api.GET)
    def one(context: ControlContext, webhook_id: str) -> api.Webhook:
        """Its state, its position, and the number of events that it is behind."""
        return webhooks.get(context, webhook_id)

    @found.add(api.DELETE)
    def delete(context: ControlContext, principal: Principal, webhook_id: str) -> None:
        """Delete the webhook; events that are not delivered yet are dropped."""
        webhooks.delete(context, webhook_id, principal)

    @found.add(api.TEST)
    async def test(context: ControlContext, principal: Principal, webhook_id: str) -> api.Delivery:
        """The delivery, with its outcome. If the ping arrives, a failing webhook is tried again at once."""
        return await webhooks.test(context, webhook_id, principal)

    @found.add(api.LIST_DELIVERIES)
    def last_deliveries(context: ControlContext, webhook_id: str, last: Annotated[int, newest(KEPT)] = 20) -> Page[api.Delivery]:
        """Newest first, with status and reason; 100 are kept, and one page holds all of them."""
        return webhooks.last_deliveries(context, webhook_id, last)

    return found
