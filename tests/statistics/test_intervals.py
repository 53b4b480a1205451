"""Intervals: bounds against scipy, coverage at every sample size at once by simulation, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from roadworthy.statistics.intervals import (
    Interval,
    Sample,
    clopper_pearson_lower,
    clopper_pearson_upper,
    difference_sequence,
    mean_sequence,
    rate_ratio_sequence,
    rule_of_three,
)


@settings(deadline=None)
@given(
    st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.9, 0.95, 0.999])
)
def test_clopper_pearson_is_the_quantile_of_a_beta(counts: tuple[int, int], confidence: float) -> None:
    """Both bounds, as scipy has them; 0 and 1 at the ends."""
    k, n = counts
    upper, lower = clopper_pearson_upper(k, n, confidence), clopper_pearson_lower(k, n, confidence)
    assert upper == pytest.approx(1.0 if k == n else float(beta.ppf(confidence, k + 1, n - k)), rel=1e-7)
    assert lower == pytest.approx(0.0 if k == 0 else float(beta.ppf(1 - confidence, k, n - k + 1)), rel=1e-7)
    assert lower <= (k / n if n else 1) <= upper


@pytest.mark.parametrize("samples", [300, 3_000])
def test_the_rule_of_three(samples: int) -> None:
    """300 clean requests bound the rate by 1 %, 3,000 by 0.1 %, as Clopper and Pearson do within 1 %."""
    assert rule_of_three(samples) == pytest.approx(3 / samples)
    assert rule_of_three(samples) == pytest.approx(clopper_pearson_upper(0, samples), rel=0.01)
    assert rule_of_three(0) == rule_of_three(3) == 1.0


def test_a_mean_is_inside_at_every_sample_size_at_once() -> None:
    """2,000 runs of 2,000 values, looked at at every power of 1.05: coins and bounded values alike, at 5 %."""
    rng = np.random.default_rng(7)
    looks = sorted({int(1.05**i) for i in range(20, 157)})
    runs = 1_000
    for draw, mean in (
        (lambda: rng.random((runs, looks[-1])) < 0.03, 0.03),
        (lambda: rng.beta(0.3, 0.3, (runs, looks[-1])), 0.5),
    ):
        sums = draw().cumsum(axis=1)
        missed = np.zeros(runs, dtype=bool)
        for n in looks:
            totals, place = np.unique(np.round(sums[:, n - 1], 2), return_inverse=True)
            outside = [not _covers(mean_sequence(Sample(n, float(total)), 0.05), mean) for total in totals]
            missed |= np.asarray(outside)[place]
        assert float(missed.mean()) <= 0.05


def _covers(interval: Interval, value: float) -> bool:
    return interval.low <= value <= interval.high


@settings(deadline=None)
@given(st.integers(0, 3_000), st.floats(0, 1), st.sampled_from([0.5, 0.05, 0.001]))
def test_a_mean_lies_inside_its_own_interval(count: int, mean: float, alpha: float) -> None:
    """Within the bounds; a smaller alpha widens it; scaling scales it."""
    sample = Sample(count, count * mean)
    interval = mean_sequence(sample, alpha)
    assert 0.0 <= interval.low <= interval.high <= 1.0
    if count:
        assert interval.low - 1e-9 <= mean <= interval.high + 1e-9
    wider = mean_sequence(sample, alpha / 10)
    assert wider.low <= interval.low + 1e-12
    assert interval.high <= wider.high + 1e-12
    scaled = mean_sequence(Sample(count, count * (10 + 40 * mean)), alpha, 10.0, 50.0)
    assert scaled == pytest.approx((10 + 40 * interval.low, 10 + 40 * interval.high), abs=1e-5)


def test_a_user_who_is_counted_several_times_is_one() -> None:
    """Four times the values at a quarter of the weight are no more than the values."""
    once, often = Sample(200, 130.0), Sample(800, 520.0)
    assert mean_sequence(often, 0.05, weight=0.25) == pytest.approx(mean_sequence(once, 0.05))
    assert difference_sequence(often, often, 0.05, 0.0, 2.0, 0.25) == pytest.approx(
        difference_sequence(once, once, 0.05, 0.0, 2.0)
    )
    assert mean_sequence(often, 0.05).low > mean_sequence(once, 0.05).low


def test_a_difference_is_found_when_there_is_one() -> None:
    """And not claimed when there is none."""
    assert difference_sequence(Sample(2_000, 200), Sample(2_000, 400), 0.05).low > 0.0
    same = difference_sequence(Sample(2_000, 200), Sample(2_000, 205), 0.05)
    assert same.low < 0.0 < same.high
    assert difference_sequence(Sample(0, 0), Sample(0, 0), 0.05) == (-1.0, 1.0)


def test_a_ratio_of_rates() -> None:
    """30 of 100 bad events at a share of 10 %: between 2 and 8 times the stable's rate, 3.9 at best."""
    interval = rate_ratio_sequence(30, 100, 0.1, 0.05)
    assert 1.5 < interval.low < 30 / 70 * 9 < interval.high < 9
    assert rate_ratio_sequence(0, 0, 0.1, 0.05) == (0.0, math.inf)


def test_what_cannot_be_is_refused() -> None:
    """Sums beyond the bounds, bounds the wrong way round, more bad ones than there are."""
    with pytest.raises(ValueError, match="cannot add up"):
        mean_sequence(Sample(3, 4.0), 0.05)
    with pytest.raises(ValueError, match="cannot lie between"):
        mean_sequence(Sample(3, 1.0), 0.05, 1.0, 1.0)
    for bound in (clopper_pearson_upper, clopper_pearson_lower):
        with pytest.raises(ValueError, match="cannot be"):
            bound(3, 2)
