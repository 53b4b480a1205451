"""Rollouts with their history, events for other systems, and run times."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add them. Columns are added in place, because recreating a table would delete the rows that refer to it."""
    with op.batch_alter_table("stores", recreate="never") as batch:
        batch.add_column(sa.Column("event", sa.BigInteger(), nullable=False, server_default="0"))
    with op.batch_alter_table("gateways", recreate="never") as batch:
        batch.add_column(sa.Column("run_times", sa.Text()))
    op.create_table(
        "events",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "number", name="pk_events"),
    )
    op.create_table(
        "rollouts",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("running_on", sa.String(64)),
        sa.Column("waiting_on", sa.String(64)),
        sa.Column("stable", sa.String(80), nullable=False),
        sa.Column("stable_digest", sa.String(71), nullable=False),
        sa.Column("canary", sa.String(80), nullable=False),
        sa.Column("canary_digest", sa.String(71), nullable=False),
        sa.Column("accepted_by", sa.String(64)),
        sa.Column("acceptance", sa.Text()),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text()),
        sa.Column("revisions", sa.Text(), nullable=False),
        sa.Column("asked_revision", sa.BigInteger(), nullable=False),
        sa.Column("writes", sa.BigInteger(), nullable=False),
        sa.Column("started_at_us", sa.BigInteger(), nullable=False),
        sa.Column("started_by", sa.String(64), nullable=False),
        sa.Column("ended_at_us", sa.BigInteger()),
        sa.Column("decided_by", sa.String(64)),
        sa.PrimaryKeyConstraint("project", "id", name="pk_rollouts"),
        sa.UniqueConstraint("project", "running_on", name="uq_rollouts_project_running_on"),
        sa.UniqueConstraint("project", "waiting_on", name="uq_rollouts_project_waiting_on"),
    )
    op.create_index("ix_rollouts_endpoint", "rollouts", ["endpoint"])


def downgrade() -> None:
    """Remove them."""
    op.drop_table("rollouts")
    op.drop_table("events")
    with op.batch_alter_table("gateways") as batch:
        batch.drop_column("run_times")
    with op.batch_alter_table("stores") as batch:
        batch.drop_column("event")
