"""G10: a missing, empty or foreign database is never taken for a new one, and nothing is written to it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from roadworthy.audit.entries import AuditEvent, append
from roadworthy.foundation.errors import StoreError, Unavailable
from roadworthy.store.engine import begin_life, bump_revision, open_database, read_revision
from roadworthy.store.epochs import RESTORED, EpochFile


def url(folder: Path) -> str:
    """A database in that folder."""
    return f"sqlite:///{folder / 'roadworthy.db'}"


def made(folder: Path) -> str:
    """Create a database there; return its epoch."""
    folder.mkdir(exist_ok=True)
    database = open_database(url(folder))
    with database.begin() as connection:
        epoch = read_revision(connection)[0]
    database.close()
    return epoch


def refused(folder: Path, expected: str | None) -> str:
    """The code with which opening it is refused; the hint says what to do, and the file is left as it was."""
    file = folder / "roadworthy.db"
    before = file.read_bytes() if file.exists() else None
    with pytest.raises(StoreError) as caught:
        open_database(url(folder), expected=expected)
    assert "backup" in str(caught.value.hint)
    if caught.value.code != "database-damaged":
        assert "roadworthy restore" in str(caught.value.hint)
        assert "--begin-anew" in str(caught.value.hint)
    assert (file.read_bytes() if file.exists() else None) == before
    return caught.value.code


def test_g10_a_database_that_is_gone(tmp_path: Path) -> None:
    """If an epoch is known, no new database is created; otherwise one is."""
    assert refused(tmp_path / "none", "epoch-1") == "database-missing"
    assert not (tmp_path / "none").exists()
    assert made(tmp_path / "none")


def test_g10_a_database_without_tables(tmp_path: Path) -> None:
    """As SQLite leaves one after opening a missing file."""
    with closing(sqlite3.connect(tmp_path / "roadworthy.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE x (y)")
        connection.execute("DROP TABLE x")
    assert refused(tmp_path, "epoch-1") == "database-missing"


def test_g10_a_database_that_has_lost_its_epoch(tmp_path: Path) -> None:
    """With all tables, but without the row that has its epoch."""
    epoch = made(tmp_path)
    with closing(sqlite3.connect(tmp_path / "roadworthy.db")) as connection:
        connection.execute("DELETE FROM stores")
        connection.commit()
    assert refused(tmp_path, epoch) == "database-missing"


@pytest.mark.parametrize("expected", [None, "epoch-1"])
def test_g10_somebody_elses_database(tmp_path: Path, expected: str | None) -> None:
    """It is not a Roadworthy database, and no table is created in it."""
    with closing(sqlite3.connect(tmp_path / "roadworthy.db")) as connection:
        connection.execute("CREATE TABLE invoices (id)")
        connection.commit()
    assert refused(tmp_path, expected) == "database-damaged"


def test_g10_another_installations_database(tmp_path: Path) -> None:
    """Its epoch differs; an epoch that this store had before a restore is accepted."""
    mine, other = made(tmp_path / "mine"), made(tmp_path / "other")
    assert refused(tmp_path / "other", mine) == "database-replaced"
    database = open_database(url(tmp_path / "mine"), expected=mine)
    with database.begin() as connection:
        append(connection, 1, AuditEvent("key-a", RESTORED, mine, {}))
        later = begin_life(connection)
    database.close()
    for expected in (mine, later, None):
        open_database(url(tmp_path / "mine"), expected=expected).close()
    assert refused(tmp_path / "mine", other) == "database-replaced"


def test_g10_an_epoch_is_remembered_and_given_up_by_its_name(tmp_path: Path) -> None:
    """The last seen epoch is expected, over restarts; an unreadable file expects nothing."""
    path = tmp_path / "epoch"
    file = EpochFile(path)
    assert file.expected() is None
    for epoch in ("epoch-1", "epoch-1", "epoch-2"):
        file.see(epoch)
        assert EpochFile(path).expected() == epoch
    assert path.stat().st_mode & 0o777 == 0o600
    assert EpochFile(path, give_up="epoch-2").expected() is None
    assert EpochFile(path, give_up="epoch-1").expected() == "epoch-2"
    path.write_bytes(b"\xff")
    assert EpochFile(path).expected() is None
    assert EpochFile(path, known="epoch-3").expected() == "epoch-3"
    assert EpochFile(path, known="epoch-3", give_up="epoch-3").expected() is None
    EpochFile(None).see("epoch-1")
    assert EpochFile(None).expected() is None


def test_g10_a_database_that_is_deleted_or_replaced_while_it_is_open(tmp_path: Path) -> None:
    """Nothing is written to a file that no process will read again, and no file is created there; put back, it works
    again."""
    epoch = made(tmp_path)
    database = open_database(url(tmp_path), expected=epoch)
    file, aside = tmp_path / "roadworthy.db", tmp_path / "aside"
    for replacement in (None, b"another"):
        file.rename(aside)
        if replacement is not None:
            file.write_bytes(replacement)
        with pytest.raises(Unavailable) as caught, database.begin() as connection:
            bump_revision(connection)
        assert caught.value.code == "database-missing"
        assert file.exists() == (replacement is not None)
        aside.replace(file)
        with database.begin() as connection:
            assert read_revision(connection) == (epoch, 1)
    database.close()


def test_g10_a_database_that_is_damaged_while_it_is_open(tmp_path: Path) -> None:
    """The error is the same as at the start."""
    made(tmp_path)
    database = open_database(url(tmp_path))
    file = tmp_path / "roadworthy.db"
    with file.open("r+b") as handle:
        handle.seek(4_096)
        handle.write(b"\xff" * (file.stat().st_size - 4_096))
    database._engine.dispose()  # and with its connections the pages that they have read
    with pytest.raises(Unavailable) as caught, database.begin() as connection:
        read_revision(connection)
    assert caught.value.code == "database-damaged"
    database.close()
