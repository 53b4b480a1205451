"""Replaces workers warm, one at a time: a replacement is READY in the spare slot before the old worker is told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from roadworthy.supervisor.process_group import ManagedProcess, ProcessGroup, kill_group, say


@dataclass(slots=True)
class _Turn:
    """The pair of the worker that is being replaced."""

    old: ManagedProcess
    reason: str
    new: ManagedProcess | None
    give_up: float


@dataclass(slots=True)
class Recycler:
    """Workers whose turn is still to come, and the one whose turn it is.

    Args:
        house: where the workers live.
        is_ready: whether the process in a slot is READY.
        spare: the slot that nobody uses; it changes with each replacement.
        ready_s: how long a replacement may take.
        recycled: told of each worker that was replaced, with the reason.
    """

    house: ProcessGroup
    is_ready: Callable[[int | None, int], bool]
    spare: int
    ready_s: float
    recycled: Callable[[ManagedProcess, str], None]
    _waiting: list[tuple[ManagedProcess, str]] = field(default_factory=list)
    _turn: _Turn | None = None

    @property
    def under_way(self) -> bool:
        """Whether there is anything to go on with."""
        return self._turn is not None or bool(self._waiting)

    def ask(self, children: Iterable[ManagedProcess], reason: str) -> None:
        """Replace these, after those that were asked for before."""
        known = {id(child) for child, _ in self._waiting}
        if self._turn is not None:
            known.add(id(self._turn.old))
        self._waiting += [(child, reason) for child in children if id(child) not in known]

    def go_on(self) -> None:
        """The next step."""
        turn = self._turn
        if turn is None:
            self._next()
        elif turn.new is not None:
            self._switch(turn, turn.new)
        elif turn.old not in self.house.members:
            self._turn = None
            self._next()

    def _next(self) -> None:
        while self._waiting:
            old, reason = self._waiting.pop(0)
            if old in self.house.members and old.stop_by is None:
                new = ManagedProcess(old.plan, self.spare, planned=False)
                self._turn = _Turn(old, reason, new, time.monotonic() + self.ready_s)
                self.house.members.append(new)
                self.house.start(new)
                return

    def _switch(self, turn: _Turn, new: ManagedProcess) -> None:
        process, old = new.process, turn.old
        if process is not None and self.is_ready(new.slot, process.pid):
            turn.new = None
            if old.slot is not None:
                self.spare = old.slot
            say(f"{old.plan.name} was replaced ({turn.reason})")
            self.recycled(old, turn.reason)
            if old in self.house.members:
                self.house.ask_to_stop(old)
        elif process is None or time.monotonic() > turn.give_up:
            say(f"the replacement of {old.plan.name} did not become ready; the old one goes on")
            if new in self.house.members:
                self.house.ask_to_stop(new)
            if process is not None:
                kill_group(process)
            self._waiting.clear()
            turn.old, turn.new = new, None
