"""How much faster one runtime is than another: both asked in turns, medians compared. Called by `compile.py` at pack time."""

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
    """How many times faster `candidate` answers `batch`.

    Both take turns within about half a second each, so that a busy machine slows both alike. One call of each comes first,
    unmeasured.
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
