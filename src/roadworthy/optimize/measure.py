"""Measures the speed of one runtime relative to another: calls alternate, and medians are compared. Used at pack time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from roadworthy.schema.batch import Batch

Run = Callable[[Batch], Batch]

_BUDGET_S = 0.4
_LEAST_REPEATS = 5
_MOST_REPEATS = 201


def speedup(original: Run, candidate: Run, batch: Batch) -> float:
    """The speed of `candidate` on `batch`, relative to `original`.

    Calls alternate for about half a second per runtime, so that a busy machine slows both equally. The first call of each is
    not measured.
    """
    original(batch)
    candidate(batch)
    slow = [_time(original, batch)]
    repeats = max(_LEAST_REPEATS, min(_MOST_REPEATS, int(_BUDGET_S / max(slow[0], 1e-6))))
    quick: list[float] = []
    for _ in range(repeats):
        quick.append(_time(candidate, batch))
        slow.append(_time(original, batch))
    return statistics.median(slow) / max(statistics.median(quick), 1e-9)


def _time(run: Run, batch: Batch) -> float:
    begun = time.perf_counter()
    run(batch)
    return time.perf_counter() - begun
