"""Replies to requests that carried an idempotency key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "kept_replies",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("request", sa.String(64), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("reply", sa.Text()),
        sa.PrimaryKeyConstraint("project", "id", name="pk_kept_replies"),
    )
    op.create_index("ix_kept_replies_at_us", "kept_replies", ["at_us"])


def downgrade() -> None:
    """Remove the table."""
    op.drop_table("kept_replies")
