"""The newest attempts of each webhook, to diagnose missing deliveries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, insert, select

from roadworthy.foundation.ids import PredictionIds
from roadworthy.store.connection import Connection
from roadworthy.store.tables import webhook_deliveries
from roadworthy.webhooks.messages import Message
from roadworthy.webhooks.sending import Attempt

KEPT = 100
"""Number of newest attempts kept for each webhook."""
DELIVERED, FAILED, GIVEN_UP = "delivered", "failed", "given-up"
_ids = PredictionIds()


@dataclass(frozen=True, slots=True)
class Delivery:
    """An attempt and the state of its event: DELIVERED, FAILED (to be tried again), or GIVEN_UP."""

    message: Message
    attempt: Attempt
    tries: int
    outcome: str


def add(connection: Connection, webhook: str, delivery: Delivery) -> None:
    """Insert a delivery, and delete the oldest ones."""
    message, attempt = delivery.message, delivery.attempt
    connection.execute(
        insert(webhook_deliveries).values(
            id=_ids.next(),
            webhook=webhook,
            event=message.number,
            message=message.id,
            type=message.type,
            tries=delivery.tries,
            at_us=attempt.at_us,
            took_ms=attempt.took_ms,
            status=attempt.status,
            outcome=delivery.outcome,
            reason=attempt.reason,
        )
    )
    column = webhook_deliveries.c.id
    mine = select(column).where(webhook_deliveries.c.webhook == webhook)
    oldest_kept = connection.execute(mine.order_by(column.desc()).offset(KEPT - 1).limit(1)).scalar()
    if oldest_kept is not None:
        connection.execute(delete(webhook_deliveries).where(webhook_deliveries.c.webhook == webhook, column < oldest_kept))


def list_last(connection: Connection, webhook: str, last: int) -> list[dict[str, Any]]:
    """The `last` newest deliveries of a webhook, newest first."""
    table = webhook_deliveries
    query = select(table).where(table.c.webhook == webhook).order_by(table.c.id.desc()).limit(last)
    return [
        {
            "at_us": row.at_us,
            "id": row.message,
            "event": row.event,
            "type": row.type,
            "tries": row.tries,
            "outcome": row.outcome,
            "status": row.status,
            "took_ms": row.took_ms,
            "reason": row.reason,
        }
        for row in connection.execute(query)
    ]
