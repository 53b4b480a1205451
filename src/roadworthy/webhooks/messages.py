"""The messages that webhooks receive: types of events that users choose from, and bodies. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roadworthy.contract.api.webhooks import EVENT_TYPES

PING = "ping"
_ENDED = "rollout-finished"
_TYPE_OF = {
    "rollout-started": "rollout.started",
    "rollout-began": "rollout.began",
    "rollout-split": "rollout.moved",
    "rollout-alert": "rollout.alert",
}
MOST_BODY_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Message:
    """One event as a message; every attempt sends the same.

    Attributes:
        id: of the event, the same in all deliveries to all webhooks; 28 letters and digits and an underscore.
        type: one of EVENT_TYPES, or PING.
        number: the event's; None for a ping.
        body: JSON.
    """

    id: str
    type: str
    number: int | None
    body: bytes


def type_of(event: Mapping[str, Any]) -> str | None:
    """The event's type, one of EVENT_TYPES; None for events that webhooks do not receive."""
    kind = str(event["kind"])
    found = f"rollout.{event['detail'].get('outcome')}" if kind == _ENDED else _TYPE_OF.get(kind)
    return found if found in EVENT_TYPES else None


def compose(event: Mapping[str, Any], at: str) -> Message:
    """The message for an event of one of EVENT_TYPES, as `audit.events` lists it.

    Args:
        event: with number, at_us, kind, subject and detail.
        at: time of the event, as RFC 3339.
    """
    kind = type_of(event)
    assert kind is not None  # noqa: S101  (the caller has checked)
    data = {"endpoint": event["subject"], **event["detail"]}
    written = json.dumps([event["number"], event["at_us"], event["kind"], data], sort_keys=True).encode()
    body = _body(_id(written), kind, at, {"subject": event["subject"], "number": event["number"], "data": data})
    if len(body) > MOST_BODY_BYTES:
        left = {"endpoint": event["subject"], "left_out": "too long; GET /api/v1/events has all of it"}
        body = _body(_id(written), kind, at, {"subject": event["subject"], "number": event["number"], "data": left})
    return Message(_id(written), kind, event["number"], body)


def compose_ping(webhook: str, at: str) -> Message:
    """A message that only shows that messages arrive."""
    message_id = _id(f"{webhook} {at}".encode())
    return Message(message_id, PING, None, _body(message_id, PING, at, {"data": {"webhook": webhook}}))


def _id(written: bytes) -> str:
    """An id derived from the content, so that it is the same after every restart, but differs where a restored database gives a
    number to another event."""
    return f"evt_{hashlib.sha256(written).hexdigest()[:24]}"


def _body(message_id: str, kind: str, at: str, more: Mapping[str, Any]) -> bytes:
    head = {"specversion": "1.0", "id": message_id, "source": "/roadworthy", "type": kind, "time": at}
    return json.dumps({**head, **more}, separators=(",", ":"), ensure_ascii=False, default=str).encode("utf-8")
