"""Operations of the command line on the database itself, on the control plane's machine: backup, restore, and an admin key
when all are lost. They need no running control plane."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import make_url

from roadworthy.access import keys
from roadworthy.audit.entries import AuditEvent, append
from roadworthy.foundation.clock import Clock
from roadworthy.foundation.errors import Conflict, InvalidRequest, NotFound, StoreError
from roadworthy.foundation.files import fsync_folder, temporary_beside
from roadworthy.foundation.keys import hash_key, make_key
from roadworthy.store.connection import Connection
from roadworthy.store.engine import begin_life, bump_revision, open_database, read_revision

RESTORE, RECOVERY = "restore", "recovery"
"""Actors in the audit trail: an operator with write access to the database itself."""
_COMPANIONS = ("-wal", "-shm")


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did.

    Attributes:
        epoch, revision: of the database after the restore.
        aside: where the previous database was moved, or None.
    """

    epoch: str
    revision: int
    aside: Path | None = None


def back_up(url: str, copy: Path) -> None:
    """Write the database, as it is now, to the new file `copy`. The database may be in use.

    Raises:
        InvalidRequest: "sqlite-only".
        NotFound: "database-missing".
        Conflict: "file-exists".
        StoreError: "database-damaged".
    """
    database = _existing(_sqlite_file(url))
    if copy.exists():
        raise Conflict(f"{copy} already exists", code="file-exists", hint="name a new file for the backup")
    try:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("VACUUM INTO ?", (str(copy),))
    except sqlite3.DatabaseError as error:
        copy.unlink(missing_ok=True)
        raise StoreError(
            f"the database cannot be copied to {copy}: {error}",
            code="database-damaged",
            hint="check the disk that receives the backup; if the database is damaged, restore the last good backup",
        ) from error
    fsync_folder(copy.absolute().parent)


def begin_again(url: str, clock: Clock) -> Restored:
    """Begin a new epoch of the database, which may be in use. Gateways follow it, whatever revisions they have seen.

    Raises:
        NotFound: "database-missing".
        StoreError: "database-damaged", "database-newer".
        Unavailable: "database-busy", "disk-full".
    """
    with _opened(url) as connection:
        before, revision = read_revision(connection)
        begin_life(connection)
        epoch, now = read_revision(connection)
        append(connection, clock.now_us(), AuditEvent(RESTORE, "restored", before, {"revision": revision, "epoch": epoch}))
    return Restored(epoch, now)


def recover_admin(url: str, clock: Clock) -> tuple[str, str]:
    """Add a new admin key to the database, which may be in use; return its id and its text.

    Raises:
        As `begin_again`.
    """
    key_id, text = make_key()
    with _opened(url) as connection:
        keys.add(connection, keys.Key(key_id, hash_key(text), keys.ADMIN, None, clock.now_us(), RECOVERY))
        bump_revision(connection)
        append(connection, clock.now_us(), AuditEvent(RECOVERY, "key-create", key_id, {"role": keys.ADMIN}))
    return key_id, text


def put_in_place(url: str, backup: Path, clock: Clock) -> Restored:
    """Replace the database by a copy of `backup`, in a new epoch, and keep the previous one. No control plane may be running.

    The copy is complete, checked and migrated before any file is moved.

    Raises:
        InvalidRequest: "sqlite-only".
        FileNotFoundError: the backup does not exist.
        StoreError: "not-a-backup", "database-damaged", "database-newer".
    """
    database = _sqlite_file(url)
    staged = temporary_beside(database)
    try:
        shutil.copyfile(backup, staged)
        if (log := _with(backup, "-wal")).exists():  # the backup is a plain copy of a database in use
            shutil.copyfile(log, _with(staged, "-wal"))
        _check(staged)
        restored = begin_again(f"sqlite:///{staged}", clock)
        aside = _move_aside(database, clock)
        staged.replace(database)
        fsync_folder(database.parent)
    finally:
        for companion in ("", *_COMPANIONS):
            _with(staged, companion).unlink(missing_ok=True)
    return replace(restored, aside=aside)


@contextlib.contextmanager
def _opened(url: str) -> Iterator[Connection]:
    """One transaction on an existing database."""
    if make_url(url).get_backend_name() == "sqlite":
        _existing(_sqlite_file(url))
    with contextlib.closing(open_database(url)) as database, database.begin() as connection:
        yield connection


def _check(copy: Path) -> None:
    """Refuse another program's database, which would be taken for a new one of ours."""
    try:
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            found = connection.execute("SELECT epoch FROM stores").fetchone()
    except sqlite3.DatabaseError:
        found = None
    if found is None:
        raise StoreError(
            "the file is not a backup of a Roadworthy database",
            code="not-a-backup",
            hint="name a file written by `roadworthy backup` or SQLite's VACUUM INTO",
        )


def _move_aside(database: Path, clock: Clock) -> Path | None:
    """Move the companion files first: they belong to this database and must not be found next to the new one."""
    if not database.exists():
        return None
    moment = datetime.fromtimestamp(clock.now_us() / 1e6, tz=UTC)
    aside = database.with_name(f"{database.name}.{moment:%Y%m%dT%H%M%S.%fZ}")
    aside.hardlink_to(database)
    for companion in _COMPANIONS:
        with contextlib.suppress(FileNotFoundError):
            _with(database, companion).rename(_with(aside, companion))
    return aside


def _with(database: Path, companion: str) -> Path:
    return database.with_name(f"{database.name}{companion}")


def _sqlite_file(url: str) -> Path:
    found = make_url(url)
    if found.get_backend_name() != "sqlite" or found.database is None:
        raise InvalidRequest(
            "only SQLite databases have backup files, and control.database_url names another kind of database",
            code="sqlite-only",
            hint="restore with the database's own tools, then run `roadworthy restore` without a file",
        )
    return Path(found.database)


def _existing(database: Path) -> Path:
    if not database.exists():
        raise NotFound(
            f"there is no database at {database}",
            code="database-missing",
            hint="name the backup: `roadworthy restore FILE`",
        )
    return database
