"""Alembic's folder: `env.py` runs revisions on a given connection; `versions/` holds them, oldest first."""
