"""Models that take at least ROW_S a row, for bench/overload.py. They travel by value, so each holds all that it needs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

ROW_S = 0.005


def waits(rows: Any) -> Any:
    """The sum of each row, after ROW_S of waiting for each."""
    time.sleep(ROW_S * len(rows))
    return np.asarray(rows).sum(axis=1)


def computes(rows: Any) -> Any:
    """The sum of each row, after ROW_S of the processor's time for each."""
    until = time.thread_time() + ROW_S * len(rows)
    while time.thread_time() < until:
        pass
    return np.asarray(rows).sum(axis=1)
