"""The E-process: exact fractions, laws as properties, and its guarantee by simulation, compared with a naive test."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from bench.simulated import table as log_e_table
from roadworthy.statistics.e_process import (
    Split,
    always_valid_p,
    log_e,
    log_e_not_worse,
    log_e_not_worse_of,
    log_e_of,
    log_e_other_share,
    log_e_over,
    tolerated_share,
)

SHARES = st.sampled_from([0.0001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.99])
RATIOS = st.sampled_from([0.5, 1.0, 1.25, 2.0])
COUNTS = st.integers(0, 2_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def exact(k: int, n: int, rho: Fraction) -> float:
    """ln E as a sum of positive fractions (integration by parts of the definition), exactly."""
    term = total = Fraction(1)
    for j in range(k, 0, -1):
        term *= Fraction(j, n + 2 - j) * (1 - rho) / rho
        total += term
    value = total / (n - k + 1)
    return math.log(value.numerator) - math.log(value.denominator)


@pytest.mark.parametrize("rho", [Fraction(1, 1_024), Fraction(1, 16), Fraction(1, 8), Fraction(1, 2), Fraction(15, 16)])
def test_it_equals_exact_fractions(rho: Fraction) -> None:
    """All counts up to 20 and some up to 300, where ln E goes from -6 to over 1,000."""
    counts = [(k, n) for n in range(21) for k in range(n + 1)]
    counts += [(k, n) for n in (60, 300) for k in (0, 1, n // 16, n // 8, n // 2, n - 1, n)]
    for k, n in counts:
        assert log_e(k, n, float(rho)) == pytest.approx(exact(k, n, rho), rel=1e-11, abs=1e-12), (k, n)


def test_it_is_the_integral_of_its_definition() -> None:
    """The mixture of the docstring, by quadrature."""
    for k, n, share, ratio in [(0, 0, 0.1, 1.0), (3, 10, 0.1, 1.25), (1, 30, 0.5, 1.0), (12, 14, 0.25, 2.0)]:
        rho = tolerated_share(share, ratio)
        value, _ = quad(lambda q: (q / rho) ** k * ((1 - q) / (1 - rho)) ** (n - k), rho, 1)  # noqa: B023
        assert log_e(k, n, share, ratio) == pytest.approx(math.log(value / (1 - rho)), abs=1e-7)


def test_known_figures() -> None:
    """Those in docs/rollouts.md: a canary that fails everything, and a single failure with 1 % allowed."""
    assert math.exp(log_e(3, 3, 0.1)) == pytest.approx(277.75)
    assert math.exp(log_e(3, 3, 0.05)) == pytest.approx(2_105, abs=1)
    assert math.exp(log_e_over(1, 1, 0.01)) == pytest.approx(50.5)
    assert math.exp(log_e_over(2, 2, 0.01)) == pytest.approx(3_367, abs=1)
    assert tolerated_share(0.1, 1.0) == pytest.approx(0.1)
    assert tolerated_share(0.5, 1.5) == pytest.approx(0.6)


@settings(deadline=None)
@given(COUNTS, SHARES, RATIOS)
def test_more_bad_events_of_the_canary_are_more_evidence(counts: tuple[int, int], share: float, ratio: float) -> None:
    """One more canary event raises E, one more stable event lowers it; a higher tolerance lowers it, too."""
    k, n = counts
    here = log_e(k, n, share, ratio)
    assert log_e(k + 1, n + 1, share, ratio) > here
    assert log_e(k, n + 1, share, ratio) < here
    if k:
        assert log_e(k, n, share, ratio * 1.5) < here + 1e-9


@settings(deadline=None)
@given(COUNTS, SHARES, RATIOS)
def test_one_step_is_fair_at_the_edge_of_the_null(counts: tuple[int, int], share: float, ratio: float) -> None:
    """At exactly the tolerated ratio, the expected E after one more event equals E, as Ville's inequality requires."""
    k, n = counts
    rho = tolerated_share(share, ratio)
    here = log_e(k, n, share, ratio)
    after = np.logaddexp(math.log(rho) + log_e(k + 1, n + 1, share, ratio), math.log1p(-rho) + log_e(k, n + 1, share, ratio))
    assert after == pytest.approx(here, abs=1e-8)


@settings(deadline=None)
@given(st.lists(st.tuples(COUNTS, SHARES), max_size=5), RATIOS)
def test_segments_multiply(parts: list[tuple[tuple[int, int], float]], ratio: float) -> None:
    """In any order; a segment with a share of 0 or 1 has no effect."""
    splits = [Split(k, n, share) for (k, n), share in parts]
    total = sum(log_e(each.bad, each.events, each.share, ratio) for each in splits)
    assert log_e_of([*splits, Split(9, 9, 1.0), Split(0, 5, 0.0)], ratio) == pytest.approx(total, abs=1e-9)
    assert log_e_of(reversed(splits), ratio) == log_e_of(splits, ratio)
    mirrored = sum(log_e_not_worse(each.bad, each.events, each.share, ratio) for each in splits)
    assert log_e_not_worse_of([*splits, Split(0, 7, 1.0)], ratio) == pytest.approx(mirrored, abs=1e-9)


@settings(deadline=None)
@given(COUNTS, SHARES)
def test_the_mirror_swaps_the_versions(counts: tuple[int, int], share: float) -> None:
    """Not worse with ratio 1 is worse with the variants exchanged; no counts are strong evidence for both."""
    k, n = counts
    mirrored = log_e_not_worse(k, n, share, 1.0)
    assert mirrored == pytest.approx(log_e(n - k, n, 1 - share), abs=1e-7)
    assert min(mirrored, log_e(k, n, share)) < math.log(4)


def test_the_table_of_simulations_is_the_same_function() -> None:
    """Its recurrence, which shares nothing with `log_e`, agrees for every pair of counts."""
    for share, ratio in ((0.05, 1.0), (0.1, 1.25), (0.5, 2.0)):
        table = log_e_table(300, share, ratio)
        assert np.isnan(table[10, 11])
        for n in range(0, 301, 3):
            for k in range(n + 1):
                assert table[n, k] == pytest.approx(log_e(k, n, share, ratio), abs=1e-9), (k, n)


def test_a_million_events_keep_their_digits() -> None:
    """Neighbouring counts differ by the posterior mean of q / rho, which the closed form must still resolve."""
    k, n, share = 100_500, 1_000_000, 0.1
    step = log_e(k + 1, n + 1, share) - log_e(k, n, share)
    assert 0.0 < step < 0.02
    assert log_e(k, n, share) == pytest.approx(log_e_table_entry(k, n, share), abs=1e-6)


def log_e_table_entry(k: int, n: int, rho: float) -> float:
    """One entry by summing the terms in logarithms."""
    j = np.arange(k, 0, -1, dtype=np.float64)
    terms = np.concatenate([[0.0], np.cumsum(np.log(j / (n + 2 - j) * (1 - rho) / rho))])
    return float(np.logaddexp.reduce(terms) - math.log(n - k + 1))


def test_an_equal_version_is_accused_as_rarely_as_guaranteed_and_by_a_naive_test_far_more_often() -> None:
    """10,000 runs of 1,000 bad events, evaluated after each: at most alpha. The same check catches a z-test at 5 %."""
    runs, events, share = 10_000, 1_000, 0.1
    k = (np.random.default_rng(20261121).random((runs, events)) < share).cumsum(axis=1, dtype=np.int32)
    n = np.arange(1, events + 1)
    table = log_e_table(events, share, 1.0)
    peaks = np.maximum.reduce([table[i + 1, k[:, i]] for i in range(events)])
    for alpha in (0.05, 0.01):
        assert 0.1 * alpha < float((peaks >= math.log(1 / alpha)).mean()) <= alpha
    z = (k - n * share) / np.sqrt(n * share * (1 - share))
    assert float((z[:, 20:] > 1.645).any(axis=1).mean()) > 0.25


@settings(deadline=None)
@given(COUNTS, SHARES)
def test_one_draw_at_the_set_share_is_fair(counts: tuple[int, int], share: float) -> None:
    """The expected E of the share after one more draw equals E."""
    k, n = counts
    after = np.logaddexp(
        math.log(share) + log_e_other_share(k + 1, n + 1, share),
        math.log1p(-share) + log_e_other_share(k, n + 1, share),
    )
    assert after == pytest.approx(log_e_other_share(k, n, share), abs=1e-8)


def test_the_share_is_tested_on_both_sides() -> None:
    """By definition, Beta(k + 1, n - k + 1) over the probability of these draws, which is symmetric in the variants."""
    assert math.exp(log_e_other_share(3, 4, 0.5)) == pytest.approx(2**4 / (5 * 4))
    assert log_e_other_share(900, 1_000, 0.7) == pytest.approx(log_e_other_share(100, 1_000, 0.3))
    assert log_e_other_share(60, 1_000, 0.1) > 0.0 < log_e_other_share(140, 1_000, 0.1)
    assert log_e_other_share(100, 1_000, 0.1) < -3.0


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_draws_as_set_are_hardly_ever_held_and_others_soon(share: float) -> None:
    """10,000 runs of 10,000 draws, evaluated after each against E = 10,000; a share off by half is always found."""
    requests, runs, bound = 10_000, 500, math.log(10_000)
    low, high = [-1], [1]
    for n in range(1, requests + 1):  # both bounds move by at most one per draw
        low.append(low[-1] + (log_e_other_share(low[-1] + 1, n, share) >= bound and low[-1] + 1 < share * n))
        high.append(min(high[-1], n + 1))
        while high[-1] <= n and log_e_other_share(high[-1], n, share) < bound:
            high[-1] += 1
    rng = np.random.default_rng(20261121)

    def held(probability: float) -> int:
        k = (rng.random((runs, requests), dtype=np.float32) < probability).cumsum(axis=1, dtype=np.int32)
        return int(((k <= low[1:]) | (k >= high[1:])).any(axis=1).sum())

    assert sum(held(share) for _ in range(20)) <= 1
    assert held(1.5 * share) == held(0.5 * share) == runs


def test_always_valid_p() -> None:
    """1 until there is evidence against the version, then 1 / E."""
    assert always_valid_p(-3.0) == 1.0
    assert always_valid_p(math.log(200)) == pytest.approx(0.005)


@pytest.mark.parametrize("arguments", [(3, 2, 0.1, 1.0), (-1, 2, 0.1, 1.0), (1, 2, 0.0, 1.0), (1, 2, 1.0, 1.0), (1, 2, 0.1, 0.0)])
def test_what_cannot_be_compared_is_refused(arguments: tuple[int, int, float, float]) -> None:
    """Impossible arguments raise an error instead of giving a number."""
    with pytest.raises(ValueError, match=r"impossible counts|expected a share"):
        log_e(*arguments)
