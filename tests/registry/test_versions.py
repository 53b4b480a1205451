"""Numbered versions in the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection

from roadworthy.foundation.errors import NotFound
from roadworthy.foundation.references import VersionReference
from roadworthy.registry import versions
from roadworthy.registry.versions import Version
from roadworthy.store.engine import open_database


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    """An open transaction on a fresh database."""
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    with database.begin() as connection:
        yield connection
    database.close()


def pushed(model: str, digest: str) -> Version:
    """A version as push describes it, before it has its number."""
    return Version(VersionReference(model, 1), digest, 7, {"inputs": []}, ("onnx-exact", "native"), None, 5, "key-a")


def test_numbers_count_up_for_each_model_and_are_never_given_twice(connection: Connection) -> None:
    """Each model counts from 1; deleting the newest version does not free its number."""
    assert [versions.register(connection, pushed("a", d)).reference.version for d in ("d1", "d2")] == [1, 2]
    assert versions.register(connection, pushed("b", "d1")).reference == VersionReference("b", 1)
    versions.remove(connection, VersionReference("a", 2))
    assert versions.register(connection, pushed("a", "d2")).reference == VersionReference("a", 3)


def test_what_was_registered_is_what_is_read(connection: Connection) -> None:
    """Every attribute survives; only the permission to execute code may be added later."""
    version = versions.register(connection, pushed("a", "d1"))
    assert versions.get(connection, version.reference) == version == pushed("a", "d1")
    versions.allow(connection, version.reference, "key-b")
    assert versions.get(connection, version.reference).allowed_by == "key-b"


def test_grants_are_kept_with_the_version(connection: Connection) -> None:
    """In their order; a version without grants has none."""
    granted = replace(pushed("a", "d1"), grants=("network", "tcp:1"))
    assert versions.register(connection, granted).grants == ("network", "tcp:1")
    assert versions.register(connection, pushed("a", "d2")).grants == ()


def test_found_by_digest_of_a_model_or_of_any(connection: Connection) -> None:
    """The same package may be a version of two models."""
    versions.register(connection, pushed("a", "d1"))
    assert versions.find_digest(connection, "d1", "b") is None
    assert versions.find_digest(connection, "d2") is None
    found = versions.find_digest(connection, "d1")
    assert found is not None
    assert found.reference == VersionReference("a", 1)


def test_what_is_not_there_is_not_found(connection: Connection) -> None:
    """The code says which kind of thing is missing."""
    with pytest.raises(NotFound) as caught:
        versions.get(connection, VersionReference("a", 1))
    assert caught.value.code == "unknown-version"


def test_pages_go_on_after_their_cursor(connection: Connection) -> None:
    """Models by name, versions by number, never more than asked for."""
    for model in ("c", "a", "b"):
        for digest in ("d1", "d2", "d3"):
            versions.register(connection, pushed(model, digest))
    assert versions.list_models(connection, "", 2) == [("a", 3, 3), ("b", 3, 3)]
    assert versions.list_models(connection, "b", 2) == [("c", 3, 3)]
    numbers = [v.reference.version for v in versions.list_versions(connection, "a", 1, 10)]
    assert numbers == [2, 3]
