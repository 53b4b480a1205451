"""Delivers events to webhooks at least once and in order; no webhook delays another.

The dispatcher is a thread with its own event loop, so no receiver can delay the API or a decision. Progress is written after the
receiver has accepted a message; after a kill in between, the same message is sent again with the same id.
"""

from __future__ import annotations

import asyncio
import random
import threading
from dataclasses import replace
from urllib.parse import urlsplit

import structlog

from roadworthy.audit import events
from roadworthy.control.context import ControlContext
from roadworthy.control.logs import failures_logged
from roadworthy.control.resources.times import iso
from roadworthy.webhooks import deliveries, hooks
from roadworthy.webhooks.deliveries import GIVEN_UP, Delivery
from roadworthy.webhooks.hooks import FAILING, GONE, Webhook
from roadworthy.webhooks.messages import Message, compose, type_of
from roadworthy.webhooks.schedule import after, is_due
from roadworthy.webhooks.sending import Attempt

_LOOK_S = 1.0
_AT_ONCE = 200
_STOP_S = 5.0
_log = structlog.get_logger()


class WebhookDispatcher:
    """Delivers while its process leads, with one task for each webhook that has pending events. Events of the context's project
    are noticed at once, those of other projects within a second.

    Args:
        context: of any project.
    """

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._stop = threading.Event()
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="webhook-dispatcher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop. Attempts in progress are dropped and made again after the next start."""
        self._stop.set()
        self._thread.join(_STOP_S)

    async def _serve(self) -> None:
        while not self._stop.is_set():
            seen = self._context.stream.newest
            if self._context.database.lead.held:
                await self._look()
            await self._context.stream.wait(seen, _LOOK_S, self._stop.is_set)
        for task in self._under_way.values():
            task.cancel()

    async def _look(self) -> None:
        for context in self._context.readable():
            waiting: list[str] = []
            with failures_logged("webhooks-cannot-be-read", project=context.database.project):
                waiting = await asyncio.to_thread(_waiting, context)
            for hook_id in waiting:
                if hook_id not in self._under_way:
                    self._under_way[hook_id] = asyncio.create_task(self._follow(context, hook_id))

    async def _follow(self, context: ControlContext, hook_id: str) -> None:
        """Deliver to one webhook until it has no pending events or must wait."""
        try:
            with failures_logged("webhook-not-followed", webhook=hook_id):
                while context.database.lead.held and not self._stop.is_set():
                    work = await asyncio.to_thread(_next, context, hook_id)
                    if work is None:
                        return
                    hook, message = work
                    attempt = await context.sender.send(hook.url, hook.secret, message)
                    await asyncio.to_thread(_note, context, hook, message, attempt)
        finally:
            del self._under_way[hook_id]


def _waiting(context: ControlContext) -> list[str]:
    """Webhooks of a project with pending events that may be tried now."""
    with context.database.begin() as connection:
        newest, now_us = events.newest(connection), context.clock.now_us()
        return [each.id for each in hooks.list_all(connection) if each.position < newest and is_due(each, now_us)]


def _next(context: ControlContext, hook_id: str) -> tuple[Webhook, Message] | None:
    """The webhook's oldest pending event that it subscribes to, skipping the others. None when there is nothing to send."""
    with context.database.begin() as connection:
        hook = hooks.find(connection, hook_id)
        if hook is None or not is_due(hook, context.clock.now_us()):
            return None
        begun, wanted = hook, None
        for event in events.list_after(connection, hook.position, _AT_ONCE):
            missing = int(event["number"]) - hook.position - 1
            hook = replace(hook, lost=hook.lost + missing)  # numbers have no gaps: missing events were deleted
            if hook.wants(type_of(event), str(event["subject"])):
                hook, wanted = replace(hook, position=event["number"] - 1), event
                break
            hook = replace(hook, position=event["number"])
        if hook != begun:
            written = hooks.change(connection, begun, hook)
            if written is None:
                return None
            hook = written
    return None if wanted is None else (hook, compose(wanted, iso(wanted["at_us"])))


def _note(context: ControlContext, hook: Webhook, message: Message, attempt: Attempt) -> None:
    """Record the result of an attempt, unless another process has moved the webhook on or deleted it meanwhile."""
    assert message.number is not None  # noqa: S101  (pings do not come this way)
    chance = random.random()  # noqa: S311  (spreads attempts, hides nothing)
    changed, outcome = after(hook, message.number, attempt, chance)
    with context.database.begin() as connection:
        if hooks.change(connection, hook, changed) is None:
            return
        deliveries.add(connection, hook.id, Delivery(message, attempt, hook.tries + 1, outcome))
    facts = {
        "webhook": hook.id,
        "host": urlsplit(hook.url).hostname,
        "event": message.number,
        "reason": attempt.reason,
    }
    if outcome == GIVEN_UP:
        _log.error("webhook-event-given-up", **facts)
    elif changed.state != hook.state:
        say = _log.warning if changed.state in (FAILING, GONE) else _log.info
        say(f"webhook-{changed.state}", **facts)
