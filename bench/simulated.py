"""Simulates thousands of random rollouts at once, and finds when the product's verdict would have accused the canary.

The product judges counts (`rollout/decide/verdict.py`). Here the same E-process is looked up in tables made by
`table`, or in boundaries made by `log_e` itself, with thresholds from the plan;
tests/bench/test_rollout_bench.py compares both with `judge`, event by event.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from roadworthy.statistics.e_process import log_e, log_e_over, log_e_under, tolerated_share

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Counts = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Stretch:
    """One segment of many rollouts at once.

    Attributes:
        share: the canary's. events: bad events of both versions, shape (runs,).
        part: the probability that an event is the canary's; the share itself when the versions are equal.
    """

    share: float
    events: Counts
    part: float


@cache
def table(most: int, share: float, ratio: float) -> Floats:
    """log_e for all counts up to `most` at once, shape (most + 1, most + 1): [n, k], NaN for k > n.

    Uses the recurrence E(k, n) (n - k + 1) = 1 + o k/(n - k + 2) E(k - 1, n) (n - k + 2) with o = (1 - rho')/rho', whose
    terms are positive: it shares no formula with `log_e`, and a test compares the two.
    """
    rho = tolerated_share(share, ratio)
    n = np.arange(most + 1, dtype=np.float64)
    logs_of = np.full((most + 1, most + 1), np.nan)
    logs = np.zeros(most + 1)
    for k in range(most + 1):
        if k:
            logs[k:] = np.logaddexp(0.0, np.log(k / (n[k:] - k + 2.0) * (1.0 - rho) / rho) + logs[k:])
        logs_of[k:, k] = logs[k:] - np.log(n[k:] - k + 1.0)
    return logs_of


def peaks(rng: np.random.Generator, stretches: Sequence[Stretch], ratio: float) -> Floats:
    """The largest ln E of each run, evaluated after every event of every segment, shape (runs,)."""
    runs = len(stretches[0].events)
    highest, before = np.zeros(runs), np.zeros(runs)
    for stretch in stretches:
        most = int(stretch.events.max(initial=0))
        log_es = table(1 << max(most, 1).bit_length(), stretch.share, ratio)
        k, now = np.zeros(runs, dtype=np.int64), np.zeros(runs)
        for n in range(1, most + 1):
            going = n <= stretch.events
            k += (rng.random(runs) < stretch.part) & going
            now = np.where(going, log_es[n, np.minimum(k, n)], now)
            np.maximum(highest, before + now, out=highest)
        before += now
    return highest


@cache
def boundary(most: int, share: float, ratio: float, threshold: float) -> Counts:
    """For each number n of events up to `most`, the fewest canary events that accuse it; n + 1 if no number does."""
    return _boundary(lambda k, n: log_e(k, n, share, ratio), most, threshold)


@cache
def boundary_of_limit(most: int, limit: float, threshold: float) -> Counts:
    """For each number of samples, the fewest bad ones that are over the limit."""
    return _boundary(lambda k, n: log_e_over(k, n, limit), most, threshold)


def _boundary(evidence: Any, most: int, threshold: float) -> Counts:
    found, k = np.ones(most + 1, dtype=np.int64), 0
    for n in range(1, most + 1):
        while k <= n and evidence(k, n) < threshold:
            k += 1
        found[n] = k
    return found


def accused(canary: Bools, share: float, ratio: float = 1.0, alpha: float = 0.01) -> Bools:
    """Which runs are accused at any look. `canary`: whether each event is the canary's, in order, shape (runs, events)."""
    limits = boundary(canary.shape[1], share, ratio, -math.log(alpha))[1:]
    return np.asarray((canary.cumsum(axis=1, dtype=np.int32) >= limits).any(axis=1))


def accused_of(canary: Bools, counted: Bools, share: float, alpha: float = 0.01) -> Bools:
    """As `accused`, but counts only the events with `counted`."""
    most = canary.shape[1]
    limits = boundary(most, share, 1.0, -math.log(alpha))
    n = counted.cumsum(axis=1, dtype=np.int32)
    k = (canary & counted).cumsum(axis=1, dtype=np.int32)
    return np.asarray(((k >= limits[n]) & (n > 0)).any(axis=1))


def requests_until_shown(
    rng: np.random.Generator, rate: float, limit: float, samples: tuple[int, int], runs: int, beta: float = 0.05
) -> Floats:
    """The sample at which each run is shown to be below `limit`, shape (runs,); infinite if the maximum is not enough.

    Args:
        rate: of bad samples. samples: the required minimum, and the maximum that is drawn.
    """
    least, most = samples
    fewest, k = np.full(most + 1, -1, dtype=np.int64), -1
    for n in range(1, most + 1):
        while k < n - 1 and log_e_under(k + 1, n, limit) >= -math.log(beta):
            k += 1
        fewest[n] = k
    found = np.full(runs, np.inf)
    for first in range(0, runs, 500):
        bad = (rng.random((min(500, runs - first), most), dtype=np.float32) < rate).cumsum(axis=1, dtype=np.int32)
        shown = bad <= fewest[1:]
        shown[:, : least - 1] = False
        found[first : first + 500] = np.where(shown.any(axis=1), shown.argmax(axis=1) + 1.0, np.inf)
    return found


def part_of(share: float, stable_rate: float, canary_rate: float) -> float:
    """The canary's fraction of the bad events, from the rates of both."""
    return share * canary_rate / (share * canary_rate + (1 - share) * stable_rate)


def canary_requests_until_accused(
    rng: np.random.Generator, rates: tuple[float, float], share: float, ratio: float, alpha: float, runs: int
) -> Floats:
    """The number of canary requests until it was accused, shape (runs,); infinite if that takes over 2,000 events.

    Args:
        rates: of bad events, the stable's and the canary's.
    """
    most, found = 2_000, np.full(runs, np.inf)
    limits = boundary(most, share, ratio, -math.log(alpha))
    part = part_of(share, *rates)
    bad = share * rates[1] + (1 - share) * rates[0]
    good_part = share * (1 - rates[1]) / (1 - bad)
    k, requests = np.zeros(runs, dtype=np.int64), np.zeros(runs, dtype=np.int64)
    for n in range(1, most + 1):
        mine = rng.random(runs) < part
        requests += rng.binomial(rng.geometric(bad, runs) - 1, good_part) + mine
        k += mine
        first = (k >= limits[n]) & np.isinf(found)
        found[first] = requests[first]
        if not np.isinf(found).any():
            break
    return found
