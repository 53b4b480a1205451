"""The supervisor's children as processes: started with their document on standard input, restarted with pauses, stopped."""

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
from roadworthy.foundation.log_stream import LogStream
from roadworthy.supervisor.output import Printed, read_printed
from roadworthy.supervisor.plan import ChildPlan, Restarts

LOOK_S = 2.0
"""How often signs of life are looked for, in seconds."""
_LAST_WORDS_S = 2.0
"""How long the end may be held up by what children have printed: one of their own children may hold the pipe, and never end."""
LEFT_S = 5.0
"""The longest grace of an ordered child when everything stops: it stops after those who call it, so that nobody waits for what it
still does, however long a run of its model may take."""
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)


@dataclass(slots=True, eq=False)
class ManagedProcess:
    """A child, running or between two lives.

    Attributes:
        slot: of the slab, for a worker.
        deaths: quick ones in a row. starts: in all.
        next_start: when it is to be started, monotonic seconds; None when it runs or is to stop.
        planned: whether its refusal to start stops everything. ordered: whether another child ordered it.
        stop_by: when it is killed, once it was told to stop.
        killed: why this process killed it, for the report of its death.
        line: this end of its standard input. alive_at: when it showed life last; None before it ever did. overdue: whether it had
            shown none for too long when it was looked at last.
        refused: whether its last life refused to start.
    """

    plan: ChildPlan
    slot: int | None
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    next_start: float | None = 0.0
    starts: int = 0
    planned: bool = True
    ordered: bool = False
    stop_by: float | None = None
    killed: str | None = None
    line: socket.socket | None = None
    alive_at: float | None = None
    overdue: bool = False
    refused: bool = False


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """How a child ended.

    Attributes:
        status: exit status, or minus the signal's number.
        lived_s: since it was started. deaths: quick ones in a row with this one.
        next_start_s: in how many seconds it is started again; None when it is not.
        reason: why this process killed it, when it did.
    """

    pid: int
    status: int
    lived_s: float
    deaths: int
    next_start_s: float | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who wants to know.

    Attributes:
        channel: the far end of a channel that a child is to inherit, or None.
        started, died: called after it.
    """

    channel: Callable[[ManagedProcess], socket.socket | None]
    started: Callable[[ManagedProcess, int], None]
    died: Callable[[ManagedProcess, ProcessExit], None]


class ProcessGroup:
    """All children.

    Attributes:
        members: those that run, wait for their next start, or are stopping.
        forced: whether one had to be killed to stop. refused: whether one refused to start.
        stopping: nobody is started any more.
    """

    def __init__(self, plans: Sequence[ChildPlan], restarts: Restarts, listeners: Listeners) -> None:
        self.members = [ManagedProcess(plan, plan.slot) for plan in plans]
        self.forced = False
        self.refused = False
        self.stopping = False
        self._restarts = restarts
        self._listeners = listeners
        self._readers: list[threading.Thread] = []

    def pids(self) -> set[int]:
        """The processes of all children."""
        return {child.process.pid for child in self.members if child.process is not None}

    def workers(self) -> list[ManagedProcess]:
        """Those that have a slot."""
        return [child for child in self.members if child.slot is not None]

    def start_due(self) -> None:
        """Start those whose time has come."""
        now = time.monotonic()
        for child in self.members:
            if child.next_start is not None and child.next_start <= now:
                self.start(child)

    def start(self, child: ManagedProcess) -> None:
        """Start one."""
        document = dict(child.plan.document) if child.slot is None else {**child.plan.document, "slot": child.slot}
        child.next_start = None
        child.killed = None
        child.started = time.monotonic()
        child.starts += 1
        child.alive_at, child.overdue = None, False
        line, end = socket.socketpair()
        far = self._listeners.channel(child)
        fds = child.plan.fds
        if far is not None:
            document["children_fd"] = far.fileno()
            fds = (*fds, far.fileno())
        prints = -1
        try:
            prints, printed = os.pipe()
            with os.fdopen(printed, "wb") as out:
                # A session of its own keeps the terminal's Ctrl-C from the children: they stop in order, told by this process.
                process = subprocess.Popen(  # noqa: S603 - the commands come from our own command line, or are on its list
                    child.plan.argv, stdin=end.fileno(), stdout=out, pass_fds=fds, start_new_session=True
                )
        except OSError as error:  # no more processes, descriptors, or no memory: later, perhaps
            line.close()
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
        child.process, child.line = process, line
        with contextlib.suppress(OSError):  # it died already: `reap` sees that
            line.sendall(json.dumps(document).encode("utf-8") + b"\n")
        line.setblocking(False)
        self._listeners.started(child, process.pid)

    def reap(self) -> None:
        """Notice who has ended, and when it is to be started again."""
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
                pause = self._pause_after(
                    child, lived, self._restarts.killed_s if from_outside else self._restarts.healthy_s
                )
                child.next_start = time.monotonic() + pause
                why = f"{child.killed}, " if child.killed else ""
                text = "refused to start" if child.refused else f"died ({why}{_how(status)}) after {lived:.1f} s"
                say(f"{child.plan.name} {text}; starting it again in {pause:.1f} s")
            wait = None if child.next_start is None else child.next_start - time.monotonic()
            self._listeners.died(child, ProcessExit(process.pid, status, lived, child.deaths, wait, child.killed))

    def _pause_after(self, child: ManagedProcess, lived_s: float, healthy_s: float) -> float:
        child.deaths = 1 if lived_s >= healthy_s else child.deaths + 1
        quick = child.deaths - 2
        return 0.0 if quick < 0 else self._restarts.backoff.delay(quick)

    def ask_to_stop(self, child: ManagedProcess) -> None:
        """Tell one to stop within its grace; one that does not run is struck off at once."""
        grace_s = min(child.plan.grace_s, LEFT_S) if self.stopping and child.ordered else child.plan.grace_s
        child.stop_by = time.monotonic() + grace_s
        child.next_start = None
        if child.process is None:
            self.members.remove(child)
            return
        with contextlib.suppress(ProcessLookupError):
            child.process.terminate()

    def kill(self, child: ManagedProcess, reason: str) -> None:
        """End one at once; it is started again."""
        child.killed = child.killed or reason
        if child.process is not None:
            kill_group(child.process)

    def kill_overdue(self) -> None:
        """End those whose grace is over."""
        for child in self.members:
            if child.process is not None and child.stop_by is not None and time.monotonic() > child.stop_by:
                say(f"{child.plan.name} did not stop in time; killed")
                self.forced = True
                kill_group(child.process)

    def kill_all(self) -> None:
        """End everybody who is left, and read what all of them have printed."""
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
        """Whether a child is judged by its signs of life."""
        return any(child.plan.still_s is not None for child in self.members)

    def still(self) -> Iterator[ManagedProcess]:
        """Those that have shown no life for too long, at two looks in a row: when this whole machine, or this process, stood
        still, they have had the time to show some by the second. Call it every LOOK_S."""
        now = time.monotonic()
        for child in self.members:
            if child.line is None or child.plan.still_s is None or child.stop_by is not None:
                continue
            if _has_shown_life(child.line):
                child.alive_at = now
            late = child.alive_at is not None and now - child.alive_at > child.plan.still_s
            before, child.overdue = child.overdue, late
            if before and late:
                yield child

    def waits(self) -> Iterator[float]:
        """In how many seconds the next start is due, for each that waits for one."""
        now = time.monotonic()
        return (child.next_start - now for child in self.members if child.next_start is not None)

    def someone_stops(self) -> bool:
        """Whether a child was told to stop and is still there."""
        return any(child.stop_by is not None for child in self.members)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """kill -9. `leftovers.py` ends what descends from the child; where that cannot see it, the child's group goes along."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        (os.kill if Path("/proc/self").exists() else os.killpg)(process.pid, signal.SIGKILL)


def say(text: str) -> None:
    """The log of this process: one JSON line on standard error, as its children write theirs. Never waits."""
    _log.write(json.dumps({"level": "warning", "process": "supervisor", "event": text}) + "\n")


def _tell_dropped(lines: int) -> str:
    told = {"level": "warning", "process": "supervisor", "event": "log-lines-dropped", "lines": lines}
    return json.dumps(told) + "\n"


_log = LogStream(2, _tell_dropped)


def _forget_process(child: ManagedProcess) -> None:
    if child.line is not None:
        child.line.close()
    child.process = child.line = None


def _has_shown_life(line: socket.socket) -> bool:
    shown = False
    with contextlib.suppress(OSError):  # nothing more is there
        while line.recv(4096):
            shown = True
    return shown


def _how(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"signal {-status}"
