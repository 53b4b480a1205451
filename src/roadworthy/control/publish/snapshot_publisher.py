"""Publishes the newest snapshot and the valid keys of a project. Gateways wait for it; operations that change the store refresh
it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from roadworthy.access.keys import Key
from roadworthy.access.keys import list_all as list_keys
from roadworthy.contract.snapshot import Snapshot, encode_snapshot
from roadworthy.control.publish.snapshots import build_snapshot
from roadworthy.control.publish.waiters import Waiters
from roadworthy.foundation.errors import Unavailable
from roadworthy.foundation.keys import hash_key
from roadworthy.store.engine import Database, read_revision
from roadworthy.store.epochs import EpochFile

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Edition:
    """One published state of the store."""

    snapshot: Snapshot
    encoded: bytes
    keys: dict[str, Key]

    @property
    def etag(self) -> str:
        """The snapshot's entity tag."""
        return self.snapshot.etag()


class SnapshotPublisher:
    """Holds the newest edition. `refresh` may be called from any thread, `wait` from the event loop.

    Args:
        database: source of the snapshots.
        epochs: records the store's epoch.
    """

    def __init__(self, database: Database, epochs: EpochFile) -> None:
        self._database = database
        self._epochs = epochs
        self._lock = threading.Lock()
        self._waiters = Waiters()
        self._stale = False
        self.edition = self._read()

    def of(self, database: Database) -> SnapshotPublisher:
        """A publisher of another project's snapshots."""
        return SnapshotPublisher(database, self._epochs)

    def _read(self) -> Edition:
        with self._database.begin() as connection:
            snapshot = build_snapshot(connection)
            keys = {key.sha256: key for key in list_keys(connection)}
        self._epochs.see(snapshot.epoch)
        return Edition(snapshot, encode_snapshot(snapshot), keys)

    def refresh(self) -> None:
        """Read the store again and wake the waiting requests. If the store cannot be read now, `catch_up` tries later; what was
        written stays written."""
        with self._lock:
            try:
                edition = self._read()
            except Unavailable as error:
                self._stale = True
                _log.warning("the-store-cannot-be-read", code=error.code)
                return
            self._stale = False
            if edition.snapshot.revision >= self.edition.snapshot.revision:
                self.edition = edition
        self._waiters.wake()

    def catch_up(self) -> None:
        """Refresh if the store is newer than the edition: the last refresh failed, or another control plane wrote.

        Raises:
            Unavailable: "database-busy".
        """
        with self._database.begin() as connection:
            now = read_revision(connection)
        snapshot = self.edition.snapshot
        if self._stale or now != (snapshot.epoch, snapshot.revision):
            self.refresh()

    def is_behind(self, etag: str | None) -> bool:
        """Whether the caller has seen a later edition than this one, at another control plane."""
        epoch, _, revision = (etag or "").strip('"').rpartition(":")
        snapshot = self.edition.snapshot
        return epoch == snapshot.epoch and revision.isdecimal() and int(revision) > snapshot.revision

    def key(self, text: str) -> Key | None:
        """The key with this text, or None."""
        return self.edition.keys.get(hash_key(text))

    async def wait(self, etag: str | None, wait_s: float, stopping: Callable[[], bool]) -> Edition | None:
        """The newest edition as soon as its tag differs from `etag`; None when `wait_s` passed or the process is stopping."""
        changed = await self._waiters.until(lambda: self.edition.etag != etag, wait_s, stopping)
        return self.edition if changed else None
