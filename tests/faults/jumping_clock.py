"""Runs the program named first with a wall clock that steps by an hour, forwards and backwards, ten times a second."""

from __future__ import annotations

import runpy
import sys
import time

HOUR_S = 3_600
_wall_ns, _monotonic = time.time_ns, time.monotonic


def _jump_s() -> int:
    return (int(_monotonic() * 10) % 3 - 1) * HOUR_S


time.time_ns = lambda: _wall_ns() + _jump_s() * 1_000_000_000
time.time = lambda: time.time_ns() / 1e9

if __name__ == "__main__":
    program = sys.argv.pop(1)
    sys.argv[0] = program
    runpy.run_path(program, run_name="__main__")
