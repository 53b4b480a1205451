"""Grants of a version's code."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column; existing versions have no grants."""
    with op.batch_alter_table("versions", recreate="never") as batch:
        batch.add_column(sa.Column("grants", sa.Text, nullable=False, server_default="[]"))


def downgrade() -> None:
    """Remove the column."""
    with op.batch_alter_table("versions") as batch:
        batch.drop_column("grants")
