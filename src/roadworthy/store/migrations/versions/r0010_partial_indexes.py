"""An index of its own for rollouts, for deployments, and for those that have not ended: no query passes over the others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

_BEFORE = ("ix_rollouts_project_endpoint_id", ["project", "endpoint", "id"])
_PARTS = {
    "ix_rollouts_measured": (["project", "id"], "stable <> ''"),
    "ix_rollouts_measured_on": (["project", "endpoint", "id"], "stable <> ''"),
    "ix_rollouts_deployed_on": (["project", "endpoint", "id"], "stable = ''"),
    "ix_rollouts_open": (["project", "endpoint"], "ended_at_us IS NULL"),
}
"""Columns and condition of each new index."""


def upgrade() -> None:
    """Replace the index."""
    op.drop_index(_BEFORE[0], "rollouts")
    for name, (columns, condition) in _PARTS.items():
        part = sa.text(condition)
        op.create_index(name, "rollouts", columns, sqlite_where=part, postgresql_where=part)


def downgrade() -> None:
    """Put it back."""
    for name in _PARTS:
        op.drop_index(name, "rollouts")
    op.create_index(_BEFORE[0], "rollouts", _BEFORE[1])
