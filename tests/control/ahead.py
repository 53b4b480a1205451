"""Runs a module with a monotonic clock that is ahead: `ahead.py SECONDS MODULE`, SECONDS a file that is read at every look."""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

from roadworthy.foundation.clock import SystemClock

if __name__ == "__main__":
    _, seconds, module = sys.argv
    SystemClock.monotonic = lambda _self: time.monotonic() + float(Path(seconds).read_text())  # type: ignore[method-assign]
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
