"""The audit trail. `control/resources` appends one entry per operation, inside its transaction: no operation without an entry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select

from roadworthy.foundation.ids import PredictionIds
from roadworthy.store.connection import Connection
from roadworthy.store.tables import audit_entries

_SHOWN = [column for column in audit_entries.c if column.name != "project"]
_ids = PredictionIds()


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One audited operation: actor, verb and subject, with plain JSON detail. Never contains a secret."""

    actor: str
    verb: str
    subject: str
    detail: Mapping[str, Any]


def append(connection: Connection, at_us: int, event: AuditEvent) -> None:
    """Write one entry."""
    connection.execute(
        insert(audit_entries).values(
            id=_ids.next(),
            at_us=at_us,
            actor=event.actor,
            verb=event.verb,
            subject=event.subject,
            detail=json.dumps(dict(event.detail)),
        )
    )


def has(connection: Connection, verb: str, subject: str) -> bool:
    """Whether the verb was ever applied to the subject."""
    query = select(audit_entries.c.id).where(audit_entries.c.verb == verb, audit_entries.c.subject == subject)
    return connection.execute(query.limit(1)).first() is not None


def list_last(connection: Connection, last: int, before: str | None, subject: str | None = None) -> list[dict[str, Any]]:
    """The `last` newest entries, newest first, of those with smaller ids than `before`; those of one subject, or all."""
    query = select(*_SHOWN).order_by(audit_entries.c.id.desc()).limit(last)
    if before:
        query = query.where(audit_entries.c.id < before)
    if subject is not None:
        query = query.where(audit_entries.c.subject == subject)
    return [{**row._asdict(), "detail": json.loads(row.detail)} for row in connection.execute(query)]
