"""Every table, described with SQLAlchemy Core. A change here needs a migration; a test compares the two.

Each table has a `project`, which `connection.py` adds to each statement, and text ids. Times are microseconds since 1970 UTC,
documents are JSON text.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

PROJECT = "default"
"""The project of an installation that has no other."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _project() -> Column[str]:
    return Column("project", String(64), primary_key=True)


def _part(name: str, condition: str, *columns: str) -> Index:
    """An index of the rows that meet the condition. A query uses it if it has the same condition without parameters."""
    return Index(name, *columns, sqlite_where=text(condition), postgresql_where=text(condition))


stores = Table(
    "stores",
    metadata,
    _project(),
    Column("epoch", String(64), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("event", BigInteger, nullable=False, server_default="0"),
)
"""The projects, one row each. All have the same epoch, which names a life of the database; each counts its own revisions and
events. `event` is the newest event's number. The transaction that writes an event increments it, so numbers
follow commit order."""

versions = Table(
    "versions",
    metadata,
    _project(),
    Column("model", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", String(71), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("signature", Text, nullable=False),
    Column("runtimes", Text, nullable=False),
    Column("allowed_by", String(64)),
    Column("pushed_at_us", BigInteger, nullable=False),
    Column("pushed_by", String(64), nullable=False),
    Column("grants", Text, nullable=False, server_default="[]"),
    UniqueConstraint("project", "model", "digest"),
)

sequences = Table(
    "sequences",
    metadata,
    _project(),
    Column("model", String(64), primary_key=True),
    Column("last_version", Integer, nullable=False),
)
"""The highest number that a model ever had: numbers of deleted versions are not used again."""

endpoints = Table(
    "endpoints",
    metadata,
    _project(),
    Column("name", String(64), primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("current", String(80)),
    Column("previous", String(80)),
    Column("policy", Text, nullable=False),
    Column("signature", Text, nullable=False),
    Column("changed_at_us", BigInteger, nullable=False),
    Column("changed_by", String(64), nullable=False),
)

keys = Table(
    "keys",
    metadata,
    _project(),
    Column("id", String(64), primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("endpoints", Text),
    Column("created_at_us", BigInteger, nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    UniqueConstraint("sha256"),
    UniqueConstraint("project", "name"),
)
"""`name` identifies the gateways with this key: `<name>/<instance>`."""

audit_entries = Table(
    "audit_entries",
    metadata,
    _project(),
    Column("id", String(64), primary_key=True),
    Column("at_us", BigInteger, nullable=False, index=True),
    Column("actor", String(200), nullable=False),
    Column("verb", String(64), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("detail", Text, nullable=False),
)

gateways = Table(
    "gateways",
    metadata,
    _project(),
    Column("id", String(200), primary_key=True),
    Column("boot", String(64), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("seen_at_us", BigInteger, nullable=False),
    Column("workers", Text, nullable=False),
    Column("lost_records", BigInteger, nullable=False),
    Column("run_times", Text),
)

request_counts = Table(
    "request_counts",
    metadata,
    _project(),
    Column("gateway", String(200), primary_key=True),
    Column("boot", String(64), primary_key=True),
    Column("endpoint", String(64), primary_key=True),
    Column("generation", BigInteger, primary_key=True),
    Column("digest", String(71), primary_key=True),
    Column("outcome", String(64), primary_key=True),
    Column("count", BigInteger, nullable=False),
    ForeignKeyConstraint(["project", "gateway"], ["gateways.project", "gateways.id"], ondelete="CASCADE"),
)

record_files = Table(
    "record_files",
    metadata,
    _project(),
    Column("blob", String(400), primary_key=True),
    Column("endpoint", String(64), nullable=False),
    Column("rows", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("first_us", BigInteger, nullable=False),
    Column("last_us", BigInteger, nullable=False),
    Index(None, "project", "last_us"),
    Index(None, "project", "endpoint", "last_us"),
)

rollouts = Table(
    "rollouts",
    metadata,
    _project(),
    Column("id", String(64), primary_key=True),
    Column("endpoint", String(64), nullable=False),
    Column("running_on", String(64)),
    Column("waiting_on", String(64)),
    Column("stable", String(80), nullable=False),
    Column("stable_digest", String(71), nullable=False),
    Column("canary", String(80), nullable=False),
    Column("canary_digest", String(71), nullable=False),
    Column("accepted_by", String(64)),
    Column("acceptance", Text),
    Column("plan", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("verdict", Text),
    Column("revisions", Text, nullable=False),
    Column("asked_revision", BigInteger, nullable=False),
    Column("writes", BigInteger, nullable=False),
    Column("started_at_us", BigInteger, nullable=False),
    Column("started_by", String(64), nullable=False),
    Column("ended_at_us", BigInteger),
    Column("decided_by", String(64)),
    Column("feedback_closed_us", BigInteger),
    UniqueConstraint("project", "running_on"),
    UniqueConstraint("project", "waiting_on"),
    _part("ix_rollouts_measured", "stable <> ''", "project", "id"),
    _part("ix_rollouts_measured_on", "stable <> ''", "project", "endpoint", "id"),
    _part("ix_rollouts_deployed_on", "stable = ''", "project", "endpoint", "id"),
    _part("ix_rollouts_open", "ended_at_us IS NULL", "project", "endpoint"),
)
"""Every rollout and deployment; a deployment's `stable` is empty. `running_on` and `waiting_on` name the endpoint while the
rollout runs, or waits for the previous one to end: the database itself refuses a second one. `writes` counts changes of the row,
for compare-and-set. `feedback_closed_us`: when its feedback was deleted to save space; the rollout takes no further feedback
then, because duplicates could not be recognized."""

feedback = Table(
    "feedback",
    metadata,
    _project(),
    Column("rollout", String(64), primary_key=True),
    Column("signal", String(80), primary_key=True),
    Column("subject", String(64), primary_key=True),
    Column("prediction", String(64), nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("arm", String(16), key="variant", nullable=False),
    Column("bad", Integer, nullable=False),
    Column("value", Float),
    Column("given_at_us", BigInteger, nullable=False),
    Column("given_by", String(64), nullable=False),
    ForeignKeyConstraint(["project", "rollout"], ["rollouts.project", "rollouts.id"], ondelete="CASCADE"),
)
"""Facts about predictions: `signal` is a criterion's, or "metric." and a metric's name; `subject` counts once: the prediction, or
in a sticky rollout a metric's user as a hash. `bad` is 0 or 1; `value` is a metric's."""

events = Table(
    "events",
    metadata,
    _project(),
    Column("number", BigInteger, primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("detail", Text, nullable=False),
)

webhooks = Table(
    "webhooks",
    metadata,
    _project(),
    Column("id", String(64), primary_key=True),
    Column("url", Text, nullable=False),
    Column("secret", String(128), nullable=False),
    Column("events", Text),
    Column("endpoints", Text),
    Column("position", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("due_us", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("lost", BigInteger, nullable=False),
    Column("writes", BigInteger, nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
    Column("created_by", String(64), nullable=False),
)
"""Receivers of events, and the position of each. `secret` signs messages, so it is stored as it is; `writes` as in rollouts."""

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    _project(),
    Column("id", String(64), primary_key=True),
    Column("webhook", String(64), nullable=False),
    Column("event", BigInteger),
    Column("message", String(64), nullable=False),
    Column("type", String(64), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("took_ms", Integer, nullable=False),
    Column("status", Integer),
    Column("outcome", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    ForeignKeyConstraint(["project", "webhook"], ["webhooks.project", "webhooks.id"], ondelete="CASCADE"),
    Index(None, "project", "webhook", "id"),
)

kept_replies = Table(
    "kept_replies",
    metadata,
    _project(),
    Column("id", String(64), primary_key=True),
    Column("request", String(64), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("status", Integer),
    Column("reply", Text),
    Column("holder", String(64)),
    Index(None, "project", "at_us"),
)
"""Replies to requests with an idempotency key. `id` is the start of a hash of the caller, then the rest of a hash of caller,
operation and key; `request` is one of what was asked. `status` is null until the request has had its effect, and 0 until its
reply is kept. `holder` names the life of the control plane that carries the request out."""
