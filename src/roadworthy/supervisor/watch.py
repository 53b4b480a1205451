"""Looks at the workers from outside: signs of life in the slab, memory in /proc. It judges; `supervise.py` acts."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from roadworthy.foundation.resident import Resident, resident
from roadworthy.foundation.slab import DRAINING, GAUGE, READY, SlabReader, SlotStatus
from roadworthy.supervisor.plan import MEBI, WorkerLimits
from roadworthy.supervisor.process_group import ManagedProcess, say

_BORN_LARGE = 0.05
"""A worker above its bound is replaced only when it has grown by this share of it: if not, another one would be as large."""


@dataclass(slots=True)
class _Known:
    """What was seen of one life.

    Attributes:
        ready_at: since when it is READY. first: its memory then. base: its own memory when it was warm.
        overdue: whether it had given no sign of life when it was looked at last.
        told: whether the log has been told that it is above its bound from the start.
    """

    ready_at: float | None = None
    first: int = 0
    base: int | None = None
    overdue: bool = False
    told: bool = False


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
        """Whether that process is READY in that slot."""
        if slot is None:
            return False
        status = self._slab.status(slot)
        return status.pid == pid and status.state == READY

    def left(self, slot: int | None) -> dict[str, int]:
        """The gauges in a dead worker's slot that are not zero, by name; its successor clears them."""
        if slot is None:
            return {}
        _, cells = self._slab.read(slot)
        return {run.name: run.values[0] for run in cells if run.kind == GAUGE and run.values[0]}

    def look(self, workers: Iterable[ManagedProcess]) -> tuple[list[ManagedProcess], list[tuple[ManagedProcess, str]]]:
        """Who hangs, and who holds too much memory and why; empty when it is not yet time to look again."""
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
            if status.pid != pid or status.state == DRAINING:
                continue
            if self._hangs(known, status):
                hung.append(child)
            elif reason := self._too_large(child, known, status, now):
                bloated.append((child, reason))
        self._known = seen
        return hung, bloated

    def recycled(self) -> None:
        """A worker is being replaced for its memory: the next one has to wait."""
        self._next_recycle = time.monotonic() + self._limits.recycle_every_s

    @property
    def may_recycle(self) -> bool:
        """Whether enough time has passed since the last one."""
        return time.monotonic() >= self._next_recycle

    def _hangs(self, known: _Known, status: SlotStatus) -> bool:
        """Seen twice in a row: when this whole machine stood still, workers have had the time to give a sign by then."""
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
            if not known.told:
                known.told = True
                say(f"{child.plan.name} holds {_mb(held)} from its start, which is above its bound")
        grown = 0 if known.base is None else held.private - known.base
        return "growth" if limits.growth_bytes is not None and grown > limits.growth_bytes else None


def _mb(held: Resident) -> str:
    return f"{held.total // MEBI} MiB"
