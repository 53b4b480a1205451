"""Runs a program, or a module, with a wall clock that jumps: `jumping_clock.py OFFSET PROGRAM …`.

OFFSET is a file with the clock's error in seconds, read at every look at the clock; "-" alternates between an hour forwards and
backwards, at every look.
"""

from __future__ import annotations

import itertools
import runpy
import sys
import time
from pathlib import Path

HOUR_S = 3_600
_wall_ns = time.time_ns
_looks = itertools.count()


def jump(offset: str) -> None:
    """Replace the wall clock of this process."""

    def seconds() -> int:
        return (next(_looks) % 3 - 1) * HOUR_S if offset == "-" else int(Path(offset).read_text())

    time.time_ns = lambda: _wall_ns() + seconds() * 1_000_000_000
    time.time = lambda: time.time_ns() / 1e9


if __name__ == "__main__":
    _, given, program, *rest = sys.argv
    sys.argv = [program, *rest]
    jump(given)
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
