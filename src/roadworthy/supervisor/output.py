"""What children print, in the log: one line of JSON for each line, so that nobody who prints can pass for a process of ours, and
so many and so long ones that the log stays readable.

The children's own logs do not come this way (`foundation/child.py`, keep_log_apart): what does is printed by models, by native
libraries and by the interpreter. A thread for each child reads all the time, so that nobody who prints ever waits for the log.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

MOST_LINE_BYTES = 2_000
LINES_A_SECOND = 20
MOST_AT_ONCE = 200
"""Lines of a child that may come in a moment; then as many as LINES_A_SECOND allows."""
_BLOCK_BYTES = 1 << 16


class Printed:
    """Makes log lines of what one process prints.

    Args:
        name, pid: of the process.
        write: takes a line of JSON, with its line break.
        clock: monotonic seconds.
    """

    def __init__(
        self, name: str, pid: int, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._pid = pid
        self._write = write
        self._clock = clock
        self._rest = b""
        self._cut = False
        self._allowed = float(MOST_AT_ONCE)
        self._looked = clock()
        self._dropped = 0

    def take(self, data: bytes) -> None:
        """The next bytes that it printed."""
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._end_line(line)
        self._cut = self._cut or len(rest) > MOST_LINE_BYTES
        self._rest = rest[:MOST_LINE_BYTES]

    def close(self) -> None:
        """It will print no more."""
        if self._rest:
            self._end_line(self._rest)
            self._rest = b""
        self._tell_dropped()

    def _end_line(self, line: bytes) -> None:
        cut, self._cut = self._cut or len(line) > MOST_LINE_BYTES, False
        now = self._clock()
        self._allowed = min(MOST_AT_ONCE, self._allowed + LINES_A_SECOND * (now - self._looked))
        self._looked = now
        if self._allowed < 1:
            self._dropped += 1
            return
        self._allowed -= 1
        self._tell_dropped()
        text = line[:MOST_LINE_BYTES].decode("utf-8", "backslashreplace")
        self._tell("printed", text=text.rstrip("\r"), **({"cut": True} if cut else {}))

    def _tell_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._tell("printed-lines-dropped", lines=dropped)

    def _tell(self, event: str, **facts: object) -> None:
        at = datetime.now(UTC).isoformat()
        document = {"event": event, **facts, "level": "info", "timestamp": at, "process": self._name, "pid": self._pid}
        self._write(json.dumps(document) + "\n")


def read_printed(descriptor: int, printed: Printed) -> threading.Thread:
    """Read a pipe, in the thread that is returned, until all who hold its other end are gone; then close it."""

    def read() -> None:
        with open(descriptor, "rb", buffering=0) as pipe:
            while data := pipe.read(_BLOCK_BYTES):
                printed.take(data)
        printed.close()

    thread = threading.Thread(target=read, name="printed", daemon=True)
    thread.start()
    return thread
