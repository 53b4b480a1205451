"""When a webhook is tried again: doubling pauses with jitter, bounded; and what ends the attempts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from roadworthy.webhooks.deliveries import DELIVERED, FAILED, GIVEN_UP
from roadworthy.webhooks.hooks import ACTIVE, FAILING, GONE, Webhook
from roadworthy.webhooks.schedule import FAILS_FROM, MOST_PAUSE_S, MOST_TRIES, after, is_due, pause_s
from roadworthy.webhooks.sending import Attempt

HOOK = Webhook("webhook-1", "https://hooks.example/", "whsec_x", None, None, 4, 0, "me")
DAY_S = 86_400


def attempt(status: int | None, retry_after_s: float | None = None) -> Attempt:
    """An attempt that began at 10 s and took one."""
    return Attempt(10_000_000, 1_000, status, "" if status == 200 else "no", retry_after_s)


def test_pauses_double_from_a_second_to_an_hour() -> None:
    """At most; and at least half of it."""
    longest = [pause_s(tries, None, 1.0) for tries in range(1, 15)]
    assert longest == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600]
    assert [pause_s(tries, None, 0.0) for tries in range(1, 15)] == [each / 2 for each in longest]


def test_what_the_receiver_asks_for_is_waited_up_to_an_hour() -> None:
    """Retry-After makes a pause longer, never shorter."""
    assert pause_s(1, 30, 0.5) == 30
    assert pause_s(8, 1, 1.0) == 128
    assert pause_s(1, 1e9, 0.5) == MOST_PAUSE_S


def test_success_moves_on_and_ends_all_waiting() -> None:
    """A failing webhook is active again."""
    failing = replace(HOOK, tries=9, due_us=5, state=FAILING)
    assert after(failing, 5, attempt(204), 0.5) == (replace(HOOK, position=5), DELIVERED)


@pytest.mark.parametrize("status", [None, 100, 301, 302, 400, 404, 429, 500, 503])
def test_anything_else_is_tried_again(status: int | None) -> None:
    """The position stays; the pause counts from the attempt's end."""
    hook, outcome = after(HOOK, 5, attempt(status), 1.0)
    assert (hook.position, hook.tries, hook.due_us, hook.state, outcome) == (4, 1, 12_000_000, ACTIVE, FAILED)


def test_gone_is_gone() -> None:
    """410: the receiver wants no further messages; nothing is due any longer."""
    hook, outcome = after(HOOK, 5, attempt(410), 1.0)
    assert (hook.state, hook.position, outcome) == (GONE, 4, FAILED)
    assert not is_due(hook, 10**18)


def test_an_event_is_given_up_after_days_and_the_next_one_gets_its_turn() -> None:
    """With endless attempts, nothing would follow an event that a receiver cannot accept. From the sixth failure on it is
    failing."""
    hook, waited_s, outcome = HOOK, 0.0, FAILED
    states = []
    while outcome == FAILED:
        waited_s += pause_s(hook.tries + 1, None, 0.5)
        hook, outcome = after(hook, 5, attempt(500), 0.5)
        states.append(hook.state)
    assert states.index(FAILING) == FAILS_FROM - 1
    assert len(states) == MOST_TRIES
    assert 2 * DAY_S < waited_s < 4 * DAY_S
    assert (hook.position, hook.lost, hook.tries, hook.state, outcome) == (5, 1, 0, FAILING, GIVEN_UP)
    assert is_due(hook, 0)


def test_a_time_that_a_wrong_clock_wrote_does_not_count() -> None:
    """An hour ahead is waited for; a day ahead means a clock that was set back since."""
    assert not is_due(replace(HOOK, tries=1, due_us=round(3_600e6)), 0)
    assert is_due(replace(HOOK, tries=1, due_us=round(DAY_S * 1e6)), 0)
