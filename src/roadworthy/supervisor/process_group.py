"""The supervisor's children as processes: starts them with their document on standard input, restarts and stops them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from roadworthy.foundation.child import EXIT_REFUSED
from roadworthy.foundation.confine.environment import passed_on
from roadworthy.foundation.log_stream import LogStream
from roadworthy.supervisor.output import Printed, read_printed
from roadworthy.supervisor.plan import ChildPlan, Restarts

LOOK_S = 2.0
"""Seconds between two looks for signs of life."""
_LAST_WORDS_S = 2.0
"""How long the supervisor's own exit waits for output of its children: one of their children may hold the pipe for ever."""
LEFT_S = 5.0
"""The longest grace of an ordered child when everything stops, in seconds. It stops after its callers, so no caller waits for
what it still does, however long a run of its model may take."""
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)


@dataclass(slots=True, eq=False)
class ManagedProcess:
    """A child, running or waiting for its next start.

    Attributes:
        slot: of the slab, for a worker.
        quick_exits: quick exits in a row. starts: starts in all.
        next_start: when it starts next, monotonic seconds; None when it runs or is to stop.
        planned: whether its refusal to start stops everything. ordered: whether another child ordered it.
        stop_by: once asked to stop, when it is killed.
        killed: why the supervisor killed it, for the report of its exit.
        stdin: this end of its standard input. alive_at: when it last showed life; None before the first time.
        overdue: whether its sign of life was overdue at the last look.
        refused: whether its last process refused to start.
    """

    plan: ChildPlan
    slot: int | None
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    quick_exits: int = 0
    next_start: float | None = 0.0
    starts: int = 0
    planned: bool = True
    ordered: bool = False
    stop_by: float | None = None
    killed: str | None = None
    stdin: socket.socket | None = None
    alive_at: float | None = None
    overdue: bool = False
    refused: bool = False


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """How a child's process ended.

    Attributes:
        status: exit status, or minus the signal's number.
        lived_s: seconds since its start. quick_exits: quick exits in a row, including this one.
        next_start_s: seconds until it restarts; None when it does not.
        reason: why the supervisor killed it; None when it did not.
    """

    pid: int
    status: int
    lived_s: float
    quick_exits: int
    next_start_s: float | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What the group calls when a child starts or exits.

    Attributes:
        channel: returns the far end of the channel that a child should inherit, or None.
        started: called after a start, with the process id.
        exited: called after an exit.
    """

    channel: Callable[[ManagedProcess], socket.socket | None]
    started: Callable[[ManagedProcess, int], None]
    exited: Callable[[ManagedProcess, ProcessExit], None]


class ProcessGroup:
    """All children.

    Attributes:
        members: the children that run, wait for their next start, or are stopping.
        forced: whether a child had to be killed to stop. refused: whether a needed child refused to start.
        stopping: whether everything stops: no child starts any more.
    """

    def __init__(self, plans: Sequence[ChildPlan], restarts: Restarts, listeners: Callbacks) -> None:
        self.members = [ManagedProcess(plan, plan.slot) for plan in plans]
        self.forced = False
        self.refused = False
        self.stopping = False
        self._restarts = restarts
        self._callbacks = listeners
        self._readers: list[threading.Thread] = []

    def pids(self) -> set[int]:
        """The process ids of all running children."""
        return {child.process.pid for child in self.members if child.process is not None}

    def workers(self) -> list[ManagedProcess]:
        """The children that have a slot in the slab."""
        return [child for child in self.members if child.slot is not None]

    def start_due(self) -> None:
        """Start the children whose next start is due."""
        now = time.monotonic()
        for child in self.members:
            if child.next_start is not None and child.next_start <= now:
                self.start(child)

    def start(self, child: ManagedProcess) -> None:
        """Start a child now."""
        document = dict(child.plan.document) if child.slot is None else {**child.plan.document, "slot": child.slot}
        child.next_start = None
        child.killed = None
        child.started = time.monotonic()
        child.starts += 1
        child.alive_at, child.overdue = None, False
        stdin, end = socket.socketpair()
        far = self._callbacks.channel(child)
        fds = child.plan.fds
        if far is not None:
            document["children_fd"] = far.fileno()
            fds = (*fds, far.fileno())
        prints = -1
        try:
            prints, printed = os.pipe()
            with os.fdopen(printed, "wb") as out:
                # In a session of their own children do not get the terminal's Ctrl-C: the supervisor stops them in order.
                process = subprocess.Popen(  # noqa: S603 - the commands come from the command line, or are on its list
                    child.plan.argv,
                    stdin=end.fileno(),
                    stdout=out,
                    pass_fds=fds,
                    start_new_session=True,
                    env=passed_on(),
                )
        except OSError as error:  # out of processes, descriptors or memory: try again later
            stdin.close()
            if prints >= 0:
                os.close(prints)
            child.next_start = time.monotonic() + self._pause_after(child, 0.0, self._restarts.healthy_s)
            say(f"{child.plan.name} could not be started: {error}")
            return
        finally:
            end.close()
            if far is not None:
                far.close()
        self._readers = [each for each in self._readers if each.is_alive()]
        self._readers.append(read_printed(prints, Printed(child.plan.name, process.pid, _log.write)))
        child.process, child.stdin = process, stdin
        with contextlib.suppress(OSError):  # it has exited already: `reap` notices
            stdin.sendall(json.dumps(document).encode("utf-8") + b"\n")
        stdin.setblocking(False)
        self._callbacks.started(child, process.pid)

    def reap(self) -> None:
        """Notice exited children, and schedule their restarts."""
        for child in list(self.members):
            process = child.process
            status = None if process is None else process.poll()
            if process is None or status is None:
                continue
            _forget_process(child)
            lived = time.monotonic() - child.started
            child.refused = status == EXIT_REFUSED
            if child.stop_by is not None or self.stopping:
                self.members.remove(child)
            elif child.refused and child.starts == 1 and child.planned and child.plan.needed:
                say(f"{child.plan.name} refused to start")
                self.refused = True
            else:
                from_outside = child.killed is None and status in _FROM_OUTSIDE
                pause = self._pause_after(child, lived, self._restarts.killed_s if from_outside else self._restarts.healthy_s)
                child.next_start = time.monotonic() + pause
                why = f"{child.killed}, " if child.killed else ""
                text = "refused to start" if child.refused else f"died ({why}{_how(status)}) after {lived:.1f} s"
                say(f"{child.plan.name} {text}; starting it again in {pause:.1f} s")
            wait = None if child.next_start is None else child.next_start - time.monotonic()
            self._callbacks.exited(child, ProcessExit(process.pid, status, lived, child.quick_exits, wait, child.killed))

    def _pause_after(self, child: ManagedProcess, lived_s: float, healthy_s: float) -> float:
        child.quick_exits = 1 if lived_s >= healthy_s else child.quick_exits + 1
        quick = child.quick_exits - 2
        return 0.0 if quick < 0 else self._restarts.backoff.delay(quick)

    def ask_to_stop(self, child: ManagedProcess) -> None:
        """Ask a child to stop within its grace. A child that does not run leaves the group at once."""
        grace_s = min(child.plan.grace_s, LEFT_S) if self.stopping and child.ordered else child.plan.grace_s
        child.stop_by = time.monotonic() + grace_s
        child.next_start = None
        if child.process is None:
            self.members.remove(child)
            return
        with contextlib.suppress(ProcessLookupError):
            child.process.terminate()

    def kill(self, child: ManagedProcess, reason: str) -> None:
        """Kill a child at once; it restarts."""
        child.killed = child.killed or reason
        if child.process is not None:
            kill_group(child.process)

    def kill_overdue(self) -> None:
        """Kill the children whose grace is over; say so once of each, however long its exit takes."""
        for child in self.members:
            if child.process is not None and child.stop_by is not None and time.monotonic() > child.stop_by:
                if child.killed is None:
                    say(f"{child.plan.name} did not stop in time; killed")
                self.forced = True
                self.kill(child, "it did not stop in time")

    def kill_all(self) -> None:
        """Kill all remaining children, and read what they have printed."""
        for child in self.members:
            if child.process is not None:
                self.forced = True
                say(f"{child.plan.name} was killed: the stop was forced")
                kill_group(child.process)
                child.process.wait()
                _forget_process(child)
        self.members.clear()
        until = time.monotonic() + _LAST_WORDS_S
        for reader in self._readers:
            reader.join(max(0.0, until - time.monotonic()))

    @property
    def judges(self) -> bool:
        """Whether any child is judged by its signs of life."""
        return any(child.plan.still_s is not None for child in self.members)

    def still(self) -> Iterator[ManagedProcess]:
        """The children whose sign of life is overdue at two looks in a row: after a pause of the whole machine, or of this
        process, they have had time to show life by the second look. Call it every LOOK_S."""
        now = time.monotonic()
        for child in self.members:
            if child.stdin is None or child.plan.still_s is None or child.stop_by is not None:
                continue
            if _has_shown_life(child.stdin):
                child.alive_at = now
            late = child.alive_at is not None and now - child.alive_at > child.plan.still_s
            before, child.overdue = child.overdue, late
            if before and late:
                yield child

    def waits(self) -> Iterator[float]:
        """Seconds until the next start of each child that waits for one."""
        now = time.monotonic()
        return (child.next_start - now for child in self.members if child.next_start is not None)

    def any_stopping(self) -> bool:
        """Whether a child was asked to stop and still runs."""
        return any(child.stop_by is not None for child in self.members)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Send SIGKILL. `leftovers.py` ends the child's descendants; without /proc it cannot see them, so the whole group is
    killed."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        (os.kill if Path("/proc/self").exists() else os.killpg)(process.pid, signal.SIGKILL)


def say(text: str) -> None:
    """Write one JSON line to the supervisor's log on standard error, like those of its children. Never waits."""
    _log.write(json.dumps({"level": "warning", "process": "supervisor", "event": text}) + "\n")


def _dropped_line(lines: int) -> str:
    event = {"level": "warning", "process": "supervisor", "event": "log-lines-dropped", "lines": lines}
    return json.dumps(event) + "\n"


_log = LogStream(2, _dropped_line)


def _forget_process(child: ManagedProcess) -> None:
    if child.stdin is not None:
        child.stdin.close()
    child.process = child.stdin = None


def _has_shown_life(stdin: socket.socket) -> bool:
    shown = False
    with contextlib.suppress(OSError):  # everything has been read
        while stdin.recv(4096):
            shown = True
    return shown


def _how(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"signal {-status}"
