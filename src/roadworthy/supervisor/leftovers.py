"""Ends what children leave behind: all that descends from one that has ended, however it ended. The supervisor's loop calls.

The supervisor adopts what its descendants orphan. A process that left the runner of its model stays for as long as that runner
lives. One that carries no mark (`foundation/kin.py`), or the mark of a process that has ended, is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Collection

from roadworthy.foundation.kin import END_S, children, is_orphan

_PR_SET_CHILD_SUBREAPER = 36
_PAUSE_S = 0.005


class Leftovers:
    """Looks step by step, so that nobody waits for it. Main thread only.

    Attributes:
        busy: whether somebody may still have to be ended: look again soon.
    """

    def __init__(self) -> None:
        self.busy = False
        self._spared: set[int] = set()
        self._patience = 0.0

    def begin(self) -> None:
        """Adopt from now on."""
        _adopt(True)
        # A process keeps its children when it executes another program: those of the shell that became the supervisor.
        self._spared = {process.pid for process in children()}

    def someone_died(self) -> None:
        """A child has ended, and was waited for."""
        self.busy = True
        self._patience = time.monotonic() + END_S / 2

    def look(self, own: Collection[int]) -> None:
        """End adopted processes that belong to nobody, and wait for those that have ended.

        Args:
            own: ids of the supervisor's children.
        """
        orphans = [
            each for each in children() if each.pid not in own and each.pid not in self._spared and is_orphan(each)
        ]
        for process in orphans:
            if time.monotonic() > self._patience or not process.tidies:
                process.kill()
        self.busy = bool(orphans)
        self.reap(own)

    def reap(self, own: Collection[int]) -> None:
        """Wait for adopted processes that have ended: the kernel keeps each until somebody does."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid not in own:
                os.waitpid(ended.si_pid, os.WNOHANG)

    def finish(self) -> None:
        """End all of them, once the supervisor has no child any more, and adopt no more."""
        self.someone_died()
        until = time.monotonic() + 2 * END_S
        while self.busy and time.monotonic() < until:
            self.look(())
            threading.Event().wait(_PAUSE_S)
        _adopt(False)


def _adopt(wanted: bool) -> None:
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)
