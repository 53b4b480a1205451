"""Measures the lag of a worker's event loop. It is on PYTHONPATH, so that every Python process imports it at its start.

In a worker only, a timer fires every PERIOD_S and appends three float64 to the file LAG_FILE: the time (monotonic clock), the
lag, and the loop thread's own CPU time since the previous one, all in seconds.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from typing import Any

PERIOD_S = 0.002


def _watch(loop: Any) -> None:
    file = os.open(os.environ["LAG_FILE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    due, busy = time.monotonic() + PERIOD_S, time.thread_time()

    def tick() -> None:
        nonlocal due, busy
        now, computed = time.monotonic(), time.thread_time()
        os.write(file, struct.pack("<3d", now, now - due, computed - busy))
        due, busy = now + PERIOD_S, computed
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
