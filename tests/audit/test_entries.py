"""The audit trail."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from roadworthy.audit import entries
from roadworthy.audit.entries import AuditEvent, append, list_last
from roadworthy.store.engine import Database, open_database


def test_entries_are_read_newest_first_and_page_by_page(tmp_path: Path) -> None:
    """`before` continues where the last page ended."""
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    with database.begin() as connection:
        for number in range(5):
            append(connection, number, AuditEvent("key-a", "push", f"m:{number}", {"number": number}))
        first = list_last(connection, 2, None)
        second = list_last(connection, 9, first[-1]["id"])
    assert [entry["detail"]["number"] for entry in first + second] == [4, 3, 2, 1, 0]
    assert (first[0]["actor"], first[0]["verb"], first[0]["subject"], first[0]["at_us"]) == ("key-a", "push", "m:4", 4)
    database.close()


def test_entries_of_one_subject(tmp_path: Path) -> None:
    """A subject's entries are listed without the others, and no longer subject that starts like it is one of them."""
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    with database.begin() as connection:
        for number, subject in enumerate(("m:1", "m:2", "m:1", "m:11")):
            append(connection, number, AuditEvent("key-a", "push", subject, {}))
        assert [entry["at_us"] for entry in list_last(connection, 9, None, "m:1")] == [2, 0]
        assert [entry["at_us"] for entry in list_last(connection, 1, None, "m:1")] == [2]
    database.close()


def test_what_is_rolled_back_was_never_done(tmp_path: Path) -> None:
    """An entry is committed or rolled back together with its change."""
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    with pytest.raises(RuntimeError, match="stop"):
        _append_and_stop(database)
    with database.begin() as connection:
        assert list_last(connection, 1, None) == []
    database.close()


def _append_and_stop(database: Database) -> None:
    with database.begin() as connection:
        append(connection, 1, AuditEvent("key-a", "push", "m:1", {}))
        raise RuntimeError("stop")


def test_the_room_can_only_append() -> None:
    """No function here changes or deletes an entry."""
    tree = ast.parse(Path(str(entries.__file__)).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert "insert" in imported
    assert imported & {"update", "delete", "text"} == set()
