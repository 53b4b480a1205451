"""Measures the lag of a worker's event loop. It is on PYTHONPATH, so that every Python process imports it at its start.

In a worker only, a timer fires every PERIOD_S and appends four float64 to the file LAG_FILE: the time (monotonic clock), the lag,
and since the previous one the loop thread's own CPU time and its wait for a core, all in seconds. The rest of a lag is a wait for
the interpreter, which another thread had.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import time
from typing import Any

PERIOD_S = 0.002


def _watch(loop: Any) -> None:
    file = os.open(os.environ["LAG_FILE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    statistics = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)

    def read() -> tuple[float, float]:
        """The thread's CPU time and its wait for a core so far, in seconds."""
        return time.thread_time(), int(os.pread(statistics, 100, 0).split()[1]) / 1e9

    due, (busy, waited) = time.monotonic() + PERIOD_S, read()

    def tick() -> None:
        nonlocal due, busy, waited
        before, now = (busy, waited), time.monotonic()
        busy, waited = read()
        os.write(file, struct.pack("<4d", now, now - due, busy - before[0], waited - before[1]))
        due = now + PERIOD_S
        loop.call_later(PERIOD_S, tick)

    loop.call_later(PERIOD_S, tick)


if "roadworthy.gateway.worker" in sys.orig_argv and "LAG_FILE" in os.environ:
    import uvloop

    _new = uvloop.new_event_loop

    def _new_watched() -> Any:
        loop = _new()
        loop.call_soon(_watch, loop)
        return loop

    uvloop.new_event_loop = _new_watched
