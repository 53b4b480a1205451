"""Estimates of the time until evidence suffices, compared with the medians of simulated paths."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.statistics.e_process import log_e_not_worse
from roadworthy.statistics.intervals import upper_sequence
from roadworthy.statistics.waiting import samples_until_not_worse, samples_until_under


def test_the_figures_of_the_docs() -> None:
    """The figures in docs/rollouts.md."""
    found = [samples_until_under(*each, 0.05) for each in ((0.0, 0.05), (0.01, 0.05), (0.05, 0.09375), (0.0, 0.01))]
    assert found == [88, 157, 307, 449]


@settings(deadline=None)
@given(st.floats(1e-4, 0.5), st.floats(1e-5, 0.19))
def test_clean_samples_show_it_when_the_estimate_says(limit: float, beta: float) -> None:
    """Without bad samples the estimate is exact: shown at that number, and not earlier."""
    samples = int(samples_until_under(0.0, limit, beta))
    assert upper_sequence(0, samples, beta) <= limit * (1 + 1e-9)
    assert samples == 1 or upper_sequence(0, samples - 1, beta) > limit * (1 - 1e-9)


def test_what_never_comes_is_infinite() -> None:
    """A rate that is not below the limit, and a comparison without bad events or without tolerance."""
    assert samples_until_under(0.05, 0.05, 0.05) == math.inf
    assert samples_until_not_worse(0.0, 0.1, 1.5, 0.05) == math.inf
    assert samples_until_not_worse(0.01, 0.1, 1.0, 0.05) == math.inf


@pytest.mark.parametrize(("share", "ratio"), [(0.05, 1.875), (0.5, 1.5)])
def test_the_comparison_takes_about_as_long_as_estimated(share: float, ratio: float) -> None:
    """Half of the simulated equal versions have passed by the estimate, and not all of them long before it."""
    rate, runs = 0.05, 300
    estimate = samples_until_not_worse(rate, share, ratio, 0.05)
    most = int(1.5 * estimate * rate / share)
    mine = (np.random.default_rng(5).random((runs, most)) < share).cumsum(axis=1)
    fewest, k = [], -1
    for n in range(1, most + 1):
        while k < n - 1 and log_e_not_worse(k + 1, n, share, ratio) >= math.log(20.0):
            k += 1
        fewest.append(k)
    passed = (mine <= np.array(fewest)).argmax(axis=1) * share / rate
    assert 0.4 * estimate < float(np.median(passed)) < 1.1 * estimate
