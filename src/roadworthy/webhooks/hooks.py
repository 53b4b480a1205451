"""Webhooks in the store, with their positions. Changes are compare-and-set: of two control planes, one moves a position."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sqlalchemy import delete, func, insert, select, update

from roadworthy.foundation.errors import Conflict, NotFound
from roadworthy.store.connection import Connection
from roadworthy.store.rows import columns_of, read_row
from roadworthy.store.tables import webhooks

MOST = 50
ACTIVE, FAILING, GONE = "active", "failing", "gone"


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver of events and its position.

    Attributes:
        id: its public name.
        url: the receiver's; http or https.
        secret: `whsec_…`, signs messages; shown at creation and never again.
        events: types that it receives; None for all.
        endpoints: whose events it receives; None for all.
        position: number of the newest finished event: delivered, not subscribed or given up.
        tries: failed attempts for the next event.
        due_us: time of the next attempt, microseconds since 1970 UTC.
        state: ACTIVE; FAILING while consecutive attempts fail; GONE when the receiver answered that it is gone.
        lost: subscribed events that will not be delivered.
        created_at_us: time of creation, microseconds since 1970 UTC.
        created_by: id of the key that created it.
        writes: number of writes of the row.
    """

    id: str
    url: str
    secret: str = field(repr=False)
    events: tuple[str, ...] | None
    endpoints: tuple[str, ...] | None
    position: int
    created_at_us: int
    created_by: str
    tries: int = 0
    due_us: int = 0
    state: str = ACTIVE
    lost: int = 0
    writes: int = 0

    def wants(self, kind: str | None, endpoint: str) -> bool:
        """Whether the webhook subscribes to an event of that type."""
        if kind is None or (self.events is not None and kind not in self.events):
            return False
        return self.endpoints is None or endpoint in self.endpoints


def add(connection: Connection, hook: Webhook) -> None:
    """Insert a webhook.

    Raises:
        Conflict: "too-many-webhooks".
    """
    if int(connection.execute(select(func.count()).select_from(webhooks)).scalar_one()) >= MOST:
        raise Conflict(
            f"there are already {MOST} webhooks, the most that are allowed",
            code="too-many-webhooks",
            hint="delete a webhook that is no longer needed, or let one receiver forward events",
        )
    connection.execute(insert(webhooks).values(**columns_of(hook)))


def find(connection: Connection, hook_id: str) -> Webhook | None:
    """The webhook, or None."""
    row = connection.execute(select(webhooks).where(webhooks.c.id == hook_id)).first()
    return None if row is None else read_row(Webhook, row)


def get(connection: Connection, hook_id: str) -> Webhook:
    """The webhook.

    Raises:
        NotFound: "unknown-webhook".
    """
    hook = find(connection, hook_id)
    if hook is None:
        raise NotFound("no such webhook", code="unknown-webhook", hint="`roadworthy webhook list` lists the webhooks")
    return hook


def list_all(connection: Connection) -> list[Webhook]:
    """Every webhook, oldest first."""
    return [
        read_row(Webhook, row) for row in connection.execute(select(webhooks).order_by(webhooks.c.created_at_us, webhooks.c.id))
    ]


def change(connection: Connection, before: Webhook, after: Webhook) -> Webhook | None:
    """Replace `before` by `after`; None, without effect, if another process has changed or deleted it meanwhile."""
    written = replace(after, writes=before.writes + 1)
    done = connection.execute(
        update(webhooks).where(webhooks.c.id == before.id, webhooks.c.writes == before.writes).values(**columns_of(written))
    )
    return written if done.rowcount == 1 else None


def remove(connection: Connection, hook_id: str) -> None:
    """Delete a webhook with its secret and its deliveries.

    Raises:
        NotFound: "unknown-webhook".
    """
    get(connection, hook_id)
    connection.execute(delete(webhooks).where(webhooks.c.id == hook_id))
