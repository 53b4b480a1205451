"""The times of one version's runs. A rollout derives from them what "slow" means, and judges each request by its run."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, MutableSequence, Sequence

from roadworthy.contract.telemetry import RUN_TIME_BOUNDS_US

BINS = len(RUN_TIME_BOUNDS_US) + 1
WARM_UP_RUNS = 20
"""The first runs of a version in a process allocate and compile, so their times say nothing about the version."""


class RunTimes:
    """A histogram of run times, in cells that outlive the process if `keep_in` names some. Event loop only.

    Attributes:
        last_us: microseconds of the last run, valid while its requests are being settled; -1 during warm-up.
        warming: number of warm-up runs that are left; they are not counted.
        on_thread: called with 1 when a run on a thread begins, and with -1 when it has ended, which may be after the deadlines of
            its requests. `serving/metrics.py` sets it.
    """

    __slots__ = ("_cells", "_values", "last_us", "on_thread", "warming")

    def __init__(self) -> None:
        self._values: MutableSequence[int] | memoryview[int] = [0] * BINS
        self._cells: Sequence[int] = range(BINS)
        self.last_us = -1
        self.warming = WARM_UP_RUNS
        self.on_thread: Callable[[int], None] = lambda _: None

    def keep_in(self, values: memoryview[int], cells: Sequence[int]) -> None:
        """Count in `values` from now on; `cells` has the index of each bin."""
        self._values = values
        self._cells = cells

    def ran(self, seconds: float, requests: int) -> None:
        """Count a run that answered `requests` requests."""
        if self.warming:
            self.warming -= 1
            self.last_us = -1
            return
        self.last_us = took_us = int(seconds * 1e6)
        self._values[self._cells[bisect_left(RUN_TIME_BOUNDS_US, took_us)]] += requests
