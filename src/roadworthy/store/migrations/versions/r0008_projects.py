"""Indexes for queries of one project, and the process that carries out a request with an idempotency key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_INDEXES = (
    ("record_files", ("last_us",), ("project", "last_us")),
    ("record_files", (), ("project", "endpoint", "last_us")),
    ("rollouts", ("endpoint",), ("project", "endpoint", "id")),
    ("webhook_deliveries", ("webhook",), ("project", "webhook", "id")),
    ("kept_replies", ("at_us",), ("project", "at_us")),
)
"""Table, columns of the former index, and columns of the new one."""


def upgrade() -> None:
    """Change the indexes, and add the column."""
    op.add_column("kept_replies", sa.Column("holder", sa.String(64)))
    for table, before, after in _INDEXES:
        _change(table, before, after)


def downgrade() -> None:
    """Change them back."""
    for table, before, after in _INDEXES:
        _change(table, after, before)
    with op.batch_alter_table("kept_replies") as batch:
        batch.drop_column("holder")


def _change(table: str, before: tuple[str, ...], after: tuple[str, ...]) -> None:
    if before:
        op.drop_index(f"ix_{table}_{'_'.join(before)}", table)
    if after:
        op.create_index(f"ix_{table}_{'_'.join(after)}", table, list(after))
