"""Routes for keys, status, the audit trail and the events for other systems."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi.concurrency import run_in_threadpool

from roadworthy.access.principal import Principal
from roadworthy.contract.api import keys as keys_api
from roadworthy.contract.api import system as api
from roadworthy.contract.api.operation import Page
from roadworthy.control.context import ControlContext
from roadworthy.control.http.fields import Number, Seconds, newest
from roadworthy.control.http.routing import Routes
from roadworthy.control.resources import keys, telemetry
from roadworthy.version import __version__


def routes(root: ControlContext, stopping: Callable[[], bool]) -> Routes:
    """The routes. `stopping` ends long polls early."""
    found = Routes("system", root)

    @found.add(api.STATUS)
    def status(context: ControlContext) -> api.Status:
        """Control plane, gateways with their workers, and endpoints."""
        return telemetry.status(context, __version__)

    @found.add(api.LIST_AUDIT)
    def audit(
        context: ControlContext,
        last: Annotated[int, newest(telemetry.MOST_SHOWN)] = 100,
        before: str | None = None,
        subject: str | None = None,
    ) -> Page[api.AuditEntry]:
        """Newest first, of one `subject` or all; `next` is the value of `before` for the next page."""
        return telemetry.audit_trail(context, last, before, subject)

    @found.add(api.LIST_EVENTS)
    async def events(
        context: ControlContext,
        after: Number = 0,
        last: Annotated[int, newest(telemetry.MOST_SHOWN)] = 100,
        wait_s: Seconds = 0.0,
    ) -> api.Events:
        """Events with greater numbers than `after`, oldest first; without one, wait up to `wait_s` seconds (60 at most) for the
        next. `next` is the value of `after` for the next call."""
        await context.stream.wait(after, wait_s, stopping)
        return await run_in_threadpool(telemetry.events_after, context, after, last)

    @found.add(keys_api.LIST)
    def list_keys(context: ControlContext, cursor: str = "") -> Page[keys_api.ApiKey]:
        """Every key, oldest first, without its text; `next` is the cursor of the next page."""
        return keys.list_all(context, cursor)

    @found.add(keys_api.CREATE)
    def create_key(context: ControlContext, principal: Principal, body: keys_api.NewKey) -> keys_api.CreatedKey:
        """The reply contains the key's text; it is shown only once."""
        return keys.create(context, body, principal)

    @found.add(keys_api.REVOKE)
    def revoke_key(context: ControlContext, principal: Principal, key_id: str) -> None:
        """Gateways apply it within seconds."""
        keys.revoke(context, key_id, principal)

    return found
