"""Feedback on predictions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the table, and the column that closes a rollout's feedback."""
    with op.batch_alter_table("rollouts", recreate="never") as batch:
        batch.add_column(sa.Column("feedback_closed_us", sa.BigInteger()))
    op.create_table(
        "feedback",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("rollout", sa.String(64), nullable=False),
        sa.Column("signal", sa.String(80), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("prediction", sa.String(64), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("arm", sa.String(16), nullable=False),
        sa.Column("bad", sa.Integer(), nullable=False),
        sa.Column("value", sa.Float()),
        sa.Column("given_at_us", sa.BigInteger(), nullable=False),
        sa.Column("given_by", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("project", "rollout", "signal", "subject", name="pk_feedback"),
        sa.ForeignKeyConstraint(
            ["project", "rollout"],
            ["rollouts.project", "rollouts.id"],
            name="fk_feedback_rollouts",
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_table("feedback")
    with op.batch_alter_table("rollouts") as batch:
        batch.drop_column("feedback_closed_us")
