"""Finds and ends everything that descends from a process, wherever it went.

What a model starts may leave its parent, its group and its session, drop its environment, ignore SIGTERM and outlive the
process that started it. So a process that executes models carries a mark that its descendants inherit through fork and exec: a
resource limit that Linux keeps and has not enforced since 2.4. Where no mark can be had, group and session tell
([why](../../../docs/decisions/0018-descendants.md)).

    take_mark()  # in the process itself, before it executes anything
    kin = Kin.of(pid)  # in its parent, while the process is there
    kin.end()  # when the process has ended, or to end it
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
"""A mark is _MARKED, the time when its process started in clock ticks since the machine's boot, and the process's id."""
_TRACKER = b"resource_tracker import main"
"""In the command lines of the helpers by which multiprocessing and joblib remove semaphores and shared memory."""
_PAUSE_S = 0.005
END_S = 2.0
"""How long the end of all may take. In the first half helpers tidy up: they do once those that they serve are gone."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that has not ended.

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
        """The process of that id; None when it is gone, has ended, or where the kernel does not tell (no /proc)."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            if fields[0] not in (b"Z", b"X"):
                return cls(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))
        return None

    @property
    def mark(self) -> int:
        """The mark that its descendants carry if it took one."""
        return _MARKED | self.started << _PID_BITS | self.pid

    @property
    def carries(self) -> int:
        """The mark that it carries: its own or that of the process from which it descends; 0 for none."""
        with contextlib.suppress(OSError, ValueError):
            for line in Path(f"/proc/{self.pid}/limits").read_bytes().splitlines():
                if line.startswith(_LIMIT_NAME):
                    mark = int(line.split()[4])
                    return mark if mark & _MARKED else 0
        return 0

    @property
    def tidies(self) -> bool:
        """Whether it removes what others leave behind when they are killed."""
        with contextlib.suppress(OSError):
            return _TRACKER in Path(f"/proc/{self.pid}/cmdline").read_bytes()
        return False

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Kin:
    """A process and all its descendants.

    Attributes:
        mark: that they carry, if the process took it.
    """

    pid: int
    mark: int

    @classmethod
    def of(cls, pid: int) -> Kin:
        """Those of a process that is there."""
        process = Process.seen(pid)
        return cls(pid, 0 if process is None else process.mark)

    def members(self) -> list[Process]:
        """Who of them is alive. A process that asks for its own kin is told neither itself nor those who tidy up after it."""
        me = os.getpid()
        found = [each for each in _processes() if each.pid != me and self._has(each)]
        return [each for each in found if not each.tidies] if self.pid == me else found

    def end(self) -> None:
        """Kill until nobody is left, in two looks: one may miss a process that is just being forked."""
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
    """Have this process and whatever will descend from it carry its mark. Where that cannot be, nothing happens."""
    process = Process.seen(os.getpid())
    if process is not None:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(_LIMIT, (process.mark, process.mark))


def is_orphan(process: Process) -> bool:
    """Whether it carries no mark, its own, or that of a process that has ended."""
    root = Process.seen(process.carries & ((1 << _PID_BITS) - 1))
    return root is None or root.mark != process.carries or root.pid == process.pid


def children() -> Iterator[Process]:
    """Of this process, those that it adopted among them."""
    me = os.getpid()
    return (each for each in _processes() if each.parent == me)


def _processes() -> Iterator[Process]:
    with contextlib.suppress(OSError):
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (process := Process.seen(int(entry.name))) is not None:
                yield process
