"""The settings of a machine without any configuration, for the start documents of processes that tests start themselves."""

from __future__ import annotations

from pathlib import Path

from roadworthy.settings import Settings, load_settings


def default_settings() -> Settings:
    """Every setting at its default."""
    nowhere = Path("/nonexistent")
    return load_settings(environment={"ROADWORTHY_HOME": str(nowhere)}, folder=nowhere)
