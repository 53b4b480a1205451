"""What a run costs, learned from how long runs take: whether joining requests pays, and how long those who wait will wait.

A run of n rows is taken to cost a + b·n seconds. Joining saves a for each request that is joined; where a is next to nothing
beside b (a model that goes through its rows one by one) it saves nothing, and only makes the first callers wait for the last.
`request_queue.py` asks before each run, and for each request that comes while others wait.
"""

from __future__ import annotations

import math

LEAST_SHARE = 0.1
"""Joining is left off while a is less than this share of a + b, the cost of one row alone."""
FIRST_ROWS = 64
"""The first joined runs have no more rows than this; each run that was half full doubles it."""
_DECAY = 0.98
_LOOK_AGAIN = 16
_LOOK_ROWS = 4
_EARLY_RUNS = 16
_LEAST_SPREAD = 0.005


class BatchSizer:
    """Least squares of the time a row takes over 1/n: of run times over n, with errors that grow with n. Older runs weigh less.

    Args:
        fixed: the limit that a person set, or None to learn.
        most: no joined run is longer.
    """

    __slots__ = (
        "_base",
        "_fixed",
        "_grown",
        "_most",
        "_n",
        "_pays",
        "_per_row",
        "_runs",
        "_t",
        "_u",
        "_uu",
        "_x",
        "_y",
        "_yu",
    )

    def __init__(self, fixed: int | None, most: int) -> None:
        self._fixed = fixed
        self._most = most
        self._grown = min(FIRST_ROWS, most)
        self._pays = True
        self._runs = 0
        self._base = self._per_row = 0.0
        self._n = self._x = self._t = self._u = self._uu = self._y = self._yu = 0.0

    def limit(self) -> int:
        """Rows that the next run may join."""
        if self._fixed is not None:
            return self._fixed
        if self._pays:
            return self._grown
        return _LOOK_ROWS if self._runs % _LOOK_AGAIN == 0 else 1

    def ran(self, rows: int, seconds: float) -> None:
        """Learn from a run of so many rows."""
        if rows <= 0:
            return
        self._runs += 1
        if 2 * rows >= self._grown:
            self._grown = min(2 * self._grown, self._most)
        share, each = 1 / rows, seconds / rows
        self._n = self._n * _DECAY + 1
        self._x = self._x * _DECAY + rows
        self._t = self._t * _DECAY + seconds
        self._u = self._u * _DECAY + share
        self._uu = self._uu * _DECAY + share * share
        self._y = self._y * _DECAY + each
        self._yu = self._yu * _DECAY + each * share
        if self._runs <= _EARLY_RUNS or self._runs % _LOOK_AGAIN == 0:
            self._judge()

    def seconds(self, rows: int) -> float:
        """How long so many rows will take, in runs as they are now; 0 while nothing is known."""
        if self._fixed is None:
            limit = self._grown if self._pays else 1
        else:
            limit = self._fixed
        return math.ceil(rows / limit) * self._base + rows * self._per_row

    def rows_within(self, seconds: float) -> int:
        """How many rows one run may have in order to be over in so many seconds; at least 1."""
        mean = self._t / self._x if self._x else 0.0
        per_row = min(mean, self._per_row) if self._per_row else mean
        return max(1, int(min(seconds / per_row, 1e9))) if per_row > 0 else self._most

    def _judge(self) -> None:
        spread = self._n * self._uu - self._u * self._u
        if (
            spread < _LEAST_SPREAD * self._n * self._n
        ):  # all runs were about as long: what is known is what one of them costs
            if not self._per_row:
                self._base = self._t / self._n
            return
        base = (self._n * self._yu - self._u * self._y) / spread
        per_row = (self._y - base * self._u) / self._n
        self._per_row, self._base = max(0.0, per_row), max(0.0, base)
        self._pays = per_row <= 0 or base >= LEAST_SHARE * (base + per_row)
