"""Intervals for rates and means that hold at any number of looks (confidence sequences).

A 1 - alpha confidence sequence covers the truth at every sample size at once with probability at least 1 - alpha, so a report may
be read every minute and acted on at any time. The sequences here invert an E-process: they contain the values it has not refuted.
They need counts and sums only, which add up over processes, and not the order of the samples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from roadworthy.statistics.beta import log_beta, root
from roadworthy.statistics.e_process import log_e_under

MOST_BETA = 1.0 / math.e
"""The largest beta of a bound: for a larger one, the refuted rates need not be all the rates above a bound."""


_NEARLY_ONE = 1.0 - 1e-12
_MOST_STEPS = 200
_PRECISION = 1e-12


class Interval(NamedTuple):
    """From low to high, both included."""

    low: float
    high: float


class Sample(NamedTuple):
    """The statistics of one variant: the number of values and their sum."""

    values: int
    total: float


def upper_sequence(bad: int, samples: int, beta: float) -> float:
    """The upper bound of a rate, valid at every look: the smallest p that is refuted by

        E_p = 1/p * integral from 0 to p of (q/p)^k ((1 - q)/(1 - p))^(n - k) dq >= 1/beta,

    with k of n samples bad; 1 without samples. E_p is a uniform mixture of likelihood ratios against "the rate is p" (Robbins
    1970). While each sample is bad with probability at least p given the previous ones, it is a supermartingale that starts at 1;
    so P(the bound is ever below the true rate) <= beta (Ville 1939; confidence sequences by inversion: Howard et al. 2021). For a
    beta below 1/e, the refuted p are all the p above the bound: E_p >= e makes p larger than (k + 1)/(n + 1), and from there on
    E_p grows.

    The bound is for a rate that stays above or below p. If the rate drifts, it is not a bound for any particular rate.

    Raises:
        ValueError: impossible counts, or a beta that is not above 0 and at most 1/e.
    """
    if not 0 <= bad <= samples or not 0.0 < beta <= MOST_BETA:
        raise ValueError(f"impossible counts or beta: {bad} of {samples} at beta {beta}")
    aim = -math.log(beta)
    if bad == samples or log_e_under(bad, samples, _NEARLY_ONE) < aim:
        return 1.0
    low, high = (bad + 1.0) / (samples + 2.0), _NEARLY_ONE
    p = following = min((bad + 4.0 + 3.0 * math.sqrt(bad)) / (samples + 8.0), high)
    for _ in range(_MOST_STEPS):  # Newton's method, kept between a refuted and an unrefuted p
        log_e = log_e_under(bad, samples, p)
        low, high = (p, high) if log_e < aim else (low, p)
        slope = math.expm1(-log_e) / p - bad / p + (samples - bad) / (1.0 - p)
        following = p - (log_e - aim) / slope if slope > 0.0 else low
        following = following if low < following < high else 0.5 * (low + high)
        if abs(following - p) <= _PRECISION * p:
            break
        p = following
    return min(high, following * (1.0 + _PRECISION))


def mean_sequence(sample: Sample, alpha: float, low: float = 0.0, high: float = 1.0, weight: float = 1.0) -> Interval:
    """A confidence sequence for the mean of values between `low` and `high`; for a rate, count its events.

    With x scaled to 0..1, n values of sum s and a Beta(1/2, 1/2) mixture (Robbins 1970), m is refuted once

        ln B(s + 1/2, n - s + 1/2) - ln B(1/2, 1/2) - s ln m - (n - s) ln(1 - m) >= ln(1/alpha).

    Valid when each value has mean m given the previous ones, also for values strictly between 0 and 1: the likelihood ratio of a
    coin is convex in x, so a coin of the same mean is the worst case (Howard et al. 2021, sub-Bernoulli). It does not use the
    variance: bounds far wider than the values make it wide. If the mean drifts, it does not hold for any particular mean.

    Args:
        sample: n and s, unscaled. alpha: the probability of ever missing the mean.
        weight: weight of each value; 1/m if up to m of them may depend on each other, as those of one user do (Hölder's
            inequality: the product of their ratios to the power 1/m has a mean of at most 1).

    Raises:
        ValueError: a sum that is impossible for values between the bounds.
    """
    if not low < high:
        raise ValueError(f"expected bounds with low < high, got {low} and {high}")
    n, width = float(sample.values), high - low
    s = (sample.total - n * low) / width
    slack = 1e-9 * (1 + n)
    if not -slack <= s <= n + slack:
        raise ValueError(f"impossible sum: {sample.total} of {sample.values} values between {low} and {high}")
    s, n = min(max(s, 0.0), n) * weight, n * weight
    if n == 0:
        return Interval(low, high)
    mixture = log_beta(s + 0.5, n - s + 0.5) - log_beta(0.5, 0.5) + math.log(alpha)
    middle = s / n
    least = 0.0 if s == 0 else root(lambda m: _log_likelihood(s, n, m) - mixture, 0.0, middle)
    most = 1.0 if s == n else root(lambda m: mixture - _log_likelihood(s, n, m), middle, 1.0)
    return Interval(low + width * least, low + width * most)


def _log_likelihood(s: float, n: float, m: float) -> float:
    good = s * math.log(m) if m > 0.0 else (-math.inf if s else 0.0)
    return good + ((n - s) * math.log1p(-m) if m < 1.0 else (-math.inf if n > s else 0.0))


def difference_sequence(
    first: Sample, second: Sample, alpha: float, low: float = 0.0, high: float = 1.0, weight: float = 1.0
) -> Interval:
    """A confidence sequence for mean(second) - mean(first): each variant's own at alpha/2, subtracted. `weight` as there.

    Valid for any dependence between the variants, and whatever the looks and the share of traffic depend on; in return it is
    somewhat wider.
    """
    one, other = (mean_sequence(each, alpha / 2, low, high, weight) for each in (first, second))
    return Interval(other.low - one.high, other.high - one.low)
