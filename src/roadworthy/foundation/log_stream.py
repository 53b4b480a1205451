"""A stream for log lines whose `write` never waits and never fails, so that no process stops because of its log.

A thread writes to the descriptor. While that is blocked (a pipe without a reader), closed or full, lines wait within a bound.
Lines beyond the bound are dropped and counted, and the count is logged as soon as lines get through again. `runtime/logs.py`,
`control/logs.py` and the supervisor write through it.
"""

from __future__ import annotations

import atexit
import os
import select
import threading
from collections import deque
from collections.abc import Callable

MOST_HELD_BYTES = 1 << 20
LAST_WORDS_S = 0.5
"""How long lines that are not written yet may delay the exit of the process."""


class LogStream:
    """Behaves like a text file for loggers. Any thread.

    Args:
        descriptor: where to write; not owned.
        describe: makes the log line, including its line break, for a number of dropped lines.
        most_held_bytes: bound of the waiting lines.

    Attributes:
        dropped: number of lines that were never written.
    """

    def __init__(self, descriptor: int, describe: Callable[[int], str], *, most_held_bytes: int = MOST_HELD_BYTES) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._describe = describe
        self._most_held_bytes = most_held_bytes
        self._reported = 0
        self._torn = False
        self._reset()
        atexit.register(self.drain, LAST_WORDS_S)
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        """Start without a thread; also in a forked child, which does not have its parent's thread."""
        self._some = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._held_bytes = 0
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> int:
        """Queue `text`, whole lines, for writing; return at once."""
        data = text.encode("utf-8", "backslashreplace")
        with self._some:
            if self._held_bytes + len(data) > self._most_held_bytes:
                self.dropped += 1
                return len(text)
            self._held_bytes += len(data)
            self._lines.append(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="log", daemon=True)
                self._thread.start()
            self._some.notify_all()
        return len(text)

    def flush(self) -> None:
        """Nothing to do: the thread writes as soon as it can."""

    def drain(self, within_s: float) -> bool:
        """Wait at most `within_s` seconds; return whether everything is written. Call it before a forced exit."""
        with self._some:
            return self._some.wait_for(lambda: not self._held_bytes, within_s)

    def _work(self) -> None:
        while True:
            with self._some:
                self._some.wait_for(lambda: self._lines)
                lines, self._lines = self._lines, deque()
            written = self._write_all(b"".join(lines))
            if written:
                self._report_dropped()
            with self._some:
                if not written:
                    self.dropped += len(lines)
                self._held_bytes -= sum(map(len, lines))
                self._some.notify_all()
            if written:
                self._report_dropped()  # lines dropped while this block was being written

    def _report_dropped(self) -> None:
        dropped = self.dropped - self._reported
        if dropped and self._write_all(self._describe(dropped).encode("utf-8")):
            self._reported += dropped

    def _write_all(self, data: bytes) -> bool:
        """Return False when the descriptor refuses; the next write then ends the torn line first."""
        rest = memoryview(b"\n" + data if self._torn else data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another process that shares the descriptor made it non-blocking
                select.select([], [self._descriptor], [], 1.0)
            except OSError:
                self._torn = True
                return False
        self._torn = False
        return True
