"""Finds and kills all descendants of a process, wherever they went.

A process that a model starts may leave its parent, its group and its session, drop its environment, ignore SIGTERM and outlive
the process that started it. So a process that executes models carries a mark that its descendants inherit through fork and exec:
a resource limit that Linux keeps and has not enforced since 2.4. On systems without marks, group and session identify descendants
([why](../../../docs/decisions/0018-descendants.md)).

    take_mark()  # in the process itself, before it executes anything
    descendants = Descendants.of(pid)  # in its parent, while the process runs
    descendants.end()  # after the process has exited, or to end it
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LIMIT, _LIMIT_NAME = 10, b"Max file locks"
"""RLIMIT_LOCKS: Python has no name for it."""
_MARKED, _PID_BITS = 1 << 62, 22
"""A mark combines _MARKED, the start time of its process in clock ticks since the machine's boot, and the process id."""
_TRACKER = b"resource_tracker import main"
"""Part of the command lines of helpers by which multiprocessing and joblib remove semaphores and shared memory."""
_PAUSE_S = 0.005
END_S = 2.0
"""How long it may take to end all descendants. The first half leaves helpers time to tidy up after the processes they serve."""


@dataclass(frozen=True, slots=True)
class Process:
    """A running process.

    Attributes:
        started: clock ticks since the machine's boot.
    """

    pid: int
    parent: int
    group: int
    session: int
    started: int

    @classmethod
    def seen(cls, pid: int) -> Process | None:
        """The process with that id; None when it is gone or has exited, and on systems without /proc."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            if fields[0] not in (b"Z", b"X"):
                return cls(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))
        return None

    @property
    def mark(self) -> int:
        """The mark that its descendants carry if it took its mark."""
        return _MARKED | self.started << _PID_BITS | self.pid

    @property
    def carries(self) -> int:
        """The mark that it carries: its own or that of an ancestor; 0 for none."""
        with contextlib.suppress(OSError, ValueError):
            for line in Path(f"/proc/{self.pid}/limits").read_bytes().splitlines():
                if line.startswith(_LIMIT_NAME):
                    mark = int(line.split()[4])
                    return mark if mark & _MARKED else 0
        return 0

    @property
    def tidies(self) -> bool:
        """Whether it is a helper that removes what killed processes leave behind."""
        with contextlib.suppress(OSError):
            return _TRACKER in Path(f"/proc/{self.pid}/cmdline").read_bytes()
        return False

    def kill(self) -> None:
        """Send SIGKILL."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Descendants:
    """A process and all its descendants.

    Attributes:
        mark: the mark that they carry if the process took it; 0 for none.
    """

    pid: int
    mark: int

    @classmethod
    def of(cls, pid: int) -> Descendants:
        """The descendants of a process that still runs."""
        process = Process.seen(pid)
        return cls(pid, 0 if process is None else process.mark)

    def members(self) -> list[Process]:
        """The running ones. For the calling process's own descendants: without itself and without the helpers that tidy up after
        it."""
        me = os.getpid()
        found = [each for each in _processes() if each.pid != me and self._has(each)]
        return [each for each in found if not each.tidies] if self.pid == me else found

    def end(self) -> None:
        """Kill until two looks in a row find no process: one look may miss a process that is just being forked."""
        begun = time.monotonic()
        empty = 0
        while empty < 2 and (passed := time.monotonic() - begun) < END_S:
            members = self.members()
            for process in members:
                if passed > END_S / 2 or not process.tidies:
                    process.kill()
            empty = 0 if members else empty + 1
            threading.Event().wait(_PAUSE_S)

    def _has(self, process: Process) -> bool:
        return self.pid in (process.group, process.session) or (self.mark != 0 and process.carries == self.mark)


def take_mark() -> None:
    """Make this process and its future descendants carry its mark. Where the system allows no mark, nothing happens."""
    process = Process.seen(os.getpid())
    if process is not None:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(_LIMIT, (process.mark, process.mark))


def is_orphan(process: Process) -> bool:
    """Whether the process carries no mark, its own mark, or the mark of an exited process."""
    root = Process.seen(process.carries & ((1 << _PID_BITS) - 1))
    return root is None or root.mark != process.carries or root.pid == process.pid


def is_running(pid: int) -> bool:
    """Whether process `pid` exists, on any system; False for a number that cannot be a process's."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    except OverflowError:  # no system has such an id
        return False
    return True


def children() -> Iterator[Process]:
    """The children of this process, including adopted ones."""
    me = os.getpid()
    return (each for each in _processes() if each.parent == me)


def _processes() -> Iterator[Process]:
    with contextlib.suppress(OSError):
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (process := Process.seen(int(entry.name))) is not None:
                yield process
