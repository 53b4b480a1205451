"""Brings what children print into the log, each line as one JSON object, so that no output can pass for a log line of Roadworthy.
Length and rate of lines are bounded, so that the log stays readable.

The children's own logs do not come this way (`foundation/child.py`, separate_log): this output comes from models, native
libraries and the interpreter. One thread for each child reads all the time, so that printing never waits for the log.
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
"""Lines that one child may print in a burst; beyond it LINES_A_SECOND holds."""
_BLOCK_BYTES = 1 << 16


class Printed:
    """Turns what one process prints into log lines.

    Args:
        name, pid: of the process.
        write: called with each line of JSON, including its line break.
        clock: monotonic seconds.
    """

    def __init__(self, name: str, pid: int, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
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
        """Take the next bytes that the process printed."""
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._end_line(line)
        self._cut = self._cut or len(rest) > MOST_LINE_BYTES
        self._rest = rest[:MOST_LINE_BYTES]

    def close(self) -> None:
        """Write the last unfinished line; the process prints nothing further."""
        if self._rest:
            self._end_line(self._rest)
            self._rest = b""
        self._report_dropped()

    def _end_line(self, line: bytes) -> None:
        cut, self._cut = self._cut or len(line) > MOST_LINE_BYTES, False
        now = self._clock()
        self._allowed = min(MOST_AT_ONCE, self._allowed + LINES_A_SECOND * (now - self._looked))
        self._looked = now
        if self._allowed < 1:
            self._dropped += 1
            return
        self._allowed -= 1
        self._report_dropped()
        text = line[:MOST_LINE_BYTES].decode("utf-8", "backslashreplace")
        self._write_event("printed", text=text.rstrip("\r"), **({"cut": True} if cut else {}))

    def _report_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._write_event("printed-lines-dropped", lines=dropped)

    def _write_event(self, event: str, **facts: object) -> None:
        at = datetime.now(UTC).isoformat()
        document = {"event": event, **facts, "level": "info", "timestamp": at, "process": self._name, "pid": self._pid}
        self._write(json.dumps(document) + "\n")


def read_printed(descriptor: int, printed: Printed) -> threading.Thread:
    """Start and return a thread that reads a pipe until every process has closed its other end, then closes it."""

    def read() -> None:
        with open(descriptor, "rb", buffering=0) as pipe:
            while data := pipe.read(_BLOCK_BYTES):
                printed.take(data)
        printed.close()

    thread = threading.Thread(target=read, name="printed", daemon=True)
    thread.start()
    return thread
