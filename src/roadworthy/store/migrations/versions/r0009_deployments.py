"""A version on its way to an endpoint becomes a row of the rollouts."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_PENDING: dict[str, Any] = {
    "pending": sa.String(80),
    "pending_state": sa.String(16),
    "pending_reason": sa.Text(),
    "pending_code": sa.String(64),
    "pending_since_us": sa.BigInteger(),
}
_INSERT = sa.text(
    "INSERT INTO rollouts (project, id, endpoint, running_on, waiting_on, stable, stable_digest, canary, canary_digest, plan, "
    "state, evidence, revisions, asked_revision, writes, started_at_us, started_by, ended_at_us, decided_by) VALUES (:project, "
    ":id, :name, :running_on, :waiting_on, '', '', :pending, :digest, :plan, :state, :evidence, '[]', :revision, 0, "
    ":pending_since_us, :changed_by, :ended_at_us, :decided_by)"
)
_ORDERED = sa.text(
    "SELECT e.*, v.digest, s.revision, r.id AS running, w.id AS waiting FROM endpoints e JOIN stores s ON s.project = e.project "
    "JOIN versions v ON v.project = e.project AND e.pending = v.model || ':' || v.version "
    "LEFT JOIN rollouts r ON r.project = e.project AND r.running_on = e.name "
    "LEFT JOIN rollouts w ON w.project = e.project AND w.waiting_on = e.name WHERE e.pending IS NOT NULL"
)
_PLAN: dict[str, Any] = {"strategy": "all-at-once", "steps": [], "deadline_s": None, "format": 2}


def upgrade() -> None:
    """Write the rows, open or failed, and drop the endpoints' columns."""
    connection = op.get_bind()
    for number, row in enumerate(connection.execute(_ORDERED).mappings().all()):
        connection.execute(_INSERT, _deployment(number, dict(row)))
    with op.batch_alter_table("endpoints") as batch:
        for name in _PENDING:
            batch.drop_column(name)


def _deployment(number: int, row: dict[str, Any]) -> dict[str, Any]:
    failed = row["pending_state"] == "FAILED" or row["waiting"] is not None
    rollout_id = f"rollout-{row['pending_since_us'] // 1_000:012x}{number:020x}"
    state = {"rollout": rollout_id, "generation": row["generation"], "format": 1}
    if failed:
        why = {"code": row["pending_code"] or "superseded", "text": row["pending_reason"] or ""}
        outcome = "not-started" if row["pending_state"] == "FAILED" else "aborted"
        state |= {"phase": "FINISHED", "ends_as": outcome, **why}
    return {
        **row,
        "id": rollout_id,
        "running_on": None if failed or row["running"] else row["name"],
        "waiting_on": row["name"] if row["running"] and not failed else None,
        "plan": json.dumps(_PLAN),
        "state": json.dumps(state),
        "evidence": '{"format": 1}',
        "ended_at_us": row["changed_at_us"] if failed else None,
        "decided_by": "controller" if failed else None,
    }


def downgrade() -> None:
    """Put versions on their way back at their endpoints, without those that failed, and delete deployments."""
    with op.batch_alter_table("endpoints") as batch:
        for name, kind in _PENDING.items():
            batch.add_column(sa.Column(name, kind))
    op.execute(
        "UPDATE endpoints SET pending_state = 'LOADING', (pending, pending_since_us) = (SELECT canary, started_at_us FROM "
        "rollouts r WHERE r.project = endpoints.project AND r.endpoint = endpoints.name AND r.stable = '' AND r.ended_at_us IS "
        "NULL) WHERE EXISTS (SELECT 1 FROM rollouts r WHERE r.project = endpoints.project AND r.endpoint = endpoints.name AND "
        "r.stable = '' AND r.ended_at_us IS NULL)"
    )
    op.execute("DELETE FROM rollouts WHERE stable = ''")
