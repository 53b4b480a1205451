"""Backup and restore of the database by command: whole or not at all, private, and in a new epoch."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.control.recovery import back_up, begin_again, put_in_place, recover_admin
from roadworthy.foundation.clock import SystemClock
from roadworthy.foundation.errors import Conflict, InvalidRequest, NotFound, StoreError
from roadworthy.foundation.files import keep_private
from roadworthy.store.engine import bump_revision, open_database, read_revision
from tests.waiting import eventually

CLOCK = SystemClock()


@pytest.fixture
def private() -> Iterator[None]:
    """With a private umask, like the commands."""
    before = os.umask(0o022)
    keep_private()
    yield
    os.umask(before)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database at revision 2, in its own folder."""
    url = f"sqlite:///{tmp_path / 'control' / 'roadworthy.db'}"
    grow(url)
    return url


def grow(url: str) -> tuple[str, int]:
    """Make one change; return epoch and revision."""
    database = open_database(url)
    with database.begin() as connection:
        bump_revision(connection)
        found = read_revision(connection)
    database.close()
    return found


def read(url: str) -> tuple[str, int]:
    """Epoch and revision."""
    database = open_database(url)
    with database.begin() as connection:
        found = read_revision(connection)
    database.close()
    return found


@pytest.mark.usefixtures("private")
def test_a_backup_goes_back_in_a_new_epoch_and_keeps_what_was_there(tmp_path: Path, url: str) -> None:
    """The backup stays as it was, and so does the replaced database, with its last change."""
    copy = tmp_path / "backup.db"
    back_up(url, copy)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    bytes_before = copy.read_bytes()
    epoch, later = grow(url)
    restored = put_in_place(url, copy, CLOCK)
    assert read(url) == (restored.epoch, restored.revision)
    assert restored.epoch != epoch
    assert restored.revision == later
    assert copy.read_bytes() == bytes_before
    assert restored.aside is not None
    assert read(f"sqlite:///{restored.aside}") == (epoch, later)
    folder = tmp_path / "control"
    assert not [path for path in folder.iterdir() if ".tmp-" in path.name]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_plain_copy_with_its_journal_is_a_backup(tmp_path: Path, url: str) -> None:
    """The last changes of a database in use are in its -wal companion; a leftover companion belongs to the other file."""
    database = open_database(url)
    with database.begin() as connection:
        bump_revision(connection)
        known = read_revision(connection)
    for companion in ("", "-wal"):
        source = tmp_path / "control" / f"roadworthy.db{companion}"
        (tmp_path / f"copy.db{companion}").write_bytes(source.read_bytes())
    database.close()
    restored = put_in_place(url, tmp_path / "copy.db", CLOCK)
    assert restored.revision == known[1] + 1
    assert read(url) == (restored.epoch, restored.revision)


@pytest.mark.parametrize("damage", ["empty", "text", "foreign", "torn"])
def test_what_is_no_backup_changes_nothing(tmp_path: Path, url: str, damage: str) -> None:
    """Another program's database, an empty file, a truncated one: refused before anything is moved."""
    copy = tmp_path / "copy.db"
    if damage == "foreign":
        with closing(sqlite3.connect(copy)) as connection, connection:
            connection.execute("CREATE TABLE stores (x)")
    elif damage == "torn":
        back_up(url, copy)
        copy.write_bytes(copy.read_bytes()[: copy.stat().st_size // 2])
    else:
        copy.write_bytes(b"" if damage == "empty" else b"no database" * 1_000)
    known = read(url)
    with pytest.raises(StoreError) as caught:
        put_in_place(url, copy, CLOCK)
    assert caught.value.code in ("not-a-backup", "database-damaged")
    assert read(url) == known
    assert [path.name for path in (tmp_path / "control").iterdir()] == ["roadworthy.db"]


def test_a_database_that_is_gone_comes_back_from_its_backup(tmp_path: Path, url: str) -> None:
    """Without a backup, restore creates no database and says what to name."""
    copy = tmp_path / "copy.db"
    back_up(url, copy)
    (tmp_path / "control" / "roadworthy.db").unlink()
    for attempt in (lambda: begin_again(url, CLOCK), lambda: back_up(url, tmp_path / "other.db")):
        with pytest.raises(NotFound) as caught:
            attempt()
        assert caught.value.code == "database-missing"
    assert put_in_place(url, copy, CLOCK).aside is None
    assert read(url)[1] == 3


def test_a_backup_overwrites_nothing_and_is_for_sqlite(tmp_path: Path, url: str) -> None:
    """Each refusal says what to do instead."""
    there = tmp_path / "there.db"
    there.write_bytes(b"mine")
    with pytest.raises(Conflict, match="exists"):
        back_up(url, there)
    assert there.read_bytes() == b"mine"
    for attempt in (
        lambda: back_up("postgresql+pg8000://x/y", there),
        lambda: put_in_place("postgresql://x/y", there, CLOCK),
    ):
        with pytest.raises(InvalidRequest) as caught:
            attempt()
        assert caught.value.code == "sqlite-only"


def test_a_running_control_plane_publishes_the_new_epoch(control: Any, admin: httpx.Client, gateway: Any) -> None:
    """At its next look at the database; the audit trail has the actor and the previous epoch."""
    seen = gateway.snapshot().json()
    restored = begin_again(f"sqlite:///{control.folder / 'roadworthy.db'}", CLOCK)
    eventually(lambda: gateway.snapshot().json()["epoch"] == restored.epoch, "gateways are given the new epoch")
    entry = admin.get("/api/v1/audit").json()["items"][0]
    assert (entry["actor"], entry["verb"], entry["subject"]) == ("restore", "restored", seen["epoch"])
    assert entry["detail"] == {"revision": seen["revision"], "epoch": restored.epoch}


def test_who_has_lost_every_admin_key_makes_one_in_the_database(control: Any, admin: httpx.Client) -> None:
    """The running control plane accepts it after its next look; the audit trail records it."""
    key_id, text = recover_admin(f"sqlite:///{control.folder / 'roadworthy.db'}", CLOCK)
    with control.client(text) as client:
        eventually(lambda: client.get("/api/v1/status").status_code == 200, "the key is known")
    entry = admin.get("/api/v1/audit").json()["items"][0]
    assert (entry["actor"], entry["verb"], entry["subject"]) == ("recovery", "key-create", key_id)
