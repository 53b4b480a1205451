"""When to try a delivery again, and when to give up. Pure."""

from __future__ import annotations

from dataclasses import replace

from roadworthy.foundation.backoff import Backoff
from roadworthy.webhooks.deliveries import DELIVERED, FAILED, GIVEN_UP
from roadworthy.webhooks.hooks import ACTIVE, FAILING, GONE, Webhook
from roadworthy.webhooks.sending import Attempt

MOST_PAUSE_S = 3_600.0
_RETRIES = Backoff(1.0, MOST_PAUSE_S, jitter=0.5)
MOST_TRIES = 84
"""Attempts for one event: the pauses double from a second to an hour, so this takes about three days."""
FAILS_FROM = 6
"""Consecutive failures after which a webhook counts as failing: after about a minute."""
_GONE = 410


def after(hook: Webhook, number: int, attempt: Attempt, chance: float) -> tuple[Webhook, str]:
    """The webhook after an attempt to deliver event `number`, and the event's outcome.

    Args:
        hook: the webhook before the attempt.
        number: of the event.
        attempt: the attempt's result.
        chance: uniform from 0 to 1; spreads attempts over time.
    """
    if attempt.delivered:
        return replace(hook, position=number, tries=0, due_us=0, state=ACTIVE), DELIVERED
    if attempt.status == _GONE:
        return replace(hook, state=GONE, tries=hook.tries + 1), FAILED
    tries = hook.tries + 1
    state = FAILING if tries >= FAILS_FROM else hook.state
    if tries >= MOST_TRIES:
        return replace(hook, position=number, tries=0, due_us=0, state=FAILING, lost=hook.lost + 1), GIVEN_UP
    ended_us = attempt.at_us + attempt.took_ms * 1_000
    due_us = ended_us + round(pause_s(tries, attempt.retry_after_s, chance) * 1e6)
    return replace(hook, tries=tries, due_us=due_us, state=state), FAILED


def pause_s(tries: int, retry_after_s: float | None, chance: float) -> float:
    """Seconds until the next attempt after `tries` failures: at least what the receiver asked for, at most an hour."""
    return min(max(_RETRIES.delay(tries - 1, chance), retry_after_s or 0.0), MOST_PAUSE_S)


def is_due(hook: Webhook, now_us: int) -> bool:
    """Whether the webhook may be tried now. A time too far ahead was written before a clock was set back, and is ignored."""
    if hook.state == GONE:
        return False
    return hook.due_us <= now_us or hook.due_us - now_us > 2 * MOST_PAUSE_S * 1e6
