"""Numbered events for other systems to follow: `control` writes an event in the transaction of the change itself.

Numbers come from the project's row in `stores`, which is locked until the transaction ends: a reader that sees one event has
seen all earlier ones.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from sqlalchemy import delete, func, insert, select, update

from roadworthy.audit.entries import AuditEvent
from roadworthy.store.connection import Connection
from roadworthy.store.tables import events, stores

KEPT = 10_000
"""Number of newest events that are kept."""
_SHOWN = [column for column in events.c if column.name != "project"]


def announce(connection: Connection, at_us: int, event: AuditEvent) -> int:
    """Write one event; return its number. The actor becomes part of the event's detail."""
    connection.execute(update(stores).values(event=stores.c.event + 1))
    number = newest(connection)
    detail = {"by": event.actor, **event.detail}
    connection.execute(
        insert(events).values(
            number=number,
            at_us=at_us,
            kind=event.verb,
            subject=event.subject,
            detail=json.dumps(detail),
        )
    )
    connection.execute(delete(events).where(events.c.number <= number - KEPT))
    return number


def newest(connection: Connection) -> int:
    """The number of the newest event; 0 before the first."""
    return int(connection.execute(select(stores.c.event)).scalar_one())


class Kept(NamedTuple):
    """The numbers of the oldest and the newest kept event; `first` is newest + 1 when no event is kept."""

    first: int
    newest: int


def kept(connection: Connection) -> Kept:
    """The range of kept events."""
    last = newest(connection)
    first = connection.execute(select(func.min(events.c.number))).scalar()
    return Kept(last + 1 if first is None else int(first), last)


def list_after(connection: Connection, after: int, most: int) -> list[dict[str, Any]]:
    """The `most` oldest kept events with numbers greater than `after`, oldest first."""
    query = select(*_SHOWN).where(events.c.number > after).order_by(events.c.number).limit(most)
    return [{**row._asdict(), "detail": json.loads(row.detail)} for row in connection.execute(query)]
