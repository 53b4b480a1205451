"""Paths that are never granted to a package: the places of keys, packages, records and the database."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadworthy.cli.plans import private_paths
from roadworthy.foundation.confine.grants import check_grants
from roadworthy.foundation.errors import PackageRefused
from roadworthy.settings import load_settings


def test_g5_what_the_settings_name_is_private(tmp_path: Path) -> None:
    """The home, the settings file, blobs, and a SQLite database with its journal; a neighbouring folder is not."""
    (tmp_path / "roadworthy.toml").write_text(f"""
        [general]
        home = "{tmp_path}/home"
        [control]
        database_url = "sqlite:///{tmp_path}/db/roadworthy.db?timeout=3"
        blob_folder = "{tmp_path}/blobs"
    """)
    private = private_paths(load_settings(environment={}, folder=tmp_path))
    closed = ("home/control", "roadworthy.toml", "blobs", "db", "db/roadworthy.db", "db/roadworthy.db-wal")
    for name in closed:
        with pytest.raises(PackageRefused, match="private files of Roadworthy"):
            check_grants([f"read:{tmp_path}/{name}"], ["read:/"], private)
    check_grants([f"read:{tmp_path}/data"], ["read:/"], private)


def test_a_database_on_a_server_is_no_path(tmp_path: Path) -> None:
    """Nor does its address become one."""
    environment = {"ROADWORTHY_HOME": str(tmp_path), "ROADWORTHY_CONTROL_DATABASE_URL": "postgresql://db/roadworthy"}
    assert private_paths(load_settings(environment=environment, folder=tmp_path)) == (tmp_path,)
