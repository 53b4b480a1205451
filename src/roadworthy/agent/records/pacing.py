"""When records that wait in the spool become files: on an idle core, or once too many wait or they have waited too long."""

from __future__ import annotations

import contextlib
import enum
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SOON_S = 1.0
"""A file costs the agent and the control plane about ten milliseconds, so records of this time share one."""
OLD_S = 5.0
"""Records that have waited longer are written, however busy the machine is."""
IDLE_SHARE = 0.2
"""A core that idles for this share of the time counts as idle."""
WINDOW_S = 0.5
_STALE_S = 4 * WINDOW_S
_STAT = Path("/proc/stat")


class Pace(enum.Enum):
    """What to do with waiting records: wait; write them with time that no other process wants; or write them now."""

    WAIT = enum.auto()
    IDLE = enum.auto()
    NOW = enum.auto()


class Backlog(NamedTuple):
    """The records that wait.

    Attributes:
        age_s: how long the oldest has waited. size_bytes: of all. max_bytes: their bound.
    """

    age_s: float
    size_bytes: int
    max_bytes: int


def decide(backlog: Backlog, idle: float | None) -> Pace:
    """Decide about the waiting records. `idle`: the idle share of the least busy core, 0 to 1; None if unknown."""
    if backlog.age_s >= OLD_S or 2 * backlog.size_bytes >= backlog.max_bytes:
        return Pace.NOW
    if backlog.age_s < SOON_S:
        return Pace.WAIT
    if idle is None:
        return Pace.NOW
    return Pace.IDLE if idle >= IDLE_SHARE else Pace.WAIT


class IdleCores:
    """Measures how idle the cores are on which this process may run. The time of processes with a raised nice value is not idle:
    the thread for idle time would wait for them too."""

    def __init__(self, stat: Path = _STAT, clock: Callable[[], float] = time.monotonic) -> None:
        self._stat = stat
        self._clock = clock
        self._at_s = float("-inf")
        self._times: dict[str, tuple[int, int]] = {}
        self._share: float | None = None

    def look(self) -> float | None:
        """The idle share of the least busy core over the last half second, 0 to 1; None while it is unknown. Call it about
        twice a second while the answer matters."""
        passed_s = self._clock() - self._at_s
        if passed_s >= WINDOW_S:
            before, self._times = self._times, _core_times(self._stat)
            self._at_s = self._clock()
            self._share = _most_idle(before, self._times) if passed_s < _STALE_S else None
        return self._share


def _core_times(stat: Path) -> dict[str, tuple[int, int]]:
    """By core: the time that it was idle, and all time, in ticks; empty where they cannot be read."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # AttributeError: not on Linux
        cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        rows = (line.split() for line in stat.read_text().splitlines() if line.startswith("cpu"))
        times = {name: list(map(int, ticks[:8])) for name, *ticks in rows if name in cores}
        return {name: (ticks[3] + ticks[4], sum(ticks)) for name, ticks in times.items() if ticks[4:]}
    return {}


def _most_idle(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> float | None:
    passed = [(idle - before[name][0], whole - before[name][1]) for name, (idle, whole) in after.items() if name in before]
    return max((idle / whole for idle, whole in passed if whole > 0), default=None)


def yield_to_others() -> None:
    """Let the calling thread run only where no other process of its scheduling group wants the core. It cannot be undone without
    privileges. Linux schedules whole sessions where autogroup is on and no cgroup is used; there it has no effect on workers."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
