"""The first process of a machine: starts the children that the command line planned, keeps them running, stops them in order.

It owns the listening sockets (the command line binds them and names them in the plans), the slab and the children, nothing
else; it knows both planes by command only. Each child gets its start document as one line on standard input, and the pipe stays
open as long as this process lives (`foundation/child.py`).

- SIGTERM or SIGINT: stop, stage by stage, lowest stage first; each has its grace. A second one: stop by force.
- SIGHUP: recycle the workers, one at a time; a replacement is READY in a spare slot of the slab before the old one is stopped.
- A child that dies is started again: at once when it had run well, then with growing pauses.
- A child that exits with EXIT_REFUSED on its first start stops everything: there is no half start.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from roadworthy.foundation.child import EXIT_REFUSED
from roadworthy.foundation.slab import READY, SlabReader, create_slab

_STEP_S = 0.05
"""How often states are looked at while something is under way; when nothing is, the supervisor sleeps until a signal comes."""


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """One child.

    Attributes:
        name: for the log; unique.
        argv: command and arguments; no secrets, they are visible to other users of the machine.
        document: the start document, JSON-ready. A worker's has "slot"; a replacement gets the spare one in its place.
        fds: inherited descriptors, under the same numbers.
        stage: children of the lowest stage stop first, and the next stage when they are gone.
        grace_s: seconds from SIGTERM to SIGKILL.
    """

    name: str
    argv: tuple[str, ...]
    document: dict[str, Any]
    fds: tuple[int, ...] = ()
    stage: int = 0
    grace_s: float = 30.0

    @property
    def slot(self) -> int | None:
        """The worker's slot in the slab, or None when the child is no worker."""
        slot = self.document.get("slot")
        return slot if isinstance(slot, int) else None


@dataclass(frozen=True, slots=True)
class Pauses:
    """When dead children are started again.

    Attributes:
        first_s: pause after the second quick death; the first one costs none, and each further one twice as much.
        longest_s: no pause is longer.
        healthy_s: a child that lived this long starts from no pause again.
        ready_s: how long a replacement may take to become READY before it is given up.
    """

    first_s: float = 0.2
    longest_s: float = 10.0
    healthy_s: float = 10.0
    ready_s: float = 120.0


@dataclass(slots=True, eq=False)
class _Child:
    plan: ChildPlan
    slot: int | None
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    next_start: float | None = 0.0
    starts: int = 0
    planned: bool = True
    stop_by: float | None = None

    @property
    def running(self) -> bool:
        return self.process is not None


@dataclass(slots=True)
class _Recycle:
    """Workers whose turn is still to come, and the pair of the one that is being replaced."""

    waiting: list[_Child]
    old: _Child | None = None
    new: _Child | None = None
    give_up: float = 0.0


@dataclass(slots=True)
class _Asked:
    stops: int = 0
    recycle: bool = False
    pipe: tuple[socket.socket, socket.socket] = field(default_factory=socket.socketpair)


class Supervisor:
    """Runs the plans until it is told to stop.

    Args:
        plans: in the order in which they are started.
        slab: where the workers' slab is made, with the slots that the plans name, then a spare one, then the agent's. None when
            no plan is a worker.
        pauses: of restarts.
    """

    def __init__(self, plans: Sequence[ChildPlan], *, slab: Path | None = None, pauses: Pauses | None = None) -> None:
        self._children = [_Child(plan, plan.slot) for plan in plans]
        self._pauses = pauses or Pauses()
        self._asked = _Asked()
        self._forced = False
        self._refused = False
        self._stopping = False
        self._recycle: _Recycle | None = None
        self._slab: SlabReader | None = None
        slots = [plan.slot for plan in plans if plan.slot is not None]
        self._spare: int | None = max(slots, default=-1) + 1
        if slab is not None:
            create_slab(slab, self._spare + 2)
            self._slab = SlabReader(slab)

    def run(self) -> int:
        """Start everything and stay until it has stopped. Call in the main thread.

        Returns:
            0 after an orderly stop, 1 when a child had to be killed, EXIT_REFUSED when a child refused to start.
        """
        with self._signals():
            try:
                while not self._is_over():
                    self._start_due()
                    self._go_on_recycling()
                    self._sleep()
                self._stop_all()
            finally:
                self._kill_all()
        return EXIT_REFUSED if self._refused else int(self._forced)

    def stop(self) -> None:
        """Ask for an orderly stop, from any thread or from a signal handler; asked twice it is by force."""
        self._asked.stops += 1
        with contextlib.suppress(OSError):
            self._asked.pipe[1].send(b"s")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        terminal = os.isatty(0)  # a hang-up because this terminal was closed means stop
        wake = self._asked.pipe[1]
        wake.setblocking(False)
        self._asked.pipe[0].setblocking(False)

        def handle(number: int, _frame: FrameType | None) -> None:
            if number == signal.SIGHUP and not (terminal and not os.isatty(0)):
                self._asked.recycle = True
            elif number != signal.SIGCHLD:
                self._asked.stops += 1

        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        before = [signal.signal(number, handle) for number in numbers]
        before_wake = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before_wake)
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
            for end in self._asked.pipe:
                end.close()

    def _is_over(self) -> bool:
        self._reap()
        return self._asked.stops > 0 or self._refused

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.next_start is not None and child.next_start <= now:
                self._start(child)

    def _start(self, child: _Child) -> None:
        document = child.plan.document if child.slot is None else {**child.plan.document, "slot": child.slot}
        child.next_start = None
        child.started = time.monotonic()
        child.starts += 1
        # A session of its own keeps the terminal's Ctrl-C from the children: they stop in order, told by this process.
        process = subprocess.Popen(  # noqa: S603 - the commands come from our own command line
            child.plan.argv, stdin=subprocess.PIPE, bufsize=0, pass_fds=child.plan.fds, start_new_session=True
        )
        child.process = process
        with contextlib.suppress(OSError):  # it died already: `_reap` sees that
            if process.stdin is not None:
                process.stdin.write(json.dumps(document).encode("utf-8") + b"\n")

    def _reap(self) -> None:
        for child in list(self._children):
            status = None if child.process is None else child.process.poll()
            if status is None:
                continue
            self._forget_process(child)
            if child.stop_by is not None or self._stopping:
                self._children.remove(child)
                continue
            if status == EXIT_REFUSED and child.starts == 1 and child.planned:
                _say(f"{child.plan.name} refused to start")
                self._refused = True
                continue
            lived = time.monotonic() - child.started
            child.deaths = 1 if lived >= self._pauses.healthy_s else child.deaths + 1
            quick = child.deaths - 2
            pause = 0.0 if quick < 0 else min(self._pauses.first_s * 2.0**quick, self._pauses.longest_s)
            child.next_start = time.monotonic() + pause
            _say(f"{child.plan.name} died ({_how(status)}) after {lived:.1f} s; starting it again in {pause:.1f} s")

    def _forget_process(self, child: _Child) -> None:
        if child.process is not None and child.process.stdin is not None:
            with contextlib.suppress(OSError):
                child.process.stdin.close()
        child.process = None

    def _go_on_recycling(self) -> None:
        if self._asked.recycle and self._recycle is None:
            self._asked.recycle = False
            self._recycle = _Recycle([child for child in self._children if child.slot is not None])
        turn = self._recycle
        if turn is None:
            return
        if turn.old is None and turn.new is None:
            self._replace_next(turn)
        elif turn.new is not None and turn.old is not None:
            self._switch(turn, turn.old, turn.new)
        elif turn.old is not None and turn.old not in self._children:
            turn.old = None
        self._kill_overdue()

    def _replace_next(self, turn: _Recycle) -> None:
        while turn.waiting and turn.waiting[0] not in self._children:
            turn.waiting.pop(0)
        if not turn.waiting:
            self._recycle = None
            _say("all workers were replaced")
            return
        turn.old = turn.waiting.pop(0)
        turn.new = _Child(turn.old.plan, self._spare, planned=False)
        turn.give_up = time.monotonic() + self._pauses.ready_s
        self._children.append(turn.new)
        self._start(turn.new)

    def _switch(self, turn: _Recycle, old: _Child, new: _Child) -> None:
        process = new.process
        if process is not None and self._is_ready(new.slot, process.pid):
            self._spare, turn.new = old.slot, None
            self._ask_to_stop(old)
        elif process is None or time.monotonic() > turn.give_up:
            _say(f"the replacement of {old.plan.name} did not become ready; the old one goes on")
            self._ask_to_stop(new)
            if process is not None:
                _kill(process)
            turn.waiting.clear()
            turn.old, turn.new = new, None

    def _is_ready(self, slot: int | None, pid: int) -> bool:
        if self._slab is None or slot is None:
            return False
        status = self._slab.status(slot)
        return status.pid == pid and status.state == READY

    def _ask_to_stop(self, child: _Child) -> None:
        child.stop_by = time.monotonic() + child.plan.grace_s
        child.next_start = None
        if child.process is None:
            self._children.remove(child)
            return
        with contextlib.suppress(ProcessLookupError):
            child.process.terminate()

    def _kill_overdue(self) -> None:
        for child in self._children:
            if child.process is not None and child.stop_by is not None and time.monotonic() > child.stop_by:
                _say(f"{child.plan.name} did not stop in time; killed")
                self._forced = True
                _kill(child.process)

    def _stop_all(self) -> None:
        self._stopping = True
        for stage in sorted({child.plan.stage for child in self._children}):
            members = [child for child in self._children if child.plan.stage == stage]
            for child in members:
                self._ask_to_stop(child)
            while any(child in self._children for child in members) and self._asked.stops < 2:
                self._sleep()
                self._reap()
                self._kill_overdue()

    def _kill_all(self) -> None:
        for child in self._children:
            if child.process is not None:
                self._forced = True
                _kill(child.process)
                child.process.wait()
                self._forget_process(child)
        self._children.clear()

    def _sleep(self) -> None:
        """Until a signal, the next start that is due, or one step when something is under way."""
        waits = [child.next_start - time.monotonic() for child in self._children if child.next_start is not None]
        if (
            self._recycle is not None
            or self._asked.recycle
            or any(child.stop_by is not None for child in self._children)
        ):
            waits.append(_STEP_S)
        inbox = self._asked.pipe[0]
        select.select([inbox], [], [], max(0.0, min(waits)) if waits else None)
        with contextlib.suppress(BlockingIOError):
            inbox.recv(4096)


def _kill(process: subprocess.Popen[bytes]) -> None:
    # The child leads a group of its own: what its model code started goes with it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _say(text: str) -> None:
    # The log of this process: one JSON line on standard error, as its children write theirs.
    line = json.dumps({"level": "warning", "process": "supervisor", "event": text})
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def _how(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"signal {-status}"
