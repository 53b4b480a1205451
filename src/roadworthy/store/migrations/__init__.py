"""Alembic's folder: `env.py` runs revisions on a connection that is handed in; `versions/` holds them, oldest first."""
