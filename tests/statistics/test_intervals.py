"""Intervals: bounds compared with scipy, coverage at every sample size at once by simulation, and refused arguments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.guarantees import clopper_pearson_upper
from roadworthy.statistics.e_process import log_e_under
from roadworthy.statistics.intervals import (
    Interval,
    Sample,
    difference_sequence,
    mean_sequence,
    upper_sequence,
)


def test_a_mean_is_inside_at_every_sample_size_at_once() -> None:
    """2,000 runs of 2,000 values, evaluated at every power of 1.1: coins and bounded values, at 5 %."""
    rng = np.random.default_rng(7)
    looks = sorted({int(1.1**i) for i in range(10, 80)})
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
    """Four times the values at a quarter of the weight equal the values."""
    once, often = Sample(200, 130.0), Sample(800, 520.0)
    assert mean_sequence(often, 0.05, weight=0.25) == pytest.approx(mean_sequence(once, 0.05))
    assert difference_sequence(often, often, 0.05, 0.0, 2.0, 0.25) == pytest.approx(
        difference_sequence(once, once, 0.05, 0.0, 2.0)
    )
    assert mean_sequence(often, 0.05).low > mean_sequence(once, 0.05).low


def test_a_difference_is_found_when_there_is_one() -> None:
    """And not claimed otherwise."""
    assert difference_sequence(Sample(2_000, 200), Sample(2_000, 400), 0.05).low > 0.0
    same = difference_sequence(Sample(2_000, 200), Sample(2_000, 205), 0.05)
    assert same.low < 0.0 < same.high
    assert difference_sequence(Sample(0, 0), Sample(0, 0), 0.05) == (-1.0, 1.0)


def test_what_cannot_be_is_refused() -> None:
    """Sums beyond the bounds, reversed bounds, more bad samples than samples."""
    with pytest.raises(ValueError, match="impossible sum"):
        mean_sequence(Sample(3, 4.0), 0.05)
    with pytest.raises(ValueError, match="low < high"):
        mean_sequence(Sample(3, 1.0), 0.05, 1.0, 1.0)
    with pytest.raises(ValueError, match="impossible counts"):
        upper_sequence(3, 2, 0.05)


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(0, 4_000), st.sampled_from([1e-6, 0.01, 0.05, 0.2]))
def test_the_upper_bound_is_the_smallest_rate_that_is_refuted(bad: int, good: int, miss: float) -> None:
    """Rates above it are refuted, rates below are not, and the observed rate never is."""
    samples = bad + good
    bound = upper_sequence(bad, samples, miss)
    assert (bad / samples if samples else 0.0) < bound <= 1.0 or bad == samples
    for part in (0.001, 0.1, 0.5, 0.9):
        above = bound + (1.0 - bound) * part
        assert above >= 1.0 or log_e_under(bad, samples, above) >= -math.log(miss)
        below = bound * (1.0 - part)
        assert log_e_under(bad, samples, below) < -math.log(miss)


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(1, 3_000), st.floats(1e-5, 0.19))
def test_the_upper_bound_is_monotone(bad: int, good: int, miss: float) -> None:
    """One more bad sample raises it; one more good sample and a larger beta lower it."""
    bound = upper_sequence(bad, bad + good, miss)
    assert upper_sequence(bad + 1, bad + good + 1, miss) >= bound
    assert upper_sequence(bad + 1, bad + good, miss) >= bound
    assert upper_sequence(bad, bad + good + 1, miss) <= bound
    assert upper_sequence(bad, bad + good, 1.05 * miss) <= bound


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 2_000), st.floats(0.001, 0.999))
def test_the_mixture_of_the_bound_is_the_integral_that_it_says(bad: int, good: int, p: float) -> None:
    """Against numerical integration of the likelihood ratio over (0, p)."""
    samples = bad + good
    q = (np.arange(20_000) + 0.5) * (p / 20_000)
    ratios = bad * np.log(q / p) + good * (np.log1p(-q) - np.log1p(-p))
    most = float(ratios.max())
    expected = most + math.log(float(np.exp(ratios - most).mean()))
    assert log_e_under(bad, samples, p) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(("rate", "miss"), [(0.01, 0.05), (0.05, 0.05), (0.3, 0.2)])
def test_the_upper_bound_covers_at_every_look(rate: float, miss: float) -> None:
    """2,000 sequences of 2,000 samples with exactly that rate: at any look, the bound is below it in at most the fraction that
    beta allows; and it does happen, so the check is effective."""
    runs, samples = 2_000, 2_000
    bad = (np.random.default_rng(20261121).random((runs, samples)) < rate).cumsum(axis=1)
    fewest = _boundary_of_bound(rate, samples, miss)
    missed = int((bad <= fewest[None, :]).any(axis=1).sum())
    assert missed > 0
    assert clopper_pearson_upper(missed, runs) <= miss


@pytest.mark.parametrize(("rate", "limit", "median"), [(0.01, 0.05, 137), (0.05, 0.09375, 232)])
def test_an_equal_version_is_shown_to_be_under_the_limit_in_so_many_requests(rate: float, limit: float, median: float) -> None:
    """As in docs/rollouts.md: after at least 100, and half of the versions by that number, within a tenth."""
    samples = 4_000
    bad = (np.random.default_rng(20261121).random((4_000, samples)) < rate).cumsum(axis=1)
    shown = bad <= _boundary_of_bound(limit, samples, 0.05)[None, :]
    shown[:, :99] = False
    assert float(np.median(shown.argmax(axis=1) + 1)) == pytest.approx(median, rel=0.1)


def _boundary_of_bound(limit: float, samples: int, miss: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """For each number of samples, from 1: the largest number of bad ones with a bound of at most `limit`, or -1."""
    found, most = [], -1
    for n in range(1, samples + 1):
        while most < n - 1 and log_e_under(most + 1, n, limit) >= -math.log(miss):
            most += 1
        found.append(most)
    return np.array(found)


def test_the_bound_refuses_what_cannot_be() -> None:
    """Impossible counts, and a beta for which it would not be a bound."""
    assert upper_sequence(0, 0, 0.05) == 1.0
    assert upper_sequence(7, 7, 0.05) == 1.0
    for bad, samples, miss in ((3, 2, 0.05), (-1, 2, 0.05), (0, 2, 0.0), (0, 2, 0.5)):
        with pytest.raises(ValueError, match="impossible counts"):
            upper_sequence(bad, samples, miss)
