"""Types, bodies and ids of messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from roadworthy.rollout.decide import state
from roadworthy.webhooks.messages import EVENT_TYPES, MOST_BODY_BYTES, compose, compose_ping, type_of

AT = "2026-11-21T12:00:00.000+00:00"


def event(**changes: Any) -> dict[str, Any]:
    """A rollout that rolled back."""
    detail = {"by": "controller", "outcome": "rolled-back", "code": "worse"}
    return {"number": 7, "at_us": 1, "kind": "rollout-finished", "subject": "flights", "detail": detail, **changes}


def test_a_message_is_an_event_as_cloud_events_names_its_parts() -> None:
    """Everything that the specification of CloudEvents 1.0 requires, the endpoint as subject, and the number."""
    message = compose(event(), AT)
    assert json.loads(message.body) == {
        "specversion": "1.0",
        "id": message.id,
        "source": "/roadworthy",
        "type": "rollout.rolled-back",
        "time": AT,
        "subject": "flights",
        "number": 7,
        "data": {"endpoint": "flights", "by": "controller", "outcome": "rolled-back", "code": "worse"},
    }


def test_ids_are_the_same_for_one_event_and_differ_for_others() -> None:
    """Even for another event with the same number, as after a restore; without a full stop, which would end the id in the signed
    text."""
    first = compose(event(), AT).id
    others = {compose(event(**change), AT).id for change in ({"number": 8}, {"at_us": 2}, {"subject": "other"})}
    assert compose(event(), AT).id == first
    assert first not in others
    assert len(others) == 3
    assert first.replace("_", "").isalnum()


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (state.PROMOTED, "rollout.promoted"),
        (state.ROLLED_BACK, "rollout.rolled-back"),
        (state.INCONCLUSIVE, "rollout.inconclusive"),
        (state.ABORTED, "rollout.aborted"),
        (state.COMPLETED, "rollout.completed"),
        (state.SUPERSEDED, "rollout.superseded"),
        (state.NOT_STARTED, "rollout.not-started"),
    ],
)
def test_every_end_of_a_rollout_has_a_type(outcome: str, kind: str) -> None:
    """So that a receiver need not read the data for the most common question."""
    assert type_of(event(detail={"outcome": outcome})) == kind


def test_what_is_no_type_is_not_sent() -> None:
    """An event of an unknown kind or outcome, such as one that a later release wrote."""
    assert type_of(event(kind="meteor-hit")) is None
    assert type_of(event(detail={"outcome": "exploded"})) is None


def test_a_long_event_is_told_in_short() -> None:
    """Receivers need not accept bodies over the bound; the whole event can be fetched."""
    message = compose(event(detail={"outcome": "rolled-back", "text": "x" * MOST_BODY_BYTES}), AT)
    assert len(message.body) < 1_000
    assert "GET /api/v1/events" in json.loads(message.body)["data"]["left_out"]


def test_a_ping_has_no_number() -> None:
    """And its type cannot be subscribed to."""
    message = compose_ping("webhook-1", AT)
    assert (message.number, message.type) == (None, "ping")
    assert "ping" not in EVENT_TYPES
