"""The newest snapshot, ready to be sent, and the keys that may come in. Gateways wait on it; verbs refresh it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from roadworthy.access.keys import Key
from roadworthy.access.keys import list_all as list_keys
from roadworthy.contract.snapshot import Snapshot, encode_snapshot
from roadworthy.control.snapshots import build_snapshot
from roadworthy.foundation.errors import Unavailable
from roadworthy.foundation.keys import hash_key
from roadworthy.store.engine import Database

_LOOK_AGAIN_S = 0.5
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Edition:
    """One state of the store as others see it."""

    snapshot: Snapshot
    encoded: bytes
    keys: dict[str, Key]

    @property
    def etag(self) -> str:
        """Identifies the snapshot."""
        return self.snapshot.etag()


class Bulletin:
    """Holds the newest edition. `refresh` may be called from any thread, `wait` from the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._stale = False
        self.edition = self._read()

    def _read(self) -> Edition:
        with self._database.begin() as connection:
            snapshot = build_snapshot(connection)
            keys = {key.sha256: key for key in list_keys(connection)}
        return Edition(snapshot, encode_snapshot(snapshot), keys)

    def refresh(self) -> None:
        """Read the store again and wake whoever waits. When it cannot be read now, `catch_up` does it later: what was written
        stands."""
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
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            loop.call_soon_threadsafe(event.set)

    def catch_up(self) -> None:
        """Refresh if the last refresh did not succeed."""
        if self._stale:
            self.refresh()

    def key(self, text: str) -> Key | None:
        """The key whose whole text that is, or None."""
        return self.edition.keys.get(hash_key(text))

    async def wait(self, etag: str | None, wait_s: float, stopping: Callable[[], bool]) -> Edition | None:
        """The newest edition as soon as it is another than `etag`; None when `wait_s` passed or the process is stopping."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while True:
            event = asyncio.Event()
            with self._lock:
                if self.edition.etag != etag:
                    return self.edition
                self._waiting.append((loop, event))
            left = until - loop.time()
            if left <= 0 or stopping():
                self._forget(event)
                return None
            try:
                await asyncio.wait_for(event.wait(), min(left, _LOOK_AGAIN_S))
            except TimeoutError:
                self._forget(event)

    def _forget(self, event: asyncio.Event) -> None:
        with self._lock:
            self._waiting = [pair for pair in self._waiting if pair[1] is not event]
