"""The packages on this machine's disk: `packages/<64 hex>/`, each unpacked and verified.

A folder appears whole or not at all, and only under the digest of its content.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from pathlib import Path

import httpx
import structlog

from roadworthy.agent.sync.control import ControlLink
from roadworthy.contract.snapshot import PackageEntry
from roadworthy.foundation.clock import Clock, SystemClock
from roadworthy.foundation.errors import PackageInvalid, RoadworthyError
from roadworthy.foundation.files import private_folder, remove_tree, sweep_temporary, temporary_beside
from roadworthy.foundation.references import check_digest

FORGET_AFTER_S = 600.0
"""A package is deleted when no snapshot has named it for this long and no worker holds it."""

_AT_A_TIME = 2
_log = structlog.get_logger(__name__)


class PackageStore:
    """The local packages. Event loop only; unpacking runs in threads.

    Args:
        folder: created with mode 0700 when missing; leftovers of an interrupted run are deleted.
        clock: measures how long a package has not been named.
    """

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.folder = private_folder(folder)
        self._clock = clock or SystemClock()
        self._named_at: dict[str, float] = {}
        self._fetching: dict[str, asyncio.Task[bool]] = {}
        self._slots = asyncio.Semaphore(_AT_A_TIME)
        sweep_temporary(folder)

    def has(self, digest: str) -> bool:
        """Whether the package is here. It was verified when it was unpacked; loading verifies it again."""
        return (self._place(digest) / "manifest.json").is_file()

    def discard(self, digest: str) -> None:
        """Delete a damaged package, so that it is fetched again."""
        remove_tree(self._place(digest))

    def fetch(self, entry: PackageEntry, control: ControlLink) -> asyncio.Task[bool]:
        """Try once to fetch the package; concurrent callers share the attempt. The result says whether the package is here
        now."""
        task = self._fetching.get(entry.digest)
        if task is None:
            task = asyncio.create_task(self._fetch(entry, control))
            self._fetching[entry.digest] = task
            task.add_done_callback(lambda _: self._fetching.pop(entry.digest, None))
        return task

    def collect(self, named: Collection[str], held: Callable[[str], bool]) -> list[str]:
        """Delete packages that have not been in `named` for FORGET_AFTER_S and that no worker holds; return their digests."""
        now = self._clock.monotonic()
        gone = []
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            digest = f"sha256:{path.name}"
            seen = self._named_at.setdefault(digest, now)
            if digest in named or held(digest):
                self._named_at[digest] = now
            elif now - seen > FORGET_AFTER_S and digest not in self._fetching:
                remove_tree(path)
                self._named_at.pop(digest, None)
                gone.append(digest)
        return gone

    async def _fetch(self, entry: PackageEntry, control: ControlLink) -> bool:
        place = self._place(entry.digest)
        packed = temporary_beside(place)
        async with self._slots:
            started = time.monotonic()
            try:
                private_folder(self.folder)  # it may have been deleted
                await control.download_package(entry.digest, packed, entry.size_bytes)
                await asyncio.to_thread(_unpack_verified, packed, place, entry.digest)
            except (httpx.HTTPError, OSError, RoadworthyError) as error:
                _log.error("cannot fetch a package", digest=entry.digest, reason=_reason(error))
                return False
            finally:
                packed.unlink(missing_ok=True)
        _log.info("a package arrived", digest=entry.digest, seconds=round(time.monotonic() - started, 3))
        return True

    def _place(self, digest: str) -> Path:
        return self.folder / check_digest(digest).removeprefix("sha256:")


def _unpack_verified(packed: Path, place: Path, digest: str) -> None:
    # Slow to import, and needed only when a package arrives.
    from roadworthy.package.archive import open_package, unpack

    if open_package(packed).digest != digest:
        raise PackageInvalid("the package that arrived has another digest than the requested one", code="package-damaged")
    if place.exists():
        remove_tree(place)  # it is fetched again because it is not whole
    unpack(packed, place)


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, RoadworthyError) else f"{type(error).__name__}: {error}"
