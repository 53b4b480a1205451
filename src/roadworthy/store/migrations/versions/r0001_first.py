"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table."""
    _registry()
    _access()
    _telemetry()


def _registry() -> None:
    """Versions, endpoints and the store itself."""
    op.create_table(
        "endpoints",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("current", sa.String(80)),
        sa.Column("previous", sa.String(80)),
        sa.Column("pending", sa.String(80)),
        sa.Column("pending_state", sa.String(16)),
        sa.Column("pending_reason", sa.Text()),
        sa.Column("pending_code", sa.String(64)),
        sa.Column("pending_since_us", sa.BigInteger()),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("changed_at_us", sa.BigInteger(), nullable=False),
        sa.Column("changed_by", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("project", "name", name="pk_endpoints"),
    )
    op.create_table(
        "sequences",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("last_version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("project", "model", name="pk_sequences"),
    )
    op.create_table(
        "stores",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("epoch", sa.String(64), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project", name="pk_stores"),
    )
    op.create_table(
        "versions",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("runtimes", sa.Text(), nullable=False),
        sa.Column("allowed_by", sa.String(64)),
        sa.Column("pushed_at_us", sa.BigInteger(), nullable=False),
        sa.Column("pushed_by", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("project", "model", "version", name="pk_versions"),
        sa.UniqueConstraint("project", "model", "digest", name="uq_versions_project_model_digest"),
    )


def _access() -> None:
    """Keys and the audit trail."""
    op.create_table(
        "audit_entries",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("verb", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "id", name="pk_audit_entries"),
    )
    op.create_index("ix_audit_entries_at_us", "audit_entries", ["at_us"])
    op.create_table(
        "keys",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("endpoints", sa.Text()),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("project", "id", name="pk_keys"),
        sa.UniqueConstraint("sha256", name="uq_keys_sha256"),
    )


def _telemetry() -> None:
    """Reports of gateways."""
    op.create_table(
        "gateways",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("boot", sa.String(64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("seen_at_us", sa.BigInteger(), nullable=False),
        sa.Column("workers", sa.Text(), nullable=False),
        sa.Column("lost_records", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project", "id", name="pk_gateways"),
    )
    op.create_table(
        "record_files",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("blob", sa.String(200), nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("first_us", sa.BigInteger(), nullable=False),
        sa.Column("last_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project", "blob", name="pk_record_files"),
    )
    op.create_index("ix_record_files_last_us", "record_files", ["last_us"])
    op.create_table(
        "request_counts",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("gateway", sa.String(64), nullable=False),
        sa.Column("boot", sa.String(64), nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("outcome", sa.String(64), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "project", "gateway", "boot", "endpoint", "generation", "digest", "outcome", name="pk_request_counts"
        ),
        sa.ForeignKeyConstraint(
            ["project", "gateway"],
            ["gateways.project", "gateways.id"],
            name="fk_request_counts_gateways",
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    """Drop every table."""
    for table in (
        "request_counts",
        "versions",
        "stores",
        "sequences",
        "record_files",
        "keys",
        "gateways",
        "endpoints",
        "audit_entries",
    ):
        op.drop_table(table)
