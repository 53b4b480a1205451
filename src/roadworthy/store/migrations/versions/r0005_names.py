"""Names of keys, and wider columns for names that consist of a key's and an instance's."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_WIDER = (
    ("audit_entries", "actor", 64, 200),
    ("record_files", "blob", 200, 400),
    ("gateways", "id", 64, 200),
    ("request_counts", "gateway", 64, 200),
)
_REFERENCE = "fk_request_counts_gateways"


def upgrade() -> None:
    """Name existing keys by their ids; the first bootstrap key of the gateway on the same machine becomes `local`."""
    with op.batch_alter_table("keys", recreate="never") as batch:
        batch.add_column(sa.Column("name", sa.String(64)))
    op.execute("UPDATE keys SET name = id")
    op.execute(
        "UPDATE keys SET name = 'local' WHERE id = (SELECT id FROM keys WHERE role = 'gateway' AND created_by = 'bootstrap' "
        "ORDER BY created_at_us, id LIMIT 1)"
    )
    with op.batch_alter_table("keys") as batch:
        batch.alter_column("name", existing_type=sa.String(64), nullable=False)
        batch.create_unique_constraint("uq_keys_project_name", ["project", "name"])
    _alter(1)


def downgrade() -> None:
    """Remove the names."""
    _alter(-1)
    with op.batch_alter_table("keys") as batch:
        batch.drop_constraint("uq_keys_project_name", type_="unique")
        batch.drop_column("name")


def _alter(step: int) -> None:
    """Drop the reference meanwhile: SQLite recreates a table, which would delete the rows that refer to it."""
    with op.batch_alter_table("request_counts") as batch:
        batch.drop_constraint(_REFERENCE, type_="foreignkey")
    for table, column, *sizes in _WIDER:
        before, after = sizes[::step]
        with op.batch_alter_table(table) as batch:
            batch.alter_column(column, existing_type=sa.String(before), type_=sa.String(after), existing_nullable=False)
    with op.batch_alter_table("request_counts") as batch:
        batch.create_foreign_key(_REFERENCE, "gateways", ["project", "gateway"], ["project", "id"], ondelete="CASCADE")
