"""The file that Alembic runs. `store/engine.py` passes an open connection, inside its transaction."""

from __future__ import annotations

from alembic import context

from roadworthy.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
