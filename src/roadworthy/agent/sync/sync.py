"""Follows the control plane's snapshot: polls, refuses older ones, fetches packages, writes to disk, publishes to the workers.

While the control plane is away, the last snapshot on disk stays in force. Without a control plane (`roadworthy serve`), the
snapshot on disk is the only one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import structlog

from roadworthy.agent.sync.control import ControlLink
from roadworthy.agent.sync.packages import PackageStore
from roadworthy.agent.worker_registry import WorkerRegistry
from roadworthy.contract.snapshot import PackageEntry, Snapshot, decode_snapshot, encode_snapshot
from roadworthy.contract.telemetry import FAILED, UNLOADED
from roadworthy.foundation.backoff import Backoff
from roadworthy.foundation.files import write_atomic

WAIT_S = 25
"""How long the control plane may hold a poll open."""
COLLECT_EVERY_S = 60.0
LOOK_S = 5.0
"""How often the disk is checked: a deleted package folder or snapshot is restored."""
MEND_AGAIN_S = 300.0
"""The least time between two fetches of a damaged package: the control plane's own copy may be the damaged one."""

_POLLS = Backoff(0.1, 5.0, jitter=0.5)
_FETCHES = Backoff(0.5, 15.0, jitter=0.5)

_log = structlog.get_logger(__name__)


class Sync:
    """Keeps the snapshot in force up to date. Event loop only.

    Args:
        path: snapshot.json.
        packages: the local store.
        registry: gets each snapshot after one attempt to fetch its packages.
        on_snapshot: called with each snapshot just before the registry gets it.
        give_up_epoch: the epoch whose endpoints may be replaced by an empty snapshot of another epoch; None: no epoch's.

    Attributes:
        current: the snapshot in force, or None before the first.
        connected: whether the last call to the control plane succeeded.
        refused: the epoch of an empty snapshot that the control plane offers and the agent refuses; None when all is well.
    """

    def __init__(
        self,
        path: Path,
        packages: PackageStore,
        registry: WorkerRegistry,
        on_snapshot: Callable[[Snapshot], None],
        give_up_epoch: str | None = None,
    ) -> None:
        self.current: Snapshot | None = None
        self.connected = False
        self.refused: str | None = None
        self._give_up_epoch = give_up_epoch
        self._path = path
        self._packages = packages
        self._registry = registry
        self._on_snapshot = on_snapshot
        self._wanted: Snapshot | None = None
        self._changed = asyncio.Event()
        self._mended: dict[str, float] = {}
        self._written = True

    def load(self) -> None:
        """Publish the snapshot on disk, if it is readable."""
        try:
            snapshot = decode_snapshot(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError):
            _log.exception("cannot read the snapshot on disk")
            return
        self._wanted = snapshot
        self._publish(snapshot)

    async def run(self, control: ControlLink) -> None:
        """Follow the control plane until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._poll(control))
            group.create_task(self._follow(control))
            group.create_task(self._collect())

    async def _poll(self, control: ControlLink) -> None:
        pauses = _POLLS.delays(random.random)
        while True:
            etag = None if self._wanted is None else self._wanted.etag()
            try:
                # The first answer comes at once, so that `connected` is known early.
                data = await control.snapshot(etag, WAIT_S if self.connected else 0)
                snapshot = None if data is None else decode_snapshot(data)
            except (httpx.HTTPError, ValueError) as error:
                self._note_connection(connected=False, reason=f"{type(error).__name__}: {error}")
                await asyncio.sleep(next(pauses))
                continue
            self._note_connection(connected=True)
            if snapshot is None:
                pauses = _POLLS.delays(random.random)
            elif self._may_take(snapshot):
                pauses = _POLLS.delays(random.random)
                self._wanted = snapshot
                self._changed.set()
            else:
                await asyncio.sleep(next(pauses))

    def _may_take(self, snapshot: Snapshot) -> bool:
        """Whether to follow a snapshot that arrived; a refusal is logged."""
        wanted = self._wanted
        if not snapshot.supersedes(wanted):
            _log.error("refused a snapshot that is older than the current one", revision=snapshot.revision)
            return False
        if wanted is not None and snapshot.gives_up(wanted) and wanted.epoch != self._give_up_epoch:
            if self.refused != snapshot.epoch:
                self.refused = snapshot.epoch
                _log.error(
                    "the control plane has another database without endpoints; the current endpoints stay in service",
                    epoch=wanted.epoch,
                    offered=snapshot.epoch,
                    hint="restore the control plane's database, or start this gateway with --begin-anew to follow it",
                )
            return False
        self.refused = None
        return True

    def _note_connection(self, *, connected: bool, reason: str = "") -> None:
        if connected != self.connected:
            self.connected = connected
            if connected:
                _log.info("connected to the control plane")
            else:
                _log.warning("cannot reach the control plane; serving continues from disk", reason=reason)

    async def _follow(self, control: ControlLink) -> None:
        """Bring each wanted snapshot into force, and retry fetching missing packages."""
        pauses = _FETCHES.delays(random.random)
        while True:
            missing = self._missing()
            with contextlib.suppress(TimeoutError):
                tried = self._wanted is self.current
                async with asyncio.timeout(next(pauses) if missing and tried else LOOK_S):
                    await self._changed.wait()
                pauses = _FETCHES.delays(random.random)
            self._changed.clear()
            self.mend()
            if self.current is not None and not (self._written and self._path.exists()):
                self._write(encode_snapshot(self.current))
            before = self._missing()
            if not await self._fetch(before, control):
                continue  # a newer snapshot arrived meanwhile
            arrived = len(self._missing()) < len(before)
            snapshot = self._wanted
            if snapshot is not None and (snapshot is not self.current or arrived):
                self._publish(snapshot)

    def _missing(self) -> list[PackageEntry]:
        packages = () if self._wanted is None else self._wanted.packages
        return [entry for entry in packages if not self._packages.has(entry.digest)]

    async def _fetch(self, entries: list[PackageEntry], control: ControlLink) -> bool:
        """Try once to fetch each package; True when all attempts ended, False when a newer snapshot arrived first."""
        pending = {self._packages.fetch(entry, control) for entry in entries}
        changed = asyncio.create_task(self._changed.wait())
        try:
            while pending and not changed.done():
                done, _ = await asyncio.wait({changed, *pending}, return_when=asyncio.FIRST_COMPLETED)
                pending -= done
            return not changed.done()
        finally:
            changed.cancel()

    def _publish(self, snapshot: Snapshot) -> None:
        data = encode_snapshot(snapshot)
        if snapshot is not self.current:
            self._write(data)
        self.current = snapshot
        self._on_snapshot(snapshot)
        self._registry.publish(data)

    def _write(self, data: bytes) -> None:
        """Write the snapshot to disk. When that fails, serving continues from memory, and writing is tried again."""
        try:
            write_atomic(self._path, data, mode=0o600)
        except OSError:
            if self._written:
                _log.exception("cannot write the snapshot to disk")
            self._written = False
        else:
            self._written = True

    async def _collect(self) -> None:
        while True:
            await asyncio.sleep(COLLECT_EVERY_S)
            if self._wanted is None:
                continue
            named = {entry.digest for entry in self._wanted.packages}
            held = {
                version.digest for report in self._registry.held() for version in report.versions if version.state != UNLOADED
            }
            for digest in self._packages.collect(named, held.__contains__):
                _log.info("deleted a package that no snapshot names", digest=digest)

    def mend(self) -> None:
        """Fetch each package again that a worker reported as damaged, at most every MEND_AGAIN_S. Call it at each look, and
        whenever the reports change."""
        now = time.monotonic()
        for report in self._registry.reports():
            for version in report.versions:
                damaged = version.state == FAILED and version.code == "package-damaged"
                if damaged and now - self._mended.get(version.digest, -MEND_AGAIN_S) >= MEND_AGAIN_S:
                    self._mended[version.digest] = now
                    self._packages.discard(version.digest)
                    self._changed.set()
