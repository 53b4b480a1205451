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
from roadworthy.foundation.errors import RoadworthyError, Unavailable
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
    """Holds the newest edition. `refresh` may be called from any thread, `wait` from the event loop. While the store cannot be
    read, the last edition stays; before the first one the project's requests are refused.

    Args:
        database: source of the snapshots.
        epochs: records the store's epoch.
    """

    def __init__(self, database: Database, epochs: EpochFile) -> None:
        self._database = database
        self._epochs = epochs
        self._lock = threading.Lock()
        self._waiters = Waiters()
        self._failing: str | None = None
        self._edition: Edition | None = None
        self._keys: dict[str, Key] = {}
        self.refresh()

    @property
    def edition(self) -> Edition:
        """The newest edition.

        Raises:
            Unavailable: "project-cannot-be-read".
        """
        if self._edition is None:
            raise self.fault()
        return self._edition

    @property
    def readable(self) -> bool:
        """Whether there is an edition."""
        return self._edition is not None

    def fault(self) -> Unavailable:
        """The error of requests while there is no edition."""
        return Unavailable(
            f"project {self._database.project} cannot be read: {self._failing}",
            code="project-cannot-be-read",
            hint="repair the database or restore a backup; gateways serve from their own disks meanwhile",
            retry_after_s=5.0,
        )

    def of(self, database: Database) -> SnapshotPublisher:
        """A publisher of another project's snapshots."""
        return SnapshotPublisher(database, self._epochs)

    def _read(self) -> Edition:
        with self._database.begin() as connection:
            keys = self._keys = {key.sha256: key for key in list_keys(connection)}  # first, to know who is refused
            snapshot = build_snapshot(connection)
        self._epochs.see(snapshot.epoch)
        return Edition(snapshot, encode_snapshot(snapshot), keys)

    def refresh(self) -> None:
        """Read the store again and wake the waiting requests. If the store cannot be read now, `catch_up` tries later; what was
        written stays written."""
        with self._lock:
            try:
                edition = self._read()
            except Exception as error:  # noqa: BLE001  (a fault of one project must not stop the others; the log has it)
                why = error.message if isinstance(error, RoadworthyError) else f"{type(error).__name__}: {error}"
                if why != self._failing:
                    trace = None if isinstance(error, RoadworthyError) else error
                    _log.error("project-cannot-be-read", project=self._database.project, reason=why, exc_info=trace)
                self._failing = why
                return
            self._failing = None
            if self._edition is None or edition.snapshot.revision >= self._edition.snapshot.revision:
                self._edition = edition
        self._waiters.wake()

    def catch_up(self) -> None:
        """Refresh if the store is newer than the edition: the last refresh failed, or another control plane wrote.

        Raises:
            Unavailable: "database-busy".
        """
        with self._database.begin() as connection:
            now = read_revision(connection)
        if self._failing is not None or now != (self.edition.snapshot.epoch, self.edition.snapshot.revision):
            self.refresh()

    def is_behind(self, etag: str | None) -> bool:
        """Whether the caller has seen a later edition than this one, at another control plane."""
        epoch, _, revision = (etag or "").strip('"').rpartition(":")
        snapshot = self.edition.snapshot
        return epoch == snapshot.epoch and revision.isdecimal() and int(revision) > snapshot.revision

    def key(self, text: str) -> Key | None:
        """The key with this text, or None."""
        return self._keys.get(hash_key(text))

    async def wait(self, etag: str | None, wait_s: float, stopping: Callable[[], bool]) -> Edition | None:
        """The newest edition as soon as its tag differs from `etag`; None when `wait_s` passed or the process is stopping."""
        changed = await self._waiters.until(lambda: self.edition.etag != etag, wait_s, stopping)
        return self.edition if changed else None
