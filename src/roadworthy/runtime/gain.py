"""Whether joining requests pays for a model, learned from how long its runs take. `batching.py` asks before each run.

A run of n rows is taken to cost a + b·n seconds. Joining saves a for each request that is joined; where a is next to nothing
beside b (a model that goes through its rows one by one) it saves nothing, and only makes the first callers wait for the last.
"""

from __future__ import annotations

LEAST_SHARE = 0.1
"""Joining is left off while a is less than this share of a + b, the cost of one row alone."""
_DECAY = 0.98
_LEAST_RUNS = 30
_LOOK_AGAIN = 64


class Gain:
    """Least squares of run times over row counts, older runs weighing less.

    Args:
        fixed: the limit that a person set, or None to learn.
        most: no joined run is longer.
    """

    __slots__ = ("_fixed", "_most", "_n", "_pays", "_runs", "_t", "_tx", "_x", "_xx")

    def __init__(self, fixed: int | None, most: int) -> None:
        self._fixed = fixed
        self._most = most
        self._pays = True
        self._runs = 0
        self._n = self._x = self._xx = self._t = self._tx = 0.0

    def limit(self) -> int:
        """Rows that the next run may join."""
        if self._fixed is not None:
            return self._fixed
        if self._pays or self._runs % _LOOK_AGAIN == 0:
            return self._most
        return 1

    def ran(self, rows: int, seconds: float) -> None:
        """Learn from a run of so many rows."""
        if self._fixed is not None:
            return
        self._runs += 1
        self._n = self._n * _DECAY + 1
        self._x = self._x * _DECAY + rows
        self._xx = self._xx * _DECAY + rows * rows
        self._t = self._t * _DECAY + seconds
        self._tx = self._tx * _DECAY + rows * seconds
        if self._runs % 16 == 0 and self._runs >= _LEAST_RUNS:
            self._judge()

    def _judge(self) -> None:
        spread = self._n * self._xx - self._x * self._x
        if spread < self._n * self._n:  # all runs were about as long: nothing can be told
            return
        per_row = (self._n * self._tx - self._x * self._t) / spread
        base = (self._t - per_row * self._x) / self._n
        self._pays = per_row <= 0 or base >= LEAST_SHARE * (base + per_row)
