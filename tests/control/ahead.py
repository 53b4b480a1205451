"""Runs a module of the control plane with a clock that is ahead, so that gateways stay live: `ahead.py SECONDS MODULE`.

SECONDS is a file that is read each time the clock is. Gateways then count as fresh and live for hours: those of tests are
simulated, and on a busy machine they are silent for longer than real ones.
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

from roadworthy.control.controllers import observation as observing
from roadworthy.foundation.clock import SystemClock
from roadworthy.monitoring import gateways

HOUR_US = 3_600_000_000

if __name__ == "__main__":
    _, given, module = sys.argv

    def seconds() -> int:
        """How far the clock is ahead, in seconds."""
        return int(Path(given).read_text())

    SystemClock.monotonic = lambda _self: time.monotonic() + seconds()  # type: ignore[method-assign]
    SystemClock.now_us = lambda _self: time.time_ns() // 1_000 + seconds() * 1_000_000  # type: ignore[method-assign]
    observing.FRESH_US, gateways.ALIVE_US = 10 * HOUR_US, 100 * HOUR_US
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
