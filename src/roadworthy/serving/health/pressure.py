"""Detects a shortage of memory or disk, and sheds load. The worker's heartbeat calls `look` about once a second.

At `close_at` of the memory, replies close their connections, so that callers spread to other machines. At `refuse_at`, no new
prediction is admitted, while the probes still answer. Each state ends a little below its threshold. A nearly full disk only
raises a warning: serving needs no disk, and the agent stops keeping records on it.

The memory is that of the machine or of a cgroup of this process, whichever is tightest. Reclaimable page cache does not count as
used.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from roadworthy.foundation.errors import RoadworthyError, Unavailable

RELIEF = 0.02
"""A state ends this share of the memory below its threshold."""
_UNLIMITED_BYTES = 1 << 60
_ROOT = Path("/")

MEMORY_HIGH, MEMORY_FULL, DISK_LOW = "memory-high", "memory-pressure", "disk-low"


@dataclass(frozen=True, slots=True)
class Limits:
    """The thresholds of a shortage.

    Attributes:
        close_at, refuse_at: shares of the memory in use, 0 to 1; 1 or more disables the state.
        disk_reserve_bytes: free space below which the disk is short; 0 disables the warning.
    """

    close_at: float
    refuse_at: float
    disk_reserve_bytes: int


@dataclass(frozen=True, slots=True)
class Reading:
    """One measurement; None where a value cannot be measured.

    Attributes:
        memory: share in use, 0 to 1.
        disk_free_bytes: what an unprivileged process can still write where records are kept.
        memory_free_bytes: what is left of the tightest bound.
    """

    memory: float | None
    disk_free_bytes: int | None = None
    memory_free_bytes: int | None = None


class Pressure:
    """The current state. Event loop only; every request reads its attributes.

    Args:
        limits: the thresholds.
        read: measures; must not block for long.

    Attributes:
        close_connections: whether replies should close their connections.
        refuse: the error for every new prediction, or None.
        warnings: which of MEMORY_HIGH, MEMORY_FULL and DISK_LOW hold.
        reading: the newest measurement.
    """

    def __init__(self, limits: Limits, read: Callable[[], Reading]) -> None:
        self._limits = limits
        self._read = read
        self.close_connections = False
        self.refuse: RoadworthyError | None = None
        self.warnings: tuple[str, ...] = ()
        self.reading = Reading(None)

    def look(self) -> bool:
        """Measure, and return whether the warnings have changed."""
        limits, before, reading = self._limits, self.warnings, self._read()
        self.reading = reading
        used, free = reading.memory or 0.0, reading.disk_free_bytes
        self.close_connections = _holds(used, limits.close_at, before=self.close_connections)
        full = _holds(used, limits.refuse_at, before=self.refuse is not None)
        self.refuse = (self.refuse or _no_memory()) if full else None
        low = free is not None and free < limits.disk_reserve_bytes
        self.warnings = tuple(
            name for name, holds in ((MEMORY_HIGH, self.close_connections), (MEMORY_FULL, full), (DISK_LOW, low)) if holds
        )
        return self.warnings != before


def _holds(used: float, limit: float, *, before: bool) -> bool:
    return limit < 1 and used >= (limit - RELIEF if before else limit)


def _no_memory() -> Unavailable:
    return Unavailable(
        "this machine is short of memory", code=MEMORY_FULL, hint="try again, or use another machine", retry_after_s=2
    )


def measure(records: Path, root: Path = _ROOT) -> Reading:
    """Measure by /proc, /sys and the file system; takes about 0.2 ms.

    Args:
        records: a folder on the disk to measure; it need not exist yet.
        root: the folder that holds proc and sys.
    """
    pools = tuple(_pools(root))
    return Reading(_share(pools), free_bytes(records), min((limit - used for used, limit in pools), default=None))


def free_bytes(folder: Path) -> int | None:
    """Free bytes of the disk that holds `folder`, or its nearest parent that exists."""
    for path in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            found = os.statvfs(path)
            return found.f_bavail * found.f_frsize
    return None


def memory_share(root: Path = _ROOT) -> float | None:
    """The share of memory in use, 0 to 1, by the tightest bound of machine and cgroups; None when none can be read."""
    return _share(_pools(root))


def _share(pools: Iterable[tuple[int, int]]) -> float | None:
    return max((used / limit for used, limit in pools if limit > 0), default=None)


def _pools(root: Path) -> Iterator[tuple[int, int]]:
    """(used, limit) in bytes for each bound on this process's memory."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        numbers = _table(root / "proc/meminfo")
        total = numbers["MemTotal:"] << 10
        yield total - (numbers["MemAvailable:"] << 10), total
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            if not controllers:
                yield from _walk(root / "sys/fs/cgroup", place, _version_2)
            elif "memory" in controllers.split(","):
                yield from _walk(root / "sys/fs/cgroup/memory", place, _version_1)


def _walk(mount: Path, place: str, read: Callable[[Path], tuple[int, int] | None]) -> Iterator[tuple[int, int]]:
    """The group and its parents. In a container only the mount itself may exist."""
    group = mount / place.strip("/")
    for folder in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError, KeyError):
            found = read(folder)
            if found is not None:
                yield found
        if folder == mount:
            return


def _version_2(folder: Path) -> tuple[int, int] | None:
    limit = (folder / "memory.max").read_text().strip()
    if limit == "max":
        return None
    used = int((folder / "memory.current").read_text())
    return used - _table(folder / "memory.stat")["inactive_file"], int(limit)


def _version_1(folder: Path) -> tuple[int, int] | None:
    limit = int((folder / "memory.limit_in_bytes").read_text())
    if limit >= _UNLIMITED_BYTES:
        return None
    used = int((folder / "memory.usage_in_bytes").read_text())
    return used - _table(folder / "memory.stat")["total_inactive_file"], limit


def _table(path: Path) -> dict[str, int]:
    """A file of lines with a name and a number each."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}
