"""Watches the workers from outside: their heartbeats in the slab, their memory in /proc. It judges; `supervise.py` acts."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from roadworthy.foundation.resident import Resident, resident
from roadworthy.foundation.slab import CLOSING, DRAINING, GAUGE, READY, SlabReader, SlotStatus
from roadworthy.supervisor.plan import MEBI, WorkerLimits
from roadworthy.supervisor.process_group import ManagedProcess, say

_BORN_LARGE = 0.05
"""A worker above its memory bound is replaced only after it grew by this share of the bound; else a new one would be as large."""


@dataclass(slots=True)
class _Known:
    """What the watch has seen of one worker process.

    Attributes:
        ready_at: when it became READY. first: its memory then. base: its private memory when it was warm.
        overdue: whether its heartbeat was overdue at the last look.
        logged: whether the log says that it was above its bound from the start.
    """

    ready_at: float | None = None
    first: int = 0
    base: int | None = None
    overdue: bool = False
    logged: bool = False


class WorkerWatch:
    """Judges workers at a steady pace."""

    def __init__(self, slab: SlabReader, limits: WorkerLimits) -> None:
        self._slab = slab
        self._limits = limits
        self._known: dict[int, _Known] = {}
        self._next_look = 0.0
        self._next_recycle = 0.0

    @property
    def wait_s(self) -> float:
        """Seconds to the next look."""
        return self._next_look - time.monotonic()

    def is_ready(self, slot: int | None, pid: int) -> bool:
        """Whether the process `pid` is READY in `slot`."""
        if slot is None:
            return False
        status = self._slab.status(slot)
        return status.pid == pid and status.state == READY

    def left(self, slot: int | None) -> dict[str, int]:
        """The non-zero gauges in a dead worker's slot, by name; its successor clears them."""
        if slot is None:
            return {}
        _, cells = self._slab.read(slot)
        return {run.name: run.values[0] for run in cells if run.kind == GAUGE and run.values[0]}

    def look(self, workers: Iterable[ManagedProcess]) -> tuple[list[ManagedProcess], list[tuple[ManagedProcess, str]]]:
        """The workers that hang, and those that hold too much memory with the reason. Empty until the next look is due."""
        now = time.monotonic()
        if now < self._next_look:
            return [], []
        self._next_look = now + self._limits.look_s
        hung: list[ManagedProcess] = []
        bloated: list[tuple[ManagedProcess, str]] = []
        seen: dict[int, _Known] = {}
        for child in workers:
            if child.process is None or child.slot is None or child.stop_by is not None:
                continue
            pid = child.process.pid
            known = seen[pid] = self._known.get(pid) or _Known()
            status = self._slab.status(child.slot)
            if status.pid != pid or status.state in (DRAINING, CLOSING):
                continue
            if self._hangs(known, status):
                hung.append(child)
            elif reason := self._too_large(child, known, status, now):
                bloated.append((child, reason))
        self._known = seen
        return hung, bloated

    def recycled(self) -> None:
        """Note that a worker is being replaced for its memory: the next such replacement has to wait."""
        self._next_recycle = time.monotonic() + self._limits.recycle_every_s

    @property
    def may_recycle(self) -> bool:
        """Whether enough time has passed since the last replacement for memory."""
        return time.monotonic() >= self._next_recycle

    def _hangs(self, known: _Known, status: SlotStatus) -> bool:
        """Overdue at two looks in a row: after a pause of the whole machine, workers have had time for a heartbeat by the
        second."""
        before, known.overdue = known.overdue, time.monotonic_ns() - status.heartbeat_ns > self._limits.hang_s * 1e9
        return before and known.overdue

    def _too_large(self, child: ManagedProcess, known: _Known, status: SlotStatus, now: float) -> str | None:
        limits = self._limits
        held = resident(status.pid)
        if held is None or status.state != READY:
            return None
        if known.ready_at is None:
            known.ready_at, known.first = now, held.total
        if known.base is None and now - known.ready_at >= limits.warm_up_s:
            known.base = held.private
        if limits.memory_bytes is not None and held.total > limits.memory_bytes:
            if held.total - known.first > _BORN_LARGE * limits.memory_bytes:
                return "memory"
            if not known.logged:
                known.logged = True
                say(f"{child.plan.name} has held {_mb(held)} since its start, more than its bound")
        grown = 0 if known.base is None else held.private - known.base
        return "growth" if limits.growth_bytes is not None and grown > limits.growth_bytes else None


def _mb(held: Resident) -> str:
    return f"{held.total // MEBI} MiB"
