"""Learns what a run costs from the times of runs: whether joining requests pays off, and how long waiting requests will wait.

The cost of a run of n rows is modelled as a + b·n seconds. Joining saves a for each joined request. Where a is negligible
compared with b (a model that goes through its rows one by one), joining saves nothing and only makes the first callers wait for
the last.
"""

from __future__ import annotations

import math

LEAST_SHARE = 0.1
"""Requests are not joined while a is less than this share of a + b, the cost of one row alone."""
FIRST_ROWS = 64
"""The limit of the first joined runs; each run that is at least half full doubles it."""
_DECAY = 0.98
_LOOK_AGAIN = 16
_LOOK_ROWS = 4
_EARLY_RUNS = 16
_LEAST_SPREAD = 0.005


class BatchSizer:
    """Chooses how many rows a run may join. It fits the time per row over 1/n by least squares, which is run time over n with
    errors that grow with n. Older runs weigh less.

    Args:
        fixed: a configured limit, or None to learn the limit.
        most: the largest limit in rows.
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
        """Learn from a run of `rows` rows that took `seconds` seconds."""
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
        """The expected seconds for `rows` rows, in runs of the current limit; 0 while nothing is known."""
        if self._fixed is None:
            limit = self._grown if self._pays else 1
        else:
            limit = self._fixed
        return math.ceil(rows / limit) * self._base + rows * self._per_row

    def rows_within(self, seconds: float) -> int:
        """How many rows one run may have to end within `seconds` seconds; at least 1."""
        mean = self._t / self._x if self._x else 0.0
        per_row = min(mean, self._per_row) if self._per_row else mean
        return max(1, int(min(seconds / per_row, 1e9))) if per_row > 0 else self._most

    def _judge(self) -> None:
        spread = self._n * self._uu - self._u * self._u
        if spread < _LEAST_SPREAD * self._n * self._n:
            # All runs had about as many rows, so only the cost of such a run is known.
            if not self._per_row:
                self._base = self._t / self._n
            return
        base = (self._n * self._yu - self._u * self._y) / spread
        per_row = (self._y - base * self._u) / self._n
        self._per_row, self._base = max(0.0, per_row), max(0.0, base)
        self._pays = per_row <= 0 or base >= LEAST_SHARE * (base + per_row)
