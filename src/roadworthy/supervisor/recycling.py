"""Replaces workers warm, one at a time: the old worker stops only when its replacement is READY in the spare slot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from roadworthy.supervisor.process_group import ManagedProcess, ProcessGroup, kill_group, say


@dataclass(slots=True)
class _Replacement:
    """A worker that is being replaced, and its replacement."""

    old: ManagedProcess
    reason: str
    new: ManagedProcess | None
    give_up: float


@dataclass(slots=True)
class Recycler:
    """The queue of workers to replace, and the replacement under way.

    Args:
        group: the process group of the workers.
        is_ready: whether the process in a slot is READY.
        spare: the unused slot; it changes with each replacement.
        ready_s: how many seconds a replacement may take to become READY.
        recycled: called for each replaced worker, with the reason.
    """

    group: ProcessGroup
    is_ready: Callable[[int | None, int], bool]
    spare: int
    ready_s: float
    recycled: Callable[[ManagedProcess, str], None]
    _waiting: list[tuple[ManagedProcess, str]] = field(default_factory=list)
    _replacement: _Replacement | None = None

    @property
    def under_way(self) -> bool:
        """Whether a replacement is under way or queued."""
        return self._replacement is not None or bool(self._waiting)

    def ask(self, children: Iterable[ManagedProcess], reason: str) -> None:
        """Queue these workers for replacement, behind those queued earlier."""
        known = {id(child) for child, _ in self._waiting}
        if self._replacement is not None:
            known.add(id(self._replacement.old))
        self._waiting += [(child, reason) for child in children if id(child) not in known]

    def go_on(self) -> None:
        """Take the next step: start a replacement, switch to it, or wait for the old worker to exit."""
        replacement = self._replacement
        if replacement is None:
            self._next()
        elif replacement.new is not None:
            self._switch(replacement, replacement.new)
        elif replacement.old not in self.group.members:
            self._replacement = None
            self._next()

    def _next(self) -> None:
        while self._waiting:
            old, reason = self._waiting.pop(0)
            if old in self.group.members and old.stop_by is None:
                new = ManagedProcess(old.plan, self.spare, planned=False)
                self._replacement = _Replacement(old, reason, new, time.monotonic() + self.ready_s)
                self.group.members.append(new)
                self.group.start(new)
                return

    def _switch(self, replacement: _Replacement, new: ManagedProcess) -> None:
        process, old = new.process, replacement.old
        if process is not None and self.is_ready(new.slot, process.pid):
            replacement.new = None
            if old.slot is not None:
                self.spare = old.slot
            say(f"{old.plan.name} was replaced ({replacement.reason})")
            self.recycled(old, replacement.reason)
            if old in self.group.members:
                self.group.ask_to_stop(old)
        elif process is None or time.monotonic() > replacement.give_up:
            say(f"the replacement of {old.plan.name} did not become ready; the old worker stays")
            if new in self.group.members:
                self.group.ask_to_stop(new)
            if process is not None:
                kill_group(process)
            self._waiting.clear()
            replacement.old, replacement.new = new, None
