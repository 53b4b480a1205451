"""How many samples it takes to show that a version is well, when it is: estimates of `e_process.py` at expected counts.

`warnings.py` tells people by these what to expect of a plan. The number of bad events is taken to be the expected one at
every moment; real ones vary, and a path that is lucky for a moment is over, so that most equal versions take less: 157 samples
are estimated where the median is 134, 307 where it is 211.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from roadworthy.statistics.e_process import log_e_not_worse, log_e_under

MOST_SAMPLES = 1 << 40
"""What takes more than these takes for ever."""


def samples_until_under(rate: float, limit: float, beta: float) -> float:
    """Samples of one version until it is shown to be under `limit` where `rate` of them is bad; infinite where it never is."""
    if rate >= limit:
        return math.inf
    return _first(lambda n: log_e_under(rate * n, n, limit) + math.log(beta))


def samples_until_not_worse(rate: float, share: float, ratio: float, beta: float) -> float:
    """The canary's samples until it is shown to be under `ratio` times the stable's rate, where `rate` is both versions'.

    Args:
        share: of the requests that are the canary's, over 0 and under 1.
    """
    if rate <= 0.0 or ratio <= 1.0:
        return math.inf
    return _first(lambda n: log_e_not_worse(rate * n, rate * n / share, share, ratio) + math.log(beta))


def _first(evidence: Callable[[float], float]) -> float:
    """The fewest samples at which it is enough; it grows with them."""
    low, high = 0, 1
    while evidence(float(high)) < 0.0:
        low, high = high, 2 * high
        if high > MOST_SAMPLES:
            return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if evidence(float(middle)) < 0.0 else (low, middle)
    return float(high)
