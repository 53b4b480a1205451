"""Opens the database, brings it to this release's schema, and hands out transactions.

SQLite by default, PostgreSQL by URL. `control` opens one transaction for each operation and passes its connection down.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Engine, create_engine, event, insert, inspect, select, text, update
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from roadworthy.foundation.errors import StoreError, Unavailable
from roadworthy.foundation.files import private_folder
from roadworthy.foundation.ids import random_id
from roadworthy.store import epochs, postgresql
from roadworthy.store.connection import Connection
from roadworthy.store.postgresql import Lead
from roadworthy.store.tables import PROJECT, stores

HEAD = "0010"
"""The newest revision in migrations/versions; a test compares the two."""

KNOWN_REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010")
WAIT_S = 10.0
"""Longest wait of a transaction for a database that another process holds, in seconds."""
_ALEMBIC = "alembic_version"
_FULL = ("SQLITE_FULL", "53100")  # SQLite's name, PostgreSQL's number of it


class Database:
    """One project's view of an open database at this release's schema.

    Args:
        file: the database file, if there is one.

    Attributes:
        lead: whether this process is the leader among several control planes.
        shared: whether several control planes may use it.
        project: whose rows its transactions read and write.
    """

    def __init__(self, engine: Engine, file: Path | None = None) -> None:
        self._engine = engine
        self._file = file
        self._file_id = _file_id(file)
        self.shared = engine.dialect.name == "postgresql"
        self.lead = Lead(engine if self.shared else None)
        self.project = PROJECT

    def of(self, project: str) -> Database:
        """The same database for another project."""
        view = copy(self)
        view.project = project
        return view

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction: committed at the end, rolled back on any error. No other transaction runs meanwhile, in any process.

        Raises:
            Unavailable: "database-busy": another process held the database too long; "disk-full"; "database-missing": its file
                was deleted or replaced; "database-damaged".
        """
        if self._file is not None and _file_id(self._file) != self._file_id:
            raise Unavailable(  # a deleted file that is open can still be written, but no process will ever read it again
                "the database file was deleted or replaced while the control plane was running",
                code="database-missing",
                hint="put the file or the last backup back in place, and start the control plane again",
            )
        try:
            with self._engine.begin() as connection:
                yield Connection(connection, self.project)
        except (DBAPIError, PoolTimeout, ConnectionError) as error:
            if _is_full(error):
                raise disk_full() from error
            if _is_damaged(error):
                damaged = _damaged()
                raise Unavailable(damaged.message, code=damaged.code, hint=damaged.hint) from error
            if not _may_pass(error):
                raise
            raise Unavailable(
                "the database is busy or unavailable",
                code="database-busy",
                hint="try again; if it persists, check the disk and which other programs have the database open",
                retry_after_s=1.0,
            ) from error

    def close(self) -> None:
        """Close all connections, of all projects."""
        self.lead.close()
        self._engine.dispose()


def _may_pass(error: Exception) -> bool:
    if isinstance(error, (OperationalError, PoolTimeout, ConnectionError)):
        return True
    return isinstance(error, DBAPIError) and postgresql.may_pass(error)


def _is_full(error: Exception) -> bool:
    cause = getattr(error, "orig", None)
    said = [str(getattr(cause, "sqlite_errorname", "")), *map(str, getattr(cause, "args", ()))]
    return any(name in text for text in said for name in _FULL)


def _is_damaged(error: Exception) -> bool:
    name = str(getattr(getattr(error, "orig", None), "sqlite_errorname", ""))
    return name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def _file_id(file: Path | None) -> tuple[int, int] | None:
    if file is None:
        return None
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def disk_full() -> Unavailable:
    """The error of a write that the control plane's disk refused."""
    return Unavailable(
        "the control plane's disk is full or not writable",
        code="disk-full",
        hint="free space there and try again; nothing was changed",
        retry_after_s=10.0,
    )


def open_database(url: str, wait_s: float = WAIT_S, expected: str | None = None) -> Database:
    """Open the database, check it and migrate it.

    Args:
        url: SQLAlchemy's: sqlite:///FILE or postgresql+pg8000://….
        wait_s: longest wait of a transaction for a database that another process holds, in seconds.
        expected: the epoch that the database must have, or have had; None accepts any, and creates a missing database.

    Raises:
        StoreError: "database-damaged", "database-newer", "database-missing", "database-replaced".
    """
    pooled: dict[str, Any] = {} if url in ("sqlite://", "sqlite:///:memory:") else {"pool_timeout": wait_s}
    engine = create_engine(url, **pooled)
    if engine.dialect.name == "postgresql":
        postgresql.prepare(engine, wait_s)
    file = None
    if engine.dialect.name == "sqlite":
        if engine.url.database not in (None, "", ":memory:"):
            file = Path(str(engine.url.database))
            _check_file(file, expected)
            private_folder(file.parent)
        _prepare_sqlite(engine, wait_s)
        _check_sqlite(engine)
    try:
        with engine.begin() as connection:
            _migrate(connection, expected)
    except DatabaseError as error:
        engine.dispose()
        raise _damaged() from error
    except StoreError:
        engine.dispose()
        raise
    return Database(engine, file)


def _prepare_sqlite(engine: Engine, wait_s: float = WAIT_S) -> None:
    """Set WAL, foreign keys, and transactions that SQLite really begins: by default the driver leaves DDL outside of them."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={round(wait_s * 1e3)}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _check_file(file: Path, expected: str | None) -> None:
    """Refuse to touch an empty or a foreign database before anything is written to it."""
    if not file.exists():
        if expected is not None:
            raise epochs.missing()
        return
    if file.stat().st_size == 0:  # taken as a new database, it would remove every endpoint from the gateways
        raise _damaged()
    with (
        suppress(sqlite3.DatabaseError),  # damaged: the full check reports it
        closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as reading,
    ):
        tables = {name for (name,) in reading.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and _ALEMBIC not in tables:
            raise _damaged()


def _check_sqlite(engine: Engine) -> None:
    try:
        with engine.begin() as connection:
            file = engine.url.database
            if file and file != ":memory:":
                _close_to_others(Path(file))
            verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
    except DatabaseError as error:
        raise _damaged() from error
    if verdict != "ok":
        raise _damaged()


def _close_to_others(file: Path) -> None:
    """Make the files private. SQLite creates them by the umask or the database's mode; earlier releases left them readable."""
    for path in (file, *(file.with_name(f"{file.name}-{companion}") for companion in ("wal", "shm", "journal"))):
        with suppress(FileNotFoundError, PermissionError):  # another user's file keeps its mode
            path.chmod(0o600)


def _damaged() -> StoreError:
    return StoreError(
        "the database is damaged or is not a Roadworthy database",
        code="database-damaged",
        hint="restore the last backup with `roadworthy restore FILE`, which keeps this file next to it, and start again; "
        "meanwhile gateways serve from their own disks",
    )


def _migrate(connection: sqlalchemy.Connection, expected: str | None) -> None:
    """Bring the schema up to HEAD inside the caller's transaction, and insert the first project if no epoch is expected."""
    present = _revision(connection)
    if present is None and expected is not None:
        raise epochs.missing()
    if present is not None and present not in KNOWN_REVISIONS:
        raise StoreError(
            "the database was written by a later release",
            code="database-newer",
            hint="start the later release again, or restore the backup from before the upgrade",
            facts={"revision": present, "known": HEAD},
        )
    if present != HEAD:
        run_migrations(connection, HEAD)
    epoch = connection.execute(select(stores.c.epoch)).scalar()
    if epoch is not None:
        epochs.check(connection, epoch, expected)
    elif expected is not None:
        raise epochs.missing()
    else:
        connection.execute(insert(stores).values(project=PROJECT, epoch=random_id("epoch"), revision=1))


def _revision(connection: sqlalchemy.Connection) -> str | None:
    if not inspect(connection).has_table(_ALEMBIC):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def run_migrations(connection: sqlalchemy.Connection, target: str) -> None:
    """Run Alembic's revisions up to `target` on an open transaction."""
    from alembic import command  # imported only for a migration, because it costs start-up time
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def bump_revision(connection: Connection) -> int:
    """Count one change that gateways must see; return the new revision."""
    connection.execute(update(stores).values(revision=stores.c.revision + 1))
    return read_revision(connection)[1]


def begin_life(connection: Connection) -> str:
    """Give the store a new epoch, so that gateways follow it although they have seen higher revisions; return it."""
    epoch = random_id("epoch")
    connection.everywhere.execute(update(stores).values(epoch=epoch, revision=stores.c.revision + 1))
    return epoch


def read_revision(connection: Connection) -> tuple[str, int]:
    """The store's epoch and the project's present revision."""
    row = connection.execute(select(stores.c.epoch, stores.c.revision)).one()
    return row.epoch, row.revision


def list_projects(connection: Connection) -> list[str]:
    """The names of all projects, sorted."""
    return list(connection.everywhere.execute(select(stores.c.project).order_by(stores.c.project)).scalars())
