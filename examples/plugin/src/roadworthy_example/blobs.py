"""A blob store: packages and record files in one SQLite file, at an address such as sqlite-blobs:/srv/blobs.db."""

from __future__ import annotations

import io
import re
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from roadworthy.foundation.errors import NotFound, StoreError

_NAME = re.compile(r"[a-z0-9]+(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,199}){1,3}", re.ASCII)


class SqliteBlobs:
    """One row a blob."""

    def __init__(self, file: Path, folder: Path) -> None:
        self._file = file
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._open() as database:
            database.execute("CREATE TABLE IF NOT EXISTS blobs (name TEXT PRIMARY KEY, data BLOB NOT NULL)")

    def put(self, name: str, source: Path) -> None:
        """Keep the bytes; a blob that is there already stays."""
        with self._open() as database:
            row = _checked(name), source.read_bytes()
            database.execute("INSERT INTO blobs VALUES (?, ?) ON CONFLICT DO NOTHING", row)

    def open(self, name: str) -> BinaryIO:
        """The blob's bytes."""
        with self._open() as database:
            row = database.execute("SELECT data FROM blobs WHERE name = ?", (_checked(name),)).fetchone()
        if row is None:
            raise NotFound("the bytes are not in the store", code="blob-missing", hint="push the package again")
        return io.BytesIO(row[0])

    def exists(self, name: str) -> bool:
        """Whether there is one."""
        with self._open() as database:
            return database.execute("SELECT 1 FROM blobs WHERE name = ?", (_checked(name),)).fetchone() is not None

    def delete(self, name: str) -> None:
        """Forget it."""
        with self._open() as database:
            database.execute("DELETE FROM blobs WHERE name = ?", (_checked(name),))

    def incoming(self) -> Path:
        """A new name in the control plane's own folder."""
        return self._folder / f"{uuid.uuid4().hex}.part"

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._file, timeout=30.0)) as connection, connection:
                yield connection
        except sqlite3.Error as error:
            raise StoreError(f"the blob store refuses: {error}") from error


class SqliteStores:
    """Opens the stores."""

    name = "sqlite-blobs"
    interface = 1

    def open_store(self, url: str, folder: Path) -> SqliteBlobs:
        """The store in the file that the address names."""
        return SqliteBlobs(Path(url.partition(":")[2]), folder)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise StoreError("that cannot name a blob", code="invalid-blob-name")
    return name


STORES = SqliteStores()
