"""Estimates the samples needed to show that a healthy version is healthy: `e_process.py` at the expected counts.

`warnings.py` uses them to predict the duration of a plan. The number of bad events is assumed to equal its expectation at every
moment. Real numbers vary, and a test ends at the first favourable moment, so most equal versions need fewer samples: the estimate
is 157 for a median of 134, and 307 for a median of 211.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from roadworthy.statistics.e_process import log_e_not_worse, log_e_under

MOST_SAMPLES = 1 << 40
"""A test that needs more samples counts as endless."""


def samples_until_under(rate: float, limit: float, beta: float) -> float:
    """Samples of one version, `rate` of them bad, until it is shown to be below `limit`; infinite if it never is."""
    if rate >= limit:
        return math.inf
    return _first(lambda n: log_e_under(rate * n, n, limit) + math.log(beta))


def samples_until_not_worse(rate: float, share: float, ratio: float, beta: float) -> float:
    """The canary's samples until it is shown to be below `ratio` times the stable's rate, if both versions have `rate`.

    Args:
        share: the canary's share of requests, above 0 and below 1.
    """
    if rate <= 0.0 or ratio <= 1.0:
        return math.inf
    return _first(lambda n: log_e_not_worse(rate * n, rate * n / share, share, ratio) + math.log(beta))


def _first(evidence: Callable[[float], float]) -> float:
    """The smallest number of samples with enough evidence, which grows with the samples."""
    low, high = 0, 1
    while evidence(float(high)) < 0.0:
        low, high = high, 2 * high
        if high > MOST_SAMPLES:
            return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if evidence(float(middle)) < 0.0 else (low, middle)
    return float(high)
