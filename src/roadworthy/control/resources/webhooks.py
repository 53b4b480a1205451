"""Create, show, test and delete webhooks. The reply of `create` is the only one with the secret."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi.concurrency import run_in_threadpool

from roadworthy.access.principal import Principal
from roadworthy.audit import events
from roadworthy.contract.api import webhooks as api
from roadworthy.contract.api.operation import Page
from roadworthy.contract.api.system import Backlog
from roadworthy.contract.api.webhooks import EVENT_TYPES, MOST_ENDPOINTS
from roadworthy.control.context import ControlContext
from roadworthy.control.resources.pages import page_of
from roadworthy.control.resources.times import iso
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.foundation.ids import random_id
from roadworthy.foundation.references import check_name
from roadworthy.store.connection import Connection
from roadworthy.webhooks import deliveries, hooks
from roadworthy.webhooks.deliveries import DELIVERED, FAILED, KEPT, Delivery
from roadworthy.webhooks.hooks import ACTIVE, Webhook
from roadworthy.webhooks.messages import Message, compose_ping
from roadworthy.webhooks.sending import Attempt
from roadworthy.webhooks.signing import make_secret
from roadworthy.webhooks.targets import parse_url


async def create(context: ControlContext, new: api.NewWebhook, principal: Principal) -> api.CreatedWebhook:
    """Create a webhook and return it with its secret. It receives the events from now on.

    Raises:
        InvalidRequest: "webhook-url-invalid", "webhook-host-unknown", "webhook-address-refused", "unknown-event-type",
            "invalid-name".
        Conflict: "too-many-webhooks".
    """
    host = parse_url(new.url).host
    wanted = _check_types(new.events)
    names = _check_endpoints(new.endpoints)
    await context.sender.check(new.url)
    secret, actor = make_secret(), principal.who

    def keep() -> api.CreatedWebhook:
        with context.database.begin() as connection:
            newest = events.newest(connection)
            hook = Webhook(random_id("webhook"), new.url, secret, wanted, names, newest, context.clock.now_us(), created_by=actor)
            hooks.add(connection, hook)
            context.audit(connection, actor, "webhook-create", hook.id, host=host, events=wanted, endpoints=names)
            return api.CreatedWebhook(secret=secret, **_members(hook, events.kept(connection)))

    return await run_in_threadpool(keep)


def _check_types(types: Sequence[str] | None) -> tuple[str, ...] | None:
    if types is None:
        return None
    unknown = sorted(set(types) - set(EVENT_TYPES))
    if unknown or not types:
        raise InvalidRequest(
            f"unknown event type {unknown[0][:80]!r}" if unknown else "the list of event types is empty",
            code="unknown-event-type",
            hint=f"types are {', '.join(EVENT_TYPES)}; leave the list out for all",
        )
    return tuple(dict.fromkeys(types))


def _check_endpoints(endpoints: Sequence[str] | None) -> tuple[str, ...] | None:
    if endpoints is None:
        return None
    if not 1 <= len(endpoints) <= MOST_ENDPOINTS:
        raise InvalidRequest(
            f"name 1 to {MOST_ENDPOINTS} endpoints, got {len(endpoints)}",
            code="invalid-name",
            hint="leave the list out for all",
        )
    return tuple(dict.fromkeys(check_name(name, "endpoint name") for name in endpoints))


def list_all(context: ControlContext, cursor: str) -> Page[api.Webhook]:
    """A page of webhooks, oldest first."""
    with context.database.begin() as connection:
        kept, found = events.kept(connection), hooks.list_all(connection)
    return page_of(found, lambda hook: f"{hook.created_at_us:020}-{hook.id}", cursor, lambda hook: _shown(hook, kept))


def backlog(context: ControlContext) -> Backlog:
    """What all webhooks together still have to receive, and will never receive."""
    with context.database.begin() as connection:
        kept, found = events.kept(connection), hooks.list_all(connection)
    shown = [_shown(hook, kept) for hook in found]
    return Backlog(behind=sum(each.behind for each in shown), lost=sum(each.lost for each in shown))


def get(context: ControlContext, hook_id: str) -> api.Webhook:
    """One webhook.

    Raises:
        NotFound: "unknown-webhook".
    """
    with context.database.begin() as connection:
        return _shown(hooks.get(connection, hook_id), events.kept(connection))


def delete(context: ControlContext, hook_id: str, principal: Principal) -> None:
    """Delete a webhook with its secret and its deliveries.

    Raises:
        NotFound: "unknown-webhook".
    """
    with context.database.begin() as connection:
        hooks.remove(connection, hook_id)
        context.audit(connection, principal.who, "webhook-delete", hook_id)


async def test(context: ControlContext, hook_id: str, principal: Principal) -> api.Delivery:
    """Send a ping now and return the delivery. If it arrives, a failing or gone webhook becomes active again.

    Raises:
        NotFound: "unknown-webhook".
    """

    def begin() -> tuple[Webhook, Message]:
        with context.database.begin() as connection:
            context.audit(connection, principal.who, "webhook-test", hook_id)
            return hooks.get(connection, hook_id), compose_ping(hook_id, iso(context.clock.now_us()))

    def end(message: Message, attempt: Attempt) -> api.Delivery:
        with context.database.begin() as connection:
            _note(connection, hook_id, Delivery(message, attempt, 1, DELIVERED if attempt.delivered else FAILED))
            return _delivery(deliveries.list_last(connection, hook_id, 1)[0])

    hook, message = await run_in_threadpool(begin)
    attempt = await context.sender.send(hook.url, hook.secret, message)
    return await run_in_threadpool(end, message, attempt)


def _note(connection: Connection, hook_id: str, delivery: Delivery) -> None:
    hook = hooks.get(connection, hook_id)
    deliveries.add(connection, hook_id, delivery)
    if delivery.attempt.delivered and (hook.state != ACTIVE or hook.tries):
        hooks.change(connection, hook, replace(hook, state=ACTIVE, tries=0, due_us=0))


def last_deliveries(context: ControlContext, hook_id: str, last: int) -> Page[api.Delivery]:
    """The newest attempts, newest first.

    Raises:
        NotFound: "unknown-webhook".
        InvalidRequest: "invalid-last".
    """
    if not 1 <= last <= KEPT:
        raise InvalidRequest(f"last must be 1 to {KEPT}, got {last}", code="invalid-last")
    with context.database.begin() as connection:
        hooks.get(connection, hook_id)
        found = deliveries.list_last(connection, hook_id, last)
    return Page(items=[_delivery(each) for each in found])


def _delivery(found: dict[str, Any]) -> api.Delivery:
    return api.Delivery(at=iso(found.pop("at_us")), **found)


def _shown(hook: Webhook, kept: events.Kept) -> api.Webhook:
    return api.Webhook(**_members(hook, kept))


def _members(hook: Webhook, kept: events.Kept) -> dict[str, Any]:
    gone = max(kept.first - 1 - hook.position, 0)  # deleted before the next try, which will write it to the row
    return {
        "id": hook.id,
        "url": hook.url,
        "events": None if hook.events is None else list(hook.events),
        "endpoints": None if hook.endpoints is None else list(hook.endpoints),
        "state": hook.state,
        "tries": hook.tries,
        "next_try_at": iso(hook.due_us) if hook.tries and hook.due_us else None,
        "position": hook.position,
        "behind": kept.newest - hook.position - gone,
        "lost": hook.lost + gone,
        "created_at": iso(hook.created_at_us),
        "created_by": hook.created_by,
    }
