"""Models that take at least ROW_S seconds per row, for bench/overload.py. Pickled by value, so each is self-contained."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

ROW_S = 0.005


def waits(rows: Any) -> Any:
    """The sum of each row, after waiting ROW_S for each."""
    time.sleep(ROW_S * len(rows))
    return np.asarray(rows).sum(axis=1)


def computes(rows: Any) -> Any:
    """The sum of each row, after using ROW_S of CPU time for each."""
    until = time.thread_time() + ROW_S * len(rows)
    while time.thread_time() < until:
        pass
    return np.asarray(rows).sum(axis=1)
