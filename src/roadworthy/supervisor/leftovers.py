"""Ends the processes that children leave behind: all descendants of a child that has exited, however it exited.

The supervisor adopts the orphans among its descendants. A process that detached from the runner of its model stays as long as
that runner lives. A process that carries no mark (`foundation/descendants.py`), or the mark of an exited process, is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Collection

from roadworthy.foundation.descendants import END_S, children, is_orphan

_PR_SET_CHILD_SUBREAPER = 36
_PAUSE_S = 0.005


class Leftovers:
    """Looks for orphans step by step, so that the supervisor never waits for it. Main thread only.

    Attributes:
        busy: whether orphans may be left: look again soon.
    """

    def __init__(self) -> None:
        self.busy = False
        self._spared: set[int] = set()
        self._tidy_until = 0.0

    def begin(self) -> None:
        """Adopt orphans from now on."""
        _adopt(True)
        # A process keeps its children through exec: spare those of the shell that became the supervisor.
        self._spared = {process.pid for process in children()}

    def child_exited(self) -> None:
        """Note that a child has exited and was waited for: its descendants are orphans now."""
        self.busy = True
        self._tidy_until = time.monotonic() + END_S / 2

    def look(self, own: Collection[int]) -> None:
        """Kill orphans, and wait for adopted processes that have exited.

        Args:
            own: ids of the supervisor's children.
        """
        orphans = [each for each in children() if each.pid not in own and each.pid not in self._spared and is_orphan(each)]
        for process in orphans:
            if time.monotonic() > self._tidy_until or not process.tidies:
                process.kill()
        self.busy = bool(orphans)
        self.reap(own)

    def reap(self, own: Collection[int]) -> None:
        """Wait for adopted processes that have exited: the kernel keeps each one until its parent waits for it."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid not in own:
                os.waitpid(ended.si_pid, os.WNOHANG)

    def finish(self) -> None:
        """Kill all orphans once the supervisor has no children left, and stop adopting."""
        self.child_exited()
        until = time.monotonic() + 2 * END_S
        while self.busy and time.monotonic() < until:
            self.look(())
            threading.Event().wait(_PAUSE_S)
        _adopt(False)


def _adopt(wanted: bool) -> None:
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)
