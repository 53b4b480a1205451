"""The database: migrations, damage, newer schemas, transactions."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from roadworthy.foundation.errors import StoreError
from roadworthy.store import engine
from roadworthy.store.engine import Database, bump_revision, open_database, read_revision, run_migrations
from roadworthy.store.tables import metadata, versions


def url(folder: Path) -> str:
    """A database in the test's folder."""
    return f"sqlite:///{folder / 'roadworthy.db'}"


def test_migrations_make_exactly_the_tables_that_the_code_describes(tmp_path: Path) -> None:
    """Alembic finds nothing to add or drop after the last revision."""
    database = open_database(url(tmp_path))
    with database.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection.everywhere), metadata) == []
    database.close()


def test_every_table_has_a_project_and_named_constraints() -> None:
    """The ground for several projects in one database."""
    for table in metadata.tables.values():
        assert "project" in table.primary_key.columns, table.name
        assert all(constraint.name for constraint in table.constraints), table.name


def test_the_epoch_stays_and_the_revision_grows(tmp_path: Path) -> None:
    """An epoch is one life of the store, over restarts."""
    database = open_database(url(tmp_path))
    with database.begin() as connection:
        epoch, revision = read_revision(connection)
        assert bump_revision(connection) == revision + 1
    database.close()
    database = open_database(url(tmp_path))
    with database.begin() as connection:
        assert read_revision(connection) == (epoch, revision + 1)
    database.close()


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """An error inside rolls everything back."""
    database = open_database(url(tmp_path))
    with database.begin() as connection:
        before = read_revision(connection)
    with pytest.raises(RuntimeError, match="stop"):
        _bump_and_stop(database)
    with database.begin() as connection:
        assert read_revision(connection) == before
    database.close()


def _bump_and_stop(database: Database) -> None:
    with database.begin() as connection:
        bump_revision(connection)
        raise RuntimeError("stop")


@pytest.mark.parametrize("damage", ["truncated", "garbage", "header"])
def test_d11_a_damaged_database_refuses_to_start_with_a_hint(tmp_path: Path, damage: str) -> None:
    """D11: truncated, overwritten or with a broken header: start is refused, and the hint says how to restore."""
    database = open_database(url(tmp_path))
    database.close()
    file = tmp_path / "roadworthy.db"
    data = bytearray(file.read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 3]
    elif damage == "garbage":
        data[4096:] = b"\xff" * (len(data) - 4096)
    else:
        data[:16] = b"not a database!!"
    for companion in tmp_path.glob("roadworthy.db-*"):
        companion.unlink()
    file.write_bytes(bytes(data))
    with pytest.raises(StoreError) as caught:
        open_database(url(tmp_path))
    assert caught.value.code == "database-damaged"
    assert "backup" in str(caught.value.hint)


def test_d20_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """D20: an older release does not touch a database that a later one wrote."""
    open_database(url(tmp_path)).close()
    with closing(sqlite3.connect(tmp_path / "roadworthy.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError) as caught:
        open_database(url(tmp_path))
    assert caught.value.code == "database-newer"
    with closing(sqlite3.connect(tmp_path / "roadworthy.db")) as connection, connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)


def test_d20_a_migration_that_fails_leaves_the_schema_as_it_was(tmp_path: Path) -> None:
    """D20: migrations are transactional: all of it or nothing."""
    bare = sa.create_engine(url(tmp_path))
    engine._prepare_sqlite(bare)
    with pytest.raises(sa.exc.OperationalError):
        _migrate_and_fail(bare)
    with bare.begin() as connection:
        assert sa.inspect(connection).get_table_names() == []
    bare.dispose()


def _migrate_and_fail(bare: sa.Engine) -> None:
    with bare.begin() as connection:
        run_migrations(connection, "head")
        connection.exec_driver_sql("CREATE TABLE versions (x)")


def test_head_is_the_newest_revision() -> None:
    """The constant that saves start-up time is kept in step with the files."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(engine.__file__).parent / "migrations"))
    script = ScriptDirectory.from_config(config)
    assert script.get_current_head() == engine.HEAD == engine.KNOWN_REVISIONS[-1]


def test_a_version_is_unique_by_its_digest(tmp_path: Path) -> None:
    """The database itself refuses a second number for the same package of a model."""
    database = open_database(url(tmp_path))
    row = {
        "project": "default", "model": "m", "digest": "d", "size_bytes": 1, "signature": "{}",
        "runtimes": "[]", "pushed_at_us": 1, "pushed_by": "a",
    }  # fmt: skip
    with database.begin() as connection:
        connection.execute(sa.insert(versions).values(version=1, **row))
    with pytest.raises(sa.exc.IntegrityError), database.begin() as connection:
        connection.execute(sa.insert(versions).values(version=2, **row))
    database.close()


def test_the_fifth_migration_names_keys_by_their_ids(tmp_path: Path) -> None:
    """The key of the gateway on the control plane's machine is `local`: the first bootstrap key of that role only."""
    bare = sa.create_engine(url(tmp_path))
    engine._prepare_sqlite(bare)
    keys = [("key-c", "gateway", "key-a", 1), ("key-d", "gateway", "bootstrap", 3), ("key-b", "gateway", "bootstrap", 2),
            ("key-a", "admin", "bootstrap", 1)]  # fmt: skip
    with bare.begin() as connection:
        run_migrations(connection, "0004")
        for key_id, role, by, at in keys:
            row = ("default", key_id, key_id, role, at, by)
            connection.exec_driver_sql("INSERT INTO keys VALUES (?, ?, ?, ?, NULL, ?, ?)", row)
    bare.dispose()
    database = open_database(url(tmp_path))
    with database.begin() as connection:
        named = {row.id: row.name for row in connection.everywhere.execute(sa.text("SELECT id, name FROM keys"))}
    assert named == {"key-a": "key-a", "key-b": "local", "key-c": "key-c", "key-d": "key-d"}
    database.close()


def test_the_second_migration_keeps_what_is_there(tmp_path: Path) -> None:
    """A database of the first release is migrated in place: gateways and the counts that refer to them stay."""
    bare = sa.create_engine(url(tmp_path))
    engine._prepare_sqlite(bare)
    with bare.begin() as connection:
        run_migrations(connection, "0001")
        connection.exec_driver_sql("INSERT INTO stores VALUES ('default', 'epoch-1', 7)")
        connection.exec_driver_sql("INSERT INTO gateways VALUES ('default', 'gw', 'b', 1, 2, '[]', 3)")
        connection.exec_driver_sql("INSERT INTO request_counts VALUES ('default', 'gw', 'b', 'e', 1, 'd', 'ok', 9)")
    bare.dispose()
    database = open_database(url(tmp_path))
    with database.begin() as connection:
        assert read_revision(connection) == ("epoch-1", 7)
        assert connection.everywhere.execute(sa.text("SELECT event FROM stores")).scalar() == 0
        assert connection.everywhere.execute(sa.text("SELECT count, lost_records FROM request_counts, gateways")).one() == (9, 3)
    database.close()
