"""Watches one runner process from outside: its state file, its memory and its files. It judges; `keeper.py` acts."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from roadworthy.foundation.confine.plan import QUOTA_BYTES
from roadworthy.foundation.resident import Resident, resident
from roadworthy.runtime.placement import Placed
from roadworthy.runtime.runners.isolated import state as states
from roadworthy.runtime.runners.isolated.state import RunnerState

KILL, REPLACE = "kill", "replace"
DISK = "disk"
"""The reason for killing a runner that has written more bytes or files than it may."""
_MOST_FILES = 10_000
STILL = "no sign of life"
"""The reason for killing a runner that neither runs its model nor takes a step: it was stopped from outside, or a thread of the
model holds the interpreter."""
_NEAR = 0.9
"""A runner is replaced at this share of its memory bound, before it has to be killed."""
_GROWN = 0.05
"""It is replaced only after it grew by this share of the bound since it was ready; else a new one would be as large."""
_STILL_S, _STILL_LOOKS = 8.0, 4
"""A runner without a step for this long, at this many looks in a row, is killed. After a pause of the whole machine it has had
time for a step by the later looks."""
_LATER_S = 2.0
"""How many seconds later than its own watch a hanging runner is killed from here."""


@dataclass(frozen=True, slots=True)
class Growth:
    """When a runner counts as leaking.

    Attributes:
        most_bytes: how much its private memory may grow; None for no bound.
        warm_up_s: seconds after READY from which growth counts.
    """

    most_bytes: int | None
    warm_up_s: float = 60.0


@dataclass(slots=True)
class RunnerWatch:
    """The watch over one runner process.

    Attributes:
        pid: the process.
        state: its last known state, or None. memory: its memory at the last look.
    """

    address: Path
    pid: int
    load_s: float
    state: RunnerState | None = None
    memory: Resident | None = None
    _still: int = 0
    _lost: int = 0
    _ready_at: float | None = None
    _first: int = 0
    _base: int | None = None

    def look(self) -> None:
        """Read the runner's state and memory now."""
        found = RunnerState.read(self.address, self.pid)
        self._lost = self._lost + 1 if found is None and self.state is not None else 0
        self.state = found or self.state
        self.memory = resident(self.pid)
        if self.memory is None or self.state is None or self.state.state != states.READY:
            return
        if self._ready_at is None:
            self._ready_at, self._first = time.monotonic(), self.memory.total

    def judge(self, placed: Placed, growth: Growth) -> tuple[str, str] | None:
        """KILL or REPLACE, and the reason; None when all is well."""
        seen = self.state
        if seen is not None and seen.state in (states.LOADING, states.READY, states.DRAINING):
            limit_s = self.load_s if seen.state == states.LOADING else placed.hang_s
            if seen.busy_s > limit_s + _LATER_S:
                return KILL, "hung"
            if not _is_within(self.address.parent, QUOTA_BYTES):
                return KILL, DISK
            if self._lost >= _STILL_LOOKS:  # its folder was deleted, and with it the socket that workers connect to
                return KILL, STILL
            self._still = self._still + 1 if seen.still_s > _STILL_S else 0
            if self._still >= _STILL_LOOKS and seen.state != states.LOADING:
                return KILL, STILL
        return self._judge_memory(placed.memory_mb, growth)

    def _judge_memory(self, most_mb: int | None, growth: Growth) -> tuple[str, str] | None:
        memory = self.memory
        if memory is None:
            return None
        if most_mb is not None and memory.total > most_mb << 20:
            return KILL, "memory"
        if self._ready_at is None:
            return None
        if self._base is None and time.monotonic() - self._ready_at >= growth.warm_up_s:
            self._base = memory.private
        if most_mb is not None:
            most = most_mb << 20
            if memory.total > _NEAR * most and memory.total - self._first > _GROWN * most:
                return REPLACE, "memory"
        grown = 0 if self._base is None else memory.private - self._base
        return (REPLACE, "growth") if growth.most_bytes is not None and grown > growth.most_bytes else None

    def hung(self) -> bool:
        """Whether the runner itself reported that it hangs. Call after its exit, before its successor deletes its files."""
        last = RunnerState.read(self.address, self.pid) or self.state
        return last is not None and last.state == states.HUNG


def _is_within(folder: Path, most_bytes: int) -> bool:
    """Whether the folder's content is within the bounds. A runner cannot write anywhere else on the disk."""
    bytes_left, files_left = most_bytes, _MOST_FILES
    folders = [str(folder)]
    while folders:
        try:
            entries = os.scandir(folders.pop())
        except FileNotFoundError:
            continue
        except OSError:  # the runner closed it, so that it cannot be counted
            return False
        with entries:
            for entry in entries:
                try:
                    bytes_left -= entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                except OSError:
                    continue
                files_left -= 1
                if bytes_left < 0 or files_left < 0:
                    return False
    return True
