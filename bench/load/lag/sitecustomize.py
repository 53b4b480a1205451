"""Measures how late a worker's event loop is: put on PYTHONPATH, where Python imports it in each process at its start.

In a worker, and nowhere else, a timer goes off every PERIOD_S and appends to the file that LAG_FILE names: when it went off
(monotonic clock), by how much too late, and how much the loop's thread itself had computed meanwhile, as three float64.
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
